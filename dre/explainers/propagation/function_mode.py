"""Meet every function that a network calls while it runs, and choose what its gradient is."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


def named(names: str) -> frozenset[str]:
    """Names of functions, as `Call.name` gives them."""
    return frozenset(names.split())


RESHAPING = named(
    "as_strided cat channel_shuffle chunk clone concat concatenate contiguous double dropout dropout1d dropout2d "
    "dropout3d expand expand_as feature_dropout flatten flip float get getitem half index_select movedim moveaxis "
    "narrow native_channel_shuffle pad permute pixel_shuffle pixel_unshuffle repeat repeat_interleave reshape "
    "roll select split squeeze stack swapaxes swapdims t to transpose type type_as unbind unflatten unsqueeze "
    "view view_as"
)
"""Functions that move values about, or in evaluation do nothing."""

AVERAGES = named(
    "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d avg_pool1d avg_pool2d avg_pool3d interpolate "
    "mean sum upsample"
)
"""Linear functions without parameters."""

LAYERS = named("conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d linear")
"""Linear functions of input, weight and bias."""

MAXIMA = named("adaptive_max_pool1d adaptive_max_pool2d max_pool1d max_pool2d max_pool3d")

PIECEWISE_LINEAR = MAXIMA | named("abs clamp clamp_max clamp_min hardtanh leaky_relu prelu relu relu6 rrelu")
"""Functions whose quotients of changes are exact."""

WIDTHS = {torch.float64: 1e-8, torch.float32: 1e-4}
"""Where its argument changes by less, a smooth function has its slope: the quotient would be rounding."""

COARSE, KINK = 1e-2, 1e-15
"""That width in half precision, and for piecewise linear functions; its square is not to vanish in float32."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a function of torch.

    Args:
        func: As the mode is given it.
        args: By position.
        options: By keyword.
    """

    func: Callable[..., Any]
    args: tuple[Any, ...]
    options: dict[str, Any]

    @property
    def spelling(self) -> str:
        """Name of the function as it was called."""
        return str(getattr(self.func, "__name__", self.func))

    @property
    def name(self) -> str:
        """Name without the marks of in-place and operator spellings: `add_` and `__add__` are `add`."""
        return self.spelling.strip("_")

    @property
    def is_in_place(self) -> bool:
        """Whether the first operand is overwritten."""
        return bool(self.options.get("inplace", False)) or (
            self.spelling.endswith("_") and not self.spelling.endswith("__")
        )

    def argument(self, place: int, name: str, default: Any = None) -> Any:
        """Give an argument by place or name."""
        return self.args[place] if len(self.args) > place else self.options.get(name, default)

    @property
    def operand(self) -> Tensor:
        """The first argument."""
        return cast(Tensor, self.argument(0, "input"))

    @property
    def operands(self) -> tuple[Any, Any]:
        """The two arguments of a sum, product or quotient; either may be a number."""
        return self.argument(0, "input"), self.argument(1, "other")

    def tensors(self) -> Iterator[Tensor]:
        """All tensors among the arguments, those of lists included."""
        for value in (*self.args, *self.options.values()):
            if isinstance(value, Tensor):
                yield value
            elif isinstance(value, list | tuple):
                yield from (item for item in value if isinstance(item, Tensor))

    def run(self) -> Any:
        """Do what was called."""
        return self.func(*self.args, **self.options)

    def on(self, operand: Tensor) -> Any:
        """Call it with another first operand."""
        if self.args:
            return self.func(operand, *self.args[1:], **self.options)
        return self.func(**{**self.options, "input": operand})

    def value(self, operand: Tensor) -> Tensor:
        """Call a function of one variable on features, which are left alone."""
        if "inplace" in self.options:
            result = Call(self.func, self.args, {**self.options, "inplace": False}).on(operand)
        else:
            result = self.on(operand.clone() if self.is_in_place else operand)
        return cast(Tensor, result)

    def value_and_slope(self, operand: Tensor) -> tuple[Tensor, Tensor]:
        """Call it and give its derivative as well."""
        with torch.enable_grad():
            at = operand.detach().requires_grad_()
            value = self.value(at)
            (slope,) = torch.autograd.grad(value, at, torch.ones_like(value))
        return value.detach(), slope

    def replaced(self, change: Callable[[Tensor], Tensor]) -> "Call":
        """Give the call with each tensor changed."""

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


class _Steer(torch.autograd.Function):
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


def steer(value: Tensor, carriers: Sequence[tuple[Tensor, Tensor]], is_in_place: bool = False) -> Tensor:
    """Give `value`, whose gradient goes to each carrier times the multiplier beside it.

    Args:
        value: What the network goes on with; its own history is not used.
        carriers: Tensors and multipliers that broadcast to `value`.
        is_in_place: Overwrite the first carrier.
    """
    tensors, multipliers = zip(*carriers, strict=True)
    return cast(Tensor, _Steer.apply(_Value(value.detach(), multipliers, is_in_place), *tensors))


def secant(rise: Tensor, run: Tensor, slope: Tensor, name: str) -> Tensor:
    """Give `rise` / `run`, which turns into the slope where the run is next to nothing; overwrites both changes.

    It is the mean of quotient and slope with the weights run^2 and width^2. Masks would cost more than the network.

    Args:
        rise: Change of a function's value.
        run: Change of its argument.
        slope: At the place in question.
        name: Of the function.
    """
    square = (KINK if name in PIECEWISE_LINEAR else WIDTHS.get(rise.dtype, COARSE)) ** 2
    return rise.mul_(run).add_(slope, alpha=square).div_(run.square_().add_(square))


class Interceptor(TorchFunctionMode):
    """While on, answer each function by the rule of its name; a function without rule that has a gradient is refused.

    Functions of nothing that requires a gradient run as they are, as do those that only move values about. Nothing is
    left on the network, whatever happens.

    Args:
        network: Whose modules a refusal names.
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
        """Find the rule."""
        call = Call(func, args, dict(kwargs or {}))
        rule = self.rules.get(call.name)
        if rule is None:
            return self.without_rule(call)
        return rule(call)

    def without_rule(self, call: Call) -> Any:
        """Run it; refuse it where that would mean to guess how it is explained."""
        result = call.run()
        results = result if isinstance(result, list | tuple) else (result,)
        if call.name not in RESHAPING and any(isinstance(item, Tensor) and item.requires_grad for item in results):
            self.refuse(call)
        return result

    def refuse(self, call: Call, reason: str = "") -> NoReturn:
        """Say which function, in which module, there is no rule for."""
        raise UnsupportedFunctionError(f"{call.name} in {running_module(self.network)}{reason}")


class UnsupportedFunctionError(ValueError):
    """A network calls a function that a method has no rule for."""


def running_module(network: nn.Module) -> str:
    """Name the innermost module of a network whose forward is running now, read off the stack."""
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
    """Let no parameter require a gradient, so that what does depends on the image; afterwards all is as before."""
    wanted = [parameter for parameter in network.parameters() if parameter.requires_grad]
    try:
        for parameter in wanted:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)
