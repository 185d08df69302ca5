"""Copies of modules of any kind: compiled, TorchScript, pruned, or with parts that cannot be copied."""

import copy
import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.jit import ScriptModule

from dre.models.outputs import first_line


class BlackBox(nn.Module):
    """Run a TorchScript module, in which no hook and no function mode sees anything.

    Args:
        script: Scripted or traced.
    """

    def __init__(self, script: ScriptModule) -> None:
        super().__init__()
        self.script = script

    def forward(self, images: Tensor) -> Tensor:
        """Return what the script returns."""
        result: Tensor = self.script(images)
        return result

    def named_modules(
        self, memo: set[nn.Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Module]]:
        """Yield this module alone."""
        yield prefix, self

    def named_children(self) -> Iterator[tuple[str, nn.Module]]:
        """Yield nothing."""
        yield from ()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self.script._apply(fn)  # type: ignore[no-untyped-call]
        return self

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the parameters of the script."""
        yield from self.script.named_parameters(prefix, recurse)


def original(module: nn.Module) -> nn.Module:
    """Return the module that `torch.compile` was given, or the module itself."""
    while isinstance(inner := getattr(module, "_orig_mod", None), nn.Module):
        module = inner
    return module


def name_of(module: nn.Module) -> str:
    """Return the name of a module's class, that of what was compiled or scripted."""
    module = original(module)
    return str(getattr(module, "original_name", type(module).__name__))


def own_copy(module: nn.Module) -> nn.Module:
    """Return a copy of a module without compilation; a TorchScript module is copied into a `BlackBox`."""
    module = original(module)
    if isinstance(module, ScriptModule):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # that TorchScript is deprecated is the caller's to know
            torch.jit.save(module, file := io.BytesIO())  # a deep copy has no leaves for parameters
            file.seek(0)
            return BlackBox(torch.jit.load(file).eval())  # type: ignore[no-untyped-call]
    copied = copy_of(module, name_of(module))
    for part in list(copied.modules()):
        part._compiled_call_impl = None  # of Module.compile()
        for name, child in list(part._modules.items()):
            if child is not None and original(child) is not child:
                part._modules[name] = original(child)
    return copied


def copy_of(module: nn.Module, name: str) -> nn.Module:
    """Return a copy of a module that shares nothing with it that is changed later.

    Weights that are computed, as pruned ones, are copied as they are. What else cannot be copied is shared.

    Raises:
        ValueError: The module cannot be copied at all.
    """
    try:
        with _computed_tensors(module) as memo:
            return copy.deepcopy(module, memo)
    except Exception as error:
        try:
            return _shared(module, {})
        except Exception:
            raise ValueError(f"{name} cannot be copied, and it is never changed itself: {first_line(error)}") from None


@contextmanager
def _computed_tensors(module: nn.Module) -> Iterator[dict[int, Any]]:
    """Give copies of tensors that `copy.deepcopy` refuses: those that were computed from others."""
    memo: dict[int, Any] = {}
    for part in module.modules():
        for value in vars(part).values():
            if isinstance(value, Tensor) and value.grad_fn is not None:
                memo[id(value)] = value.detach().clone()
    yield memo


def _shared(module: nn.Module, known: dict[int, nn.Module]) -> nn.Module:
    """Return a module of the same structure with tensors of its own; every other attribute is shared."""
    if id(module) in known:
        return known[id(module)]
    clone = known[id(module)] = copy.copy(module)
    fresh = {
        "_parameters": {
            name: None if value is None else nn.Parameter(value.detach().clone(), requires_grad=value.requires_grad)
            for name, value in module._parameters.items()
        },
        "_buffers": {name: None if one is None else one.detach().clone() for name, one in module._buffers.items()},
        "_modules": {name: None if one is None else _shared(one, known) for name, one in module._modules.items()},
    }
    clone.__dict__.update(fresh)
    return clone
