"""Function modes of DeepLIFT's rescale rule: record a run on the baseline, then set the multipliers of the image."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dre.explainers.propagation.function_mode import (
    AVERAGES,
    LAYERS,
    MAXIMA,
    PIECEWISE_LINEAR,
    Call,
    FunctionMode,
    named,
    secant,
    with_gradient,
)

SMOOTH = named(
    "celu elu exp gelu hardsigmoid hardswish log log1p logsigmoid mish pow reciprocal rsqrt selu sigmoid silu "
    "softplus softsign sqrt square tanh tanhshrink"
)
LINEAR = LAYERS | AVERAGES | named("add neg rsub sub subtract")
PRODUCTS = named("mul multiply")


@dataclass(slots=True)
class RecordedCall:
    """Hold the operands and the result of one function on the baseline.

    Args:
        name: Of the function.
        tensors: Its operands, its result and, of piecewise linear functions of one variable, the slope.
        versions: Version counters of the tensors, which show whether one was overwritten since.
    """

    name: str
    tensors: list[Tensor]
    versions: list[int]


class Recorder(FunctionMode):
    """Record the operands and the result of every function that is not linear, in order."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        self.calls: list[RecordedCall] = []
        self.kept: dict[int, list[tuple[RecordedCall, int]]] = {}
        self.rules = dict.fromkeys(PIECEWISE_LINEAR | SMOOTH, self._function)
        self.rules |= dict.fromkeys(MAXIMA, self._maximum) | dict.fromkeys(PRODUCTS, self._product)

    def without_rule(self, call: Call) -> Any:
        """Run a function without a rule; what it overwrites is copied first."""
        self._save(call)
        return call.run()

    def _function(self, call: Call) -> Any:
        self._save(call)
        operand = call.operand.clone() if call.is_in_place else call.operand
        has_slope = call.name in PIECEWISE_LINEAR and operand.is_floating_point()
        slopes = [call.value_and_slope(operand)[1]] if has_slope else []
        return self._keep(call, [operand], call.run(), slopes)

    def _maximum(self, call: Call) -> Any:
        value, places = maximum(call, call.operand)
        self._keep(call, [call.operand, places], value)
        return value

    def _product(self, call: Call) -> Any:
        self._save(call)
        operands = [value for value in call.operands if isinstance(value, Tensor)]
        if call.is_in_place:
            operands[0] = operands[0].clone()
        return self._keep(call, operands, call.run())

    def _keep(self, call: Call, operands: list[Tensor], result: Tensor, slopes: Sequence[Tensor] = ()) -> Tensor:
        tensors = [*operands, result, *slopes]
        kept = RecordedCall(call.name, tensors, [tensor._version for tensor in tensors])
        self.calls.append(kept)
        for place, tensor in enumerate(tensors):
            self.kept.setdefault(id(tensor), []).append((kept, place))
        return result

    def _save(self, call: Call) -> None:
        """Copy recorded tensors that are about to be overwritten."""
        if not call.is_in_place or not isinstance(call.operand, Tensor):
            return
        for kept, place in self.kept.pop(id(call.operand), []):
            copy = call.operand.clone()
            kept.tensors[place], kept.versions[place] = copy, copy._version


