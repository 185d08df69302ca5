"""Temporary hooks and modes: use a network and leave it as it was."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

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
