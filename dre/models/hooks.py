"""Temporary hooks and modes, and what hooks are given: use a network and leave it as it was."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

See = Callable[[str, nn.Module, tuple[Any, ...], Any], Any]
"""From a module's name, the module, its inputs and its output to the output's replacement; None keeps the output."""


Key = int | str
Output = Any
"""What a module returns: a tensor, or a tuple, list, mapping or object that holds tensors."""


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
def left_as_found(network: nn.Module, trusted: bool = False) -> Iterator[None]:
    """Put back what code from outside may change of a network: modes, hooks, layers, attributes, buffers, gradients.

    Args:
        network: With all modules in it.
        trusted: Believe that weights that were written to were put back.

    Raises:
        ValueError: A weight itself was written to, which cannot be put back.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> with left_as_found(layer):
        ...     layer.requires_grad_(False).eval().weight = nn.Parameter(torch.zeros(1, 2))
        >>> layer.training, layer.weight.requires_grad, bool(layer.weight.any())
        (True, True, True)
    """
    modules = [(module, dict(vars(module))) for module in network.modules()]
    tables = [
        (table, dict(table)) for _, held in modules for table in held.values() if isinstance(table, dict)
    ]  # of hooks, weights, buffers and modules
    named = dict(network.named_parameters())
    weights = [(weight, weight.requires_grad, weight.grad) for weight in named.values()]
    content = {name: (weight.data, _version(weight)) for name, weight in named.items()}
    buffers = [(buffer, buffer.clone()) for buffer in network.buffers()]
    try:
        yield
    finally:
        for module, held in modules:
            vars(module).clear()
            vars(module).update(held)
        for table, entries in tables:
            table.clear()
            table.update(entries)
        for weight, requires_grad, gradient in weights:
            weight.requires_grad_(requires_grad).grad = gradient
        for buffer, before in buffers:
            buffer.data = before
        for name, (data, _) in content.items():
            named[name].data = data  # of another type or place, where the module was moved
    written = [name for name, (_, version) in content.items() if _version(named[name]) != version]
    if written and not trusted:
        raise ValueError(
            f"code from outside wrote to the weight {written[0]!r} of the network, which stays changed: build the "
            "classifier anew, and let the code work on a copy, copy.deepcopy(model)"
        )


def _version(weight: Tensor) -> int:
    """Return how often a weight was written to, as far as that is known."""
    return 0 if weight.is_inference() else weight._version


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


def items(output: Output) -> Iterator[tuple[Key | None, Tensor]]:
    """Yield the tensors of a module's output with the key of each; None where the output is one tensor."""
    if isinstance(output, Tensor):
        yield None, output
    elif isinstance(output, Mapping):
        yield from ((str(key), value) for key, value in output.items() if isinstance(value, Tensor))
    elif isinstance(output, tuple | list):
        yield from ((place, value) for place, value in enumerate(output) if isinstance(value, Tensor))
    elif hasattr(output, "__dict__"):
        yield from ((key, value) for key, value in vars(output).items() if isinstance(value, Tensor))


def item_of(output: Output, key: Key | None) -> Tensor | None:
    """Return one tensor of a module's output, or None where it is missing."""
    return next((value for name, value in items(output) if name == key), None)


def with_item(output: Output, key: Key | None, value: Tensor) -> Output:
    """Return a module's output with one tensor replaced."""
    if key is None:
        return value
    if isinstance(output, dict):
        output[key] = value  # in place: it may be a class of its own, whose attributes follow
        return output
    if isinstance(output, list):
        return [value if place == key else one for place, one in enumerate(output)]
    if isinstance(output, tuple):
        values = [value if place == key else one for place, one in enumerate(output)]
        return output._make(values) if hasattr(output, "_make") else tuple(values)
    if is_dataclass(output) and not isinstance(output, type):
        return replace(output, **{str(key): value})
    setattr(output, str(key), value)
    return output
