"""Function mode: replace the gradient of each torch function that a network calls while it runs."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


def named(names: str) -> frozenset[str]:
    """Return the names of functions, separated by spaces, as a set; a name is what `Call.name` gives."""
    return frozenset(names.split())


RESHAPING = named(
    "as_strided cat channel_shuffle chunk clone concat concatenate contiguous double dropout dropout1d dropout2d "
    "dropout3d expand expand_as feature_dropout flatten flip float get getitem half index_select movedim moveaxis "
    "narrow native_channel_shuffle pad permute pixel_shuffle pixel_unshuffle repeat repeat_interleave reshape "
    "roll select split squeeze stack swapaxes swapdims t to transpose type type_as unbind unflatten unsqueeze "
    "view view_as"
)
"""Functions that only move values, or do nothing in evaluation."""

AVERAGES = named(
    "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d avg_pool1d avg_pool2d avg_pool3d interpolate "
    "mean sum upsample"
)
"""Linear functions without parameters."""

LAYERS = named("conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d linear")
"""Linear functions of input, weight and bias."""

MAXIMA = named("adaptive_max_pool1d adaptive_max_pool2d max_pool1d max_pool2d max_pool3d")

PIECEWISE_LINEAR = MAXIMA | named("abs clamp clamp_max clamp_min hardtanh leaky_relu prelu relu relu6 rrelu")
"""Functions that are linear between kinks."""

WIDTHS = {torch.float64: 1e-8, torch.float32: 1e-4}
"""Change of the argument below which a smooth function's slope is used: the quotient would be rounding error."""

COARSE, KINK = 1e-2, 1e-15
"""That width in half precision, and for piecewise linear functions; its square must not underflow in float32."""


@dataclass(frozen=True, slots=True)
class Call:
    """Hold one call of a torch function.

    Args:
        func: As torch passes it to the mode.
        args: By position.
        options: By keyword.
    """

    func: Callable[..., Any]
    args: tuple[Any, ...]
    options: dict[str, Any]

    @property
    def spelling(self) -> str:
        """Return the name of the function as it was called."""
        return str(getattr(self.func, "__name__", self.func))

    @property
    def name(self) -> str:
        """Return the name without the marks of in-place and operator calls: `add_` and `__add__` are `add`."""
        return self.spelling.strip("_")

    @property
    def is_in_place(self) -> bool:
        """Return whether the first operand is overwritten."""
        return bool(self.options.get("inplace", False)) or (
            self.spelling.endswith("_") and not self.spelling.endswith("__")
        )

    def argument(self, place: int, name: str, default: Any = None) -> Any:
        """Return an argument by place or name."""
        return self.args[place] if len(self.args) > place else self.options.get(name, default)

    @property
    def operand(self) -> Tensor:
        """Return the first argument."""
        return cast(Tensor, self.argument(0, "input"))

    @property
    def operands(self) -> tuple[Any, Any]:
        """Return the two arguments of a sum, product or quotient; either may be a number."""
        return self.argument(0, "input"), self.argument(1, "other")

    def tensors(self) -> Iterator[Tensor]:
        """Yield all tensors among the arguments, those of lists included."""
        for value in (*self.args, *self.options.values()):
            if isinstance(value, Tensor):
                yield value
            elif isinstance(value, list | tuple):
                yield from (item for item in value if isinstance(item, Tensor))

    def run(self) -> Any:
        """Call the function."""
        return self.func(*self.args, **self.options)

    def on(self, operand: Tensor) -> Any:
        """Call it with another first operand."""
        if self.args:
            return self.func(operand, *self.args[1:], **self.options)
        return self.func(**{**self.options, "input": operand})

    def value(self, operand: Tensor) -> Tensor:
        """Call a function of one variable on features, which are not overwritten."""
        if "inplace" in self.options:
            result = Call(self.func, self.args, {**self.options, "inplace": False}).on(operand)
        else:
            result = self.on(operand.clone() if self.is_in_place else operand)
        return cast(Tensor, result)

    def value_and_slope(self, operand: Tensor) -> tuple[Tensor, Tensor]:
        """Call a function of one variable and return its value and its derivative."""
        with torch.enable_grad():
            at = operand.detach().requires_grad_()
            value = self.value(at)
            (slope,) = torch.autograd.grad(value, at, torch.ones_like(value))
        return value.detach(), slope

    def replaced(self, change: Callable[[Tensor], Tensor]) -> "Call":
        """Return the call with each tensor changed."""

        def new(value: Any) -> Any:
            if isinstance(value, Tensor):
                return change(value)
            return type(value)(map(new, value)) if type(value) in (list, tuple) else value

        return Call(self.func, tuple(map(new, self.args)), {name: new(value) for name, value in self.options.items()})


