"""LRP rules (epsilon, gamma, alpha-beta): how a linear layer shares relevance among its contributions.

Relevance is kept as multiplier times activation, R = m z. For a layer z = w x + b a rule gives carriers, functions of x
whose gradients times their factors are the shares of that rule. Contributions of one sign need no second weight: where
A = |w| |x| + |b|, the positive ones sum to (A + z) / 2 and the negative ones to (z - A) / 2.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from dre.explainers.propagation.function_mode import Call, wide, with_gradient

FLOOR = 1e-30
"""Smallest stabiliser: where all contributions are zero, nothing is divided by zero."""


class Rule(Protocol):
    """Turn the multiplier of an output into those of its carriers, the output itself and the magnitude."""

    @property
    def splits_signs(self) -> bool:
        """Return whether contributions of either sign are treated differently, so that magnitudes are needed."""

    def factors(self, output: Tensor, magnitude: Tensor, epsilon: Tensor) -> tuple[Tensor, Tensor]:
        """Return the factors of the output and of the magnitude.

        Args:
            output: z, without history.
            magnitude: A, of the same shape.
            epsilon: Stabiliser, positive, broadcasts to both.
        """


@dataclass(frozen=True, slots=True)
class EpsilonRule:
    """Share by contribution; weak outputs lose relevance to the stabiliser (Bach et al. 2015, Eq. 58)."""

    splits_signs = False

    def factors(self, output: Tensor, magnitude: Tensor, epsilon: Tensor) -> tuple[Tensor, Tensor]:
        """See `Rule.factors`: |z| / (|z| + epsilon), and the magnitude is not used."""
        size = output.abs()
        return torch.div(epsilon, size, out=size).add_(1).reciprocal_(), size


@dataclass(frozen=True, slots=True)
class GammaRule:
    """Weight contributions of the output's own sign by 1 + gamma (Montavon et al. 2019, for either sign)."""

    gamma: float
    splits_signs = True

    @property
    def ratio(self) -> float:
        """Return the weight of the magnitude, gamma / (2 + gamma), where that of the output is 1."""
        return self.gamma / (2 + self.gamma)

    def factors(self, output: Tensor, magnitude: Tensor, epsilon: Tensor) -> tuple[Tensor, Tensor]:
        """See `Rule.factors`: own-signed contributions sum to (|z| + A) / 2."""
        signed = self.signed_factor(output, magnitude * self.ratio, epsilon)
        return signed.abs(), signed.mul_(self.ratio)

    def signed_factor(self, output: Tensor, weighted: Tensor, epsilon: Tensor) -> Tensor:
        """Return the factor of the output with the output's sign; the magnitude times `ratio` is overwritten.

        The magnitude times `ratio` has this very factor, and the output its absolute value.
        """
        total = weighted.add_(output.abs()).add_(epsilon / (1 + self.gamma / 2))
        return torch.div(output, total, out=total)


@dataclass(frozen=True, slots=True)
class AlphaBetaRule:
    """Share alpha times the relevance among positive contributions, minus beta times it among negative ones.

    With a beta of 0 an output without positive contributions leaves its relevance to the stabiliser. Otherwise
    contributions that are all of one sign share all of it: the paper's quotient is 0 / 0 there.

    Source: Bach et al. 2015, Eq. 60.
    """

    alpha: float
    beta: float
    splits_signs = True

    def factors(self, output: Tensor, magnitude: Tensor, epsilon: Tensor) -> tuple[Tensor, Tensor]:
        """See `Rule.factors`."""
        positive = torch.add(magnitude, output).div_(2).clamp_min_(0)
        if self.beta == 0:
            half = torch.div(output, positive.add_(epsilon), out=positive).mul_(self.alpha / 2)
            return half, half
        negative = torch.sub(magnitude, output).div_(2).clamp_min_(0)
        is_negative, is_positive = positive <= epsilon, negative <= epsilon
        alpha = torch.full_like(output, self.alpha / 2).masked_fill_(is_positive, 0.5).masked_fill_(is_negative, 0.0)
        beta = torch.full_like(output, self.beta / 2).masked_fill_(is_positive, 0.0).masked_fill_(is_negative, -0.5)
        alpha.mul_(output).div_(positive.add_(epsilon))
        beta.mul_(output).div_(negative.add_(epsilon))
        return alpha + beta, alpha - beta


