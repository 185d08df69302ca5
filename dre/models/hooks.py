"""Temporary hooks and modes: use a network and leave it as it was."""

import copy
import io
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.jit import ScriptModule

See = Callable[[str, nn.Module, tuple[Any, ...], Any], Any]
"""From a module's name, the module, its inputs and its output to the output's replacement; None keeps the output."""


@contextmanager
def watching(modules: Iterable[tuple[str, nn.Module]], see: See, before: bool = False) -> Iterator[None]:
    """Call `see` each time that one of the named modules has run, for the duration of the context.

    Args:
        modules: Names and modules.
        see: What to call; its result replaces the output.
        before: Call it before the module runs instead, without an output; its result replaces the inputs.
    """

    def hook(name: str) -> Callable[..., Any]:
        return lambda module, inputs, output=None: see(name, module, inputs, output)

    handles = []
    try:
        for name, module in modules:
            register = module.register_forward_pre_hook if before else module.register_forward_hook
            handles.append(register(hook(name)))
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def in_eval_mode(network: nn.Module) -> Iterator[None]:
    """Switch off dropout and the learning of batch norms; modules that were in training mode return to it."""
    training = [module for module in network.modules() if module.training]
    for module in training:
        module.training = False  # not by eval(), which would reach modules that need no change
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def outside_inference_mode(*modules: nn.Module) -> Iterator[None]:
    """Leave `torch.inference_mode`, in which nothing can be differentiated; gradients stay off until asked for.

    Args:
        modules: What runs inside; parameters and buffers that were made in inference mode are replaced by copies.
    """
    if not torch.is_inference_mode_enabled():
        replace_inference_tensors(*modules)
        yield
        return
    with torch.inference_mode(False), torch.no_grad():  # leaving inference mode alone would switch gradients on
        replace_inference_tensors(*modules)
        yield


def replace_inference_tensors(*modules: nn.Module) -> None:
    """Replace parameters and buffers that were made in inference mode by copies; shared ones stay shared."""
    copies: dict[Tensor, Tensor] = {}
    for part in (part for module in modules for part in module.modules()):
        for table in (part._parameters, part._buffers):
            for name, value in table.items():
                if value is None or not value.is_inference():
                    continue
                if value not in copies:
                    copy = value.clone()
                    is_parameter = isinstance(value, nn.Parameter)
                    copies[value] = nn.Parameter(copy, requires_grad=value.requires_grad) if is_parameter else copy
                table[name] = copies[value]  # type: ignore[assignment]


def without_inference(tensor: Tensor) -> Tensor:
    """Return a tensor that was made in inference mode as a copy that gradients can flow to, any other as it is."""
    return tensor.clone() if tensor.is_inference() else tensor


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
    copied = copy.deepcopy(module)
    for part in list(copied.modules()):
        part._compiled_call_impl = None  # of Module.compile()
        for name, child in list(part._modules.items()):
            if child is not None and original(child) is not child:
                part._modules[name] = original(child)
    return copied
