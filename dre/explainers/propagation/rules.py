"""LRP rules (epsilon, gamma, alpha-beta): how a linear layer shares relevance among its contributions.

Relevance is kept as multiplier times activation, R = m z. For a layer z = w x + b a rule gives carriers, functions of x
whose gradients times their factors are the shares of that rule. Contributions of one sign need no second weight: where
A = |w| |x| + |b|, the positive ones sum to (A + z) / 2 and the negative ones to (z - A) / 2.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dre.explainers.propagation.function_mode import wide, with_gradient

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

    def factors(self, output: Tensor, magnitude: Tensor, epsilon: Tensor) -> tuple[Tensor, Tensor]:
        """See `Rule.factors`: own-signed contributions sum to (|z| + A) / 2."""
        half = self.gamma / 2
        size = output.abs()
        kept = size / torch.add(magnitude, size, alpha=(1 + half) / half).mul_(half).add_(epsilon)
        return (1 + half) * kept, output.sign().mul_(kept).mul_(half)


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
    """

    run: Callable[[Tensor, Tensor | None, Tensor | None], Tensor]
    weight: Tensor | None = None
    bias: Tensor | None = None
    bias_axes: int = 0

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
    output = layer.output(features, presence=leaves.bias)
    if not rule.splits_signs and epsilon == 0:
        return output
    value = wide(output.detach())
    magnitude = layer.output(features.abs(), Tensor.abs, leaves.bias) if rule.splits_signs else output
    signed, unsigned = rule.factors(value, wide(magnitude.detach()), stabiliser(value, epsilon))
    carriers = [(output, signed), (magnitude, unsigned)] if rule.splits_signs else [(output, signed)]
    return with_gradient(output.detach(), carriers + leaves.lost(value, carriers))


def proportional(value: Tensor, carrier: Tensor, epsilon: float, leaves: Leaves) -> Tensor:
    """Return `value`, whose relevance is shared by the contributions to a carrier that is not negative."""
    sums = wide(carrier.detach()) + stabiliser(wide(value), epsilon)
    carriers = [(carrier, torch.div(wide(value), sums, out=sums))]
    return with_gradient(value, carriers + leaves.lost(value, carriers))


def per_image(values: Tensor, result: Tensor) -> Tensor:
    """View [B] so that it broadcasts to `result`, [B, ...]."""
    return values.view(-1, *[1] * (result.ndim - 1))