@dataclass(frozen=True, slots=True)
class Leaves:
    """Hold tensors of ones whose gradients are relevance: of the pixels and, where counted, of biases and of epsilon.

    Args:
        presence: [B, C, H, W].
        bias: [B]; None where the share of biases is not counted.
        epsilon: [B]; None likewise.
    """

    presence: Tensor
    bias: Tensor | None = None
    epsilon: Tensor | None = None

    def lost(self, value: Tensor, carriers: Sequence[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
        """Return the carrier of what the given ones leave of `value` to the stabiliser, where that is counted."""
        if self.epsilon is None:
            return []
        rest = value - sum(carrier.detach() * factor for carrier, factor in carriers)
        return [(per_image(self.epsilon, rest), rest)]


@dataclass(frozen=True, slots=True)
class Layer:
    """Hold a linear function of input, weight and bias.

    Args:
        run: Calls it.
        weight: None for an average, whose weights are not negative.
        bias: One value for each channel.
        bias_axes: Axes behind that of the channels.
        pull: Gives the gradient of features from that of the output, a weight and the features, whose shape alone
            counts; None where autograd has to find it.
    """

    run: Callable[[Tensor, Tensor | None, Tensor | None], Tensor]
    weight: Tensor | None = None
    bias: Tensor | None = None
    bias_axes: int = 0
    pull: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None

    def output(
        self, features: Tensor, change: Callable[[Tensor], Tensor] | None = None, presence: Tensor | None = None
    ) -> Tensor:
        """Run with changed parameters, the bias times its `presence` [B] where that is given."""
        weight, bias = self.weight, self.bias
        if change is not None:
            weight = None if weight is None else change(weight)
            bias = None if bias is None else change(bias)
        if presence is None or bias is None:
            return self.run(features, weight, bias)
        result = self.run(features, weight, None)
        return result + bias.view(-1, *[1] * self.bias_axes) * per_image(presence, result)


def pull_of(call: Call) -> Callable[[Tensor, Tensor, Tensor], Tensor] | None:
    """Return how a convolution's gradient reaches its features; None for other layers and for a named padding."""
    if call.name not in ("conv1d", "conv2d", "conv3d") or isinstance(call.argument(4, "padding", 0), str):
        return None
    axes = cast(Tensor, call.argument(1, "weight")).ndim - 2
    given = (
        call.argument(place, name, value)
        for place, name, value in ((3, "stride", 1), (4, "padding", 0), (5, "dilation", 1))
    )
    sizes = [[size] * axes if isinstance(size, int) else list(size) * (axes // len(size)) for size in given]
    groups = call.argument(6, "groups", 1)

    def pull(gradient: Tensor, weight: Tensor, features: Tensor) -> Tensor:
        found = torch.ops.aten.convolution_backward(
            gradient, features, weight, None, *sizes, False, [0] * axes, groups, [True, False, False]
        )
        return cast(Tensor, found[0])

    return pull


def positive_part(values: Tensor) -> Tensor:
    """Set negative values to zero."""
    return values.clamp_min(0)


def is_positive(features: Tensor) -> bool:
    """Return whether no feature is negative, as behind a ReLU."""
    return bool(features.detach().amin() >= 0)


def deviation(output: Tensor) -> Tensor:
    """Return the standard deviation of each image's values, [B, 1, ...], by reductions that keep the memory's order."""
    axes = tuple(range(1, output.ndim))
    kind = torch.promote_types(output.dtype, torch.float32)
    mean = output.mean(dim=axes, keepdim=True, dtype=kind)
    square: Tensor = torch.linalg.vector_norm(output, dim=axes, keepdim=True, dtype=kind).square()
    return (square / max(1, output[:1].numel()) - mean.square()).clamp_min(0).sqrt()


def stabiliser(output: Tensor, epsilon: float) -> Tensor:
    """Return `epsilon` standard deviations of the output, [B, 1, ...], never zero."""
    width = epsilon * deviation(output)
    return (width + max(FLOOR, torch.finfo(output.dtype).tiny)).to(output.dtype)


def spread(features: Tensor, layer: Layer, rule: Rule, epsilon: float, leaves: Leaves) -> Tensor:
    """Return a layer's output, whose gradient follows the rule."""
    if isinstance(rule, AlphaBetaRule) and rule.beta == 0 and is_positive(features):
        with torch.no_grad():
            value = layer.output(features)
        return proportional(value, layer.output(features, positive_part, leaves.bias), epsilon, leaves)
    if isinstance(rule, GammaRule) and layer.pull is not None and leaves.bias is None and _is_plain(features, layer):
        return cast(Tensor, _Favoured.apply(features, layer, rule, epsilon))
    output = layer.output(features, presence=leaves.bias)
    if not rule.splits_signs and epsilon == 0:
        return output
    value = wide(output.detach())
    magnitude = layer.output(features.abs(), Tensor.abs, leaves.bias) if rule.splits_signs else output
    signed, unsigned = rule.factors(value, wide(magnitude.detach()), stabiliser(value, epsilon))
    carriers = [(output, signed), (magnitude, unsigned)] if rule.splits_signs else [(output, signed)]
    return with_gradient(output.detach(), carriers + leaves.lost(value, carriers))


class _Favoured(torch.autograd.Function):
    """A layer under the gamma rule, whose two carriers are differentiated as one where that is the same.

    That is so where no feature is negative and no output below zero has relevance, as between two ReLUs. Otherwise the
    weights and their absolute values have to be applied one after the other.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, layer: Layer, rule: GammaRule, epsilon: float) -> Tensor:
        weight, bias = cast(Tensor, layer.weight), layer.bias
        has_signs = not is_positive(features)
        value = layer.run(features, weight, bias)
        sizes = weight.abs().mul_(rule.ratio)
        magnitude = layer.run(
            features.abs() if has_signs else features, sizes, None if bias is None else bias.abs().mul_(rule.ratio)
        )
        ctx.pull, ctx.has_signs = layer.pull, has_signs
        ctx.save_for_backward(rule.signed_factor(value, magnitude, stabiliser(value, epsilon)), weight, sizes, features)
        return value

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        factor, weight, sizes, features = ctx.saved_tensors
        unsigned = gradients[0] * factor
        signed = torch.copysign(unsigned, gradients[0])  # times the factor's absolute value
        if not ctx.has_signs and torch.equal(signed, unsigned):
            return ctx.pull(signed, weight + sizes, features), None, None, None
        if ctx.has_signs:
            rest = ctx.pull(unsigned, sizes, features)
            return ctx.pull(signed, weight, features).addcmul_(rest, features.sign()), None, None, None
        if weight.shape[1] == features.shape[1]:  # without groups, both are one of twice the channels
            both = torch.cat([signed, unsigned], dim=1), torch.cat([weight, sizes])
            return ctx.pull(*both, features), None, None, None
        return ctx.pull(signed, weight, features).add_(ctx.pull(unsigned, sizes, features)), None, None, None


def _is_plain(features: Tensor, layer: Layer) -> bool:
    """Return whether the layer computes in the type of its features, which is wide enough for quotients."""
    is_cast = torch.is_autocast_enabled(features.device.type)
    kinds = {features.dtype, cast(Tensor, layer.weight).dtype}
    return not is_cast and kinds in ({torch.float32}, {torch.float64})


def boxed(features: Tensor, bounds: Sequence[Tensor], layer: Layer) -> Tensor:
    """Return the sum of the contributions to a layer without its bias, each less the least that it may be.

    Args:
        features: Pixels.
        bounds: Their smallest and their largest values, of the same shape.
        layer: Reads the pixels.
    """
    weight = cast(Tensor, layer.weight)
    low, high = bounds
    raising, lowering = positive_part(weight), positive_part(-weight)
    if layer.pull is not None and weight.shape[1] == features.shape[1]:  # one convolution of three times the channels
        return layer.run(torch.cat([features, low, high], dim=1), torch.cat([weight, -raising, lowering], dim=1), None)
    return layer.run(features, weight, None) - (layer.run(low, raising, None) - layer.run(high, lowering, None))


def proportional(value: Tensor, carrier: Tensor, epsilon: float, leaves: Leaves) -> Tensor:
    """Return `value`, whose relevance is shared by the contributions to a carrier that is not negative."""
    sums = wide(carrier.detach()) + stabiliser(wide(value), epsilon)
    carriers = [(carrier, torch.div(wide(value), sums, out=sums))]
    return with_gradient(value, carriers + leaves.lost(value, carriers))


def per_image(values: Tensor, result: Tensor) -> Tensor:
    """View [B] so that it broadcasts to `result`, [B, ...]."""
    return values.view(-1, *[1] * (result.ndim - 1))
