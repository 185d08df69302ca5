"""The backward rule of guided backpropagation, put in the place of every rectifier while it is on."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

UNBOUNDED = {F.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_}
BOUNDED = {F.hardtanh, F.hardtanh_, F.relu6}
IN_PLACE = {torch.relu_, Tensor.relu_, F.hardtanh_}
GATES = (nn.MultiheadAttention, nn.Softmax, nn.Softmax2d, nn.LogSoftmax)
"""Modules that PyTorch files under activations, but that come after scores rather than after features."""


class _GuidedRectifier(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, ceiling: float) -> Tensor:
        ctx.save_for_backward((features > 0) & (features < ceiling))
        return features.clamp(0, ceiling)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (is_open,) = ctx.saved_tensors
        return gradients[0].clamp_min(0) * is_open, None


class GuidedRectifiers(TorchFunctionMode):
    """While on, ReLU and ReLU6 in any spelling pass back positive gradients alone; `count` says how many ran.

    The forward values do not change. Recognised are relu, relu6 and a hardtanh that starts at 0, as functions, methods
    and modules, in place or not; a maximum with zero that is written as a clamp is not.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Let every other function run as it is."""
        kwargs = kwargs or {}
        top = ceiling(func, args, kwargs)
        if top is None:
            return func(*args, **kwargs)
        self.count += 1
        features = cast(Tensor, args[0] if args else kwargs["input"])
        rectified = cast(Tensor, _GuidedRectifier.apply(features, top))
        is_in_place = func in IN_PLACE or kwargs.get("inplace", False)
        return features.copy_(rectified) if is_in_place else rectified


def ceiling(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> float | None:
    """Give the value at which a rectifier stops to grow; None when this call is no rectifier."""
    if func in UNBOUNDED:
        return float("inf")
    if func is F.relu6:
        return 6.0
    if func in BOUNDED:
        low = args[1] if len(args) > 1 else kwargs.get("min_val", -1.0)
        high = args[2] if len(args) > 2 else kwargs.get("max_val", 1.0)
        return float(high) if low == 0 else None
    return None


def activation_modules(network: nn.Module) -> str:
    """Say which activations a network has as modules, and where the first of each kind is."""
    first: dict[str, str] = {}
    for name, module in network.named_modules():
        home = type(module).__module__
        if (home.endswith(".activation") or home.startswith("timm.layers.activations")) and not isinstance(
            module, GATES
        ):
            first.setdefault(type(module).__name__, name)
    if not first:
        return "it has no activation module"
    return "its activations: " + ", ".join(f"{kind}, first in {name!r}" for kind, name in first.items())
