"""Batches of Gaussian mixtures in the plane, with their log densities and the two steps of expectation maximisation."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

EMPTY = 10 * torch.finfo(torch.float64).eps
"""Added to the mass of every component, as scikit-learn does, so that one without points divides by no zero."""

NEGLIGIBLE = 1e-12
"""The weight of a component below this is set to zero at the end of a fit."""


class Mixtures(NamedTuple):
    """Hold a batch of mixtures of K Gaussians in the plane, float64.

    `weights` is [B, K] and sums to 1, `means` [B, K, 2] as (down, across), `covariances` [B, K, 2, 2]. A component of
    weight zero is not part of its mixture.

    Example:
        >>> import torch
        >>> mixtures = Mixtures(torch.ones(3, 1), torch.zeros(3, 1, 2), torch.eye(2).expand(3, 1, 2, 2))
        >>> mixtures.shift(torch.ones(3, 2)).take(slice(0, 1)).means
        tensor([[[1., 1.]]])
    """

    weights: Tensor
    means: Tensor
    covariances: Tensor

    def take(self, rows: Tensor | slice) -> "Mixtures":
        """Return the mixtures of some rows of the batch."""
        return Mixtures(*(entry[rows] for entry in self))

    def shift(self, offset: Tensor) -> "Mixtures":
        """Move each mixture by its offset, [B, 2]."""
        return self._replace(means=self.means + offset[:, None])

    @staticmethod
    def join(parts: "list[Mixtures]") -> "Mixtures":
        """Concatenate batches."""
        return Mixtures(*(torch.cat(entries) for entries in zip(*parts, strict=True)))


def monomials(points: Tensor) -> Tensor:
    """Return the monomials up to degree two, [B, 6, P]: 1, y, x, y^2, yx, x^2 of points [B, P, 2]."""
    down, across = points.unbind(dim=-1)
    return torch.stack([torch.ones_like(down), down, across, down * down, down * across, across * across], dim=1)


def log_density_terms(mixtures: Mixtures) -> Tensor:
    """Return the coefficients [B, K, 6] of each component's weighted log density, one for each of the `monomials`."""
    (vertical, mixed), (_, horizontal) = _entries(mixtures.covariances)
    determinant = vertical * horizontal - mixed * mixed
    precision = torch.stack([horizontal, -mixed, vertical], dim=-1) / determinant[..., None]
    down, across = mixtures.means.unbind(dim=-1)
    slope_down = precision[..., 0] * down + precision[..., 1] * across
    slope_across = precision[..., 1] * down + precision[..., 2] * across
    weight = mixtures.weights.clamp(min=torch.finfo(torch.float64).tiny).log()
    peak = weight - math.log(2 * math.pi) - determinant.log() / 2
    level = peak - (slope_down * down + slope_across * across) / 2
    squares = precision * precision.new_tensor([-0.5, -1.0, -0.5])
    return torch.cat([torch.stack([level, slope_down, slope_across], dim=-1), squares], dim=-1)


def expect(features: Tensor, counts: Tensor, mixtures: Mixtures, pixels: int) -> tuple[Tensor, Tensor]:
    """Run the E-step: return the moments of each component's share of the points, [B, K, 6], and the likelihood, [B].

    The likelihood is the mean log-likelihood of the points. One product of matrices gives the log densities, another
    the moments; the responsibilities are never scaled.

    Args:
        features: `monomials` of the points, [B, 6, P].
        counts: How often each point occurs, [B, P]; 0 is padding.
        mixtures: B of them.
        pixels: Points in one pass; bounds the memory.
    """
    terms = log_density_terms(mixtures)
    moments = torch.zeros_like(terms)
    likelihood = torch.zeros_like(counts[:, 0])
    for some, weight in blocks(features, counts, pixels):
        density = torch.bmm(terms, some)
        top = density.amax(dim=1)
        density.sub_(top[:, None]).exp_()
        total = density.sum(dim=1)
        likelihood += (weight * (total.log() + top)).sum(dim=1)
        moments += torch.bmm(density, (some * (weight / total)[:, None]).mT)
    return moments, likelihood / counts.sum(dim=1)


def blocks(features: Tensor, counts: Tensor, pixels: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Split points and their counts into chunks of at most `pixels` points."""
    return zip(torch.split(features, pixels, dim=2), torch.split(counts, pixels, dim=1), strict=True)


def maximise(moments: Tensor, regularisation: float) -> Mixtures:
    """Run the M-step: return the mixtures with these moments of their components, [B, K, 6].

    Args:
        moments: Sums of the `monomials` over each component's share of the points.
        regularisation: Added to both variances, so that no component collapses onto a point or a line.
    """
    mass = moments[..., 0] + EMPTY
    means = moments[..., 1:3] / mass[..., None]
    vertical, mixed, horizontal = (moments[..., 3:] / mass[..., None]).unbind(dim=-1)
    down, across = means.unbind(dim=-1)
    mixed = mixed - down * across
    entries = [vertical - down * down + regularisation, mixed, mixed, horizontal - across * across + regularisation]
    covariances = torch.stack(entries, dim=-1).view(*mass.shape, 2, 2)
    return Mixtures(mass / mass.sum(dim=1, keepdim=True), means, covariances)


def drop_negligible(mixtures: Mixtures) -> Mixtures:
    """Set the weights of components that lost their points to zero."""
    weights = mixtures.weights.where(mixtures.weights > NEGLIGIBLE, 0.0)
    return mixtures._replace(weights=weights / weights.sum(dim=1, keepdim=True))


def _entries(covariances: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    above, below = covariances.unbind(dim=-2)
    return (above[..., 0], above[..., 1]), (below[..., 0], below[..., 1])