@dataclass(frozen=True, slots=True)
class _Value:
    tensor: Tensor
    multipliers: Sequence[Tensor]
    is_in_place: bool


class _GivenGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: _Value, *carriers: Tensor) -> Tensor:
        ctx.save_for_backward(*value.multipliers)
        ctx.shapes = [carrier.shape for carrier in carriers]
        if value.is_in_place:
            ctx.mark_dirty(carriers[0])
            return carriers[0].copy_(value.tensor)
        return value.tensor

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        carried = zip(ctx.saved_tensors, ctx.shapes, ctx.needs_input_grad[1:], strict=True)
        return None, *(
            (gradients[0] * multiplier).sum_to_size(shape) if is_wanted else None
            for multiplier, shape, is_wanted in carried
        )


def with_gradient(value: Tensor, carriers: Sequence[tuple[Tensor, Tensor]], is_in_place: bool = False) -> Tensor:
    """Return `value`, whose gradient goes to each carrier times the multiplier beside it.

    Args:
        value: What the network continues with; its own graph is not used.
        carriers: Tensors and multipliers that broadcast to `value`.
        is_in_place: Overwrite the first carrier.
    """
    tensors, multipliers = zip(*carriers, strict=True)
    return cast(Tensor, _GivenGradient.apply(_Value(value.detach(), multipliers, is_in_place), *tensors))


def wide(values: Tensor) -> Tensor:
    """Return values in half precision as float32, in which quotients are formed, and any others as they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def secant(rise: Tensor, run: Tensor, slope: Tensor, name: str) -> Tensor:
    """Return `rise` / `run`, or the slope where the run is next to nothing; both changes are overwritten.

    It is the mean of quotient and slope with the weights run^2 and width^2. Choosing one of them by a mask would take
    more time than the network itself. Changes in half precision are divided in float32, in which the widths are not
    zero.

    Args:
        rise: Change of a function's value.
        run: Change of its argument.
        slope: At the place in question.
        name: Of the function.
    """
    square = (KINK if name in PIECEWISE_LINEAR else WIDTHS.get(rise.dtype, COARSE)) ** 2
    rise, run = wide(rise), wide(run)
    numerator = torch.addcmul(wide(slope) * square, rise, run, out=rise)
    return numerator.div_(torch.addcmul(run.new_full((), square), run, run, out=run))


class FunctionMode(TorchFunctionMode):
    """Apply to each function the rule of its name; refuse a function without a rule whose result has a gradient.

    Functions whose arguments need no gradient run as they are, and so do those that only move values. The network
    itself is not changed.

    Args:
        network: Its modules are named in errors.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.rules: dict[str, Callable[[Call], Any]] = {}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Apply the rule of the call."""
        call = Call(func, args, dict(kwargs or {}))
        rule = self.rules.get(call.name)
        if rule is None:
            return self.without_rule(call)
        return rule(call)

    def without_rule(self, call: Call) -> Any:
        """Run a function without a rule; refuse it where its result has a gradient."""
        result = call.run()
        results = result if isinstance(result, list | tuple) else (result,)
        if call.name not in RESHAPING and any(isinstance(item, Tensor) and item.requires_grad for item in results):
            self.refuse(call)
        return result

    def refuse(self, call: Call, reason: str = "") -> NoReturn:
        """Raise an error that names the function without a rule and its module."""
        raise UnsupportedFunctionError(f"{call.name} in {running_module(self.network)}{reason}")


class UnsupportedFunctionError(ValueError):
    """Say that a network calls a function for which a method has no rule."""


def running_module(network: nn.Module) -> str:
    """Name the innermost module of a network whose forward is running now, found on the call stack."""
    names = {id(module): name for name, module in network.named_modules()}
    frame = sys._getframe()
    while (caller := frame.f_back) is not None:
        frame = caller
        module = frame.f_locals.get("self")
        if isinstance(module, nn.Module) and id(module) in names:
            return f"{names[id(module)] or 'the network itself'!r} ({type(module).__name__})"
    return "the network"


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Switch off the gradients of all parameters for the duration of the context."""
    wanted = [parameter for parameter in network.parameters() if parameter.requires_grad]
    try:
        for parameter in wanted:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)