class Rescale(FunctionMode):
    """Turn the gradient of a score into DeepLIFT's multiplier with respect to the recorded baseline.

    The multiplier of a function of one variable is the quotient of the changes of value and argument, or the slope if
    there is next to no change. A maximum passes what it gained to the place of the image's maximum and what it lost to
    that of the baseline's. The multiplier of each factor of a product is the mean of the other over image and baseline,
    so that the parts sum up.

    Args:
        network: Runs on images under the mode.
        calls: Recorded on their baselines, or on one that they share.
    """

    def __init__(self, network: nn.Module, calls: list[RecordedCall]) -> None:
        super().__init__(network)
        self.ahead: Iterator[RecordedCall] = iter(calls)
        self.rules: dict[str, Callable[[Call], Any]] = dict.fromkeys(LINEAR, Call.run)
        self.rules |= dict.fromkeys(PIECEWISE_LINEAR | SMOOTH, self._function)
        self.rules |= dict.fromkeys(MAXIMA, self._maximum) | dict.fromkeys(PRODUCTS, self._product)
        self.rules |= dict.fromkeys(("div", "divide", "true_divide"), self._quotient)
        self.rules |= {"batch_norm": self._batch_norm, "addcmul": self._scale}

    def _function(self, call: Call) -> Any:
        before, value_before, *slopes = self._on_baseline(call)
        operand = call.operand
        if any(value.requires_grad for value in call.tensors() if value is not operand):
            self.refuse(call, ", of two things that depend on the image")
        if not operand.requires_grad:
            return call.run()
        if slopes:  # of a function between whose kinks one slope is as good as the other, and costs one baseline
            value, slope = call.value(operand.detach()), slopes[0]
        else:
            value, slope = call.value_and_slope(operand)
        multiplier = secant(value - value_before, operand.detach() - before, slope, call.name)
        return with_gradient(value, [(operand, multiplier)], call.is_in_place)

    def _maximum(self, call: Call) -> Tensor:
        before, places_before, value_before = self._on_baseline(call)
        operand = call.operand
        before = before.expand_as(operand)
        if not operand.requires_grad:
            return cast(Tensor, call.run())
        value, places = maximum(call, operand.detach())
        gain = value - value_before
        is_kept = (gain >= 0) | (at_places(before, places) == value_before)  # of equal places, the image's own
        places = places.where(is_kept, places_before)
        carrier = at_places(operand, places)
        run = carrier.detach() - at_places(before, places)
        return with_gradient(value, [(carrier, secant(gain, run, torch.ones_like(run), call.name))])

    def _product(self, call: Call) -> Tensor:
        before = self._on_baseline(call)
        factors = call.operands
        if not all(isinstance(value, Tensor) and value.requires_grad for value in factors):
            return cast(Tensor, call.run())
        value = factors[0].detach() * factors[1].detach()
        first, second = ((now.detach() + then) / 2 for now, then in zip(factors, before[:2], strict=True))
        return with_gradient(value, [(factors[0], second), (factors[1], first)], call.is_in_place)

    def _quotient(self, call: Call) -> Any:
        if isinstance(divisor := call.operands[1], Tensor) and divisor.requires_grad:
            self.refuse(call, ", by something that depends on the image")
        return call.run()

    def _scale(self, call: Call) -> Any:
        if sum(isinstance(value, Tensor) and value.requires_grad for value in call.args[1:3]) > 1:
            self.refuse(call, ", of two factors that depend on the image")
        return call.run()

    def _batch_norm(self, call: Call) -> Any:
        if call.argument(1, "running_mean") is None or call.argument(5, "training", False):
            self.refuse(call, ", which normalises by the statistics of the batch")
        return call.run()

    def _on_baseline(self, call: Call) -> list[Tensor]:
        """Return the operands and the result that this call had on the baseline."""
        before = next(self.ahead, None)
        if before is None or before.name != call.name:
            self.refuse(call, ", where image and baseline took different ways")
        if [tensor._version for tensor in before.tensors] != before.versions:
            self.refuse(call, ", whose operand was overwritten through a view")
        return before.tensors


def maximum(call: Call, operand: Tensor) -> tuple[Tensor, Tensor]:
    """Return the values of a pooling and where in its plane each was found."""
    pool = cast(Callable[..., tuple[Tensor, Tensor]], getattr(F, call.name))
    options = {name: value for name, value in call.options.items() if name not in ("input", "return_indices")}
    return pool(operand, *call.args[1:], **options, return_indices=True)


def at_places(features: Tensor, places: Tensor) -> Tensor:
    """Read the features at places that a pooling returned."""
    axes = places.ndim - 2
    flat = features.flatten(2) if axes else features
    return flat.gather(2, places.flatten(2)).view(places.shape)
