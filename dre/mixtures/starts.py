"""Starts of a mixture fit, over the ellipse of the points or at k-means++ seeds, and the grid of counted pixels."""

import math

import torch
from torch import Tensor

from dre.mixtures.gaussians import Mixtures, blocks, maximise

BELOW_ONE = 1 - 1e-12
"""Largest share of the mass at which a draw may fall, so that it never lies behind the last point."""

TIE = 1e-12
"""Added to the squared distance to each seed after the first, so that rounding does not decide between equal ones."""

TURNS = (math.pi * 3 / 8, math.pi / 8)
"""Angles of the fours of components to the longer axis, in turns from the inside outwards."""

ROUND = 1e-12
"""Difference of the variances along both axes, over their sum, below which an ellipse is a circle."""


def ellipse_start(features: Tensor, counts: Tensor, components: int, regularisation: float) -> Mixtures:
    """Spread equal components over the ellipse of the points' mean and covariance, alike on both sides of its axes.

    Their distances from the middle are quantiles of the Gaussian with the points' mean and covariance. The start moves,
    stretches, turns and is mirrored with the points, so similar maps are fitted by similar mixtures, which random
    starts do not ensure, and mirrored maps by mirrored ones.

    Args:
        features: `monomials` of the points, [B, 6, P].
        counts: [B, P].
        components: K.
        regularisation: Added to the variances.

    Source: our choice.
    """
    whole = maximise(torch.bmm(features, counts[..., None]).mT, regularisation)
    places = _symmetric_places(components).to(features)
    means = whole.means + (_half_axes(whole.covariances[:, 0]) @ places).mT
    weights = torch.full_like(means[..., 0], 1 / components)
    return Mixtures(weights, means, (whole.covariances / components).expand(-1, components, -1, -1))


def _symmetric_places(components: int) -> Tensor:
    """Return K points [2, K] of a standard Gaussian that a mirror at either axis maps onto each other.

    One lies in the middle where K is odd, the others by fours, and two on the first axis, outermost, where that leaves
    a pair. Each group lies at the quantile of its place among the K.
    """
    places = [(0.0, 0.0)] * (components % 2)
    groups = [(4, TURNS[four % 2]) for four in range(components // 4)] + [(2, 0.0)] * (components % 4 // 2)
    for size, angle in groups:
        radius = math.sqrt(-2 * math.log1p(-(len(places) + size / 2) / components))
        down, across = radius * math.cos(angle), radius * math.sin(angle)
        signs = [(1, 1), (-1, -1), (1, -1), (-1, 1)][:size]
        places += [(one * down, other * across) for one, other in signs]
    return torch.tensor(places, dtype=torch.float64).T


def _half_axes(covariances: Tensor) -> Tensor:
    """Return the half axes of ellipses, the longer first, as columns: [B, 2, 2] of covariances [B, 2, 2].

    Either direction of an axis may come out. A circle has the directions of the grid.
    """
    vertical, horizontal, mixed = covariances[:, 0, 0], covariances[:, 1, 1], covariances[:, 0, 1]
    difference, total = vertical - horizontal, vertical + horizontal
    gap = torch.hypot(difference, 2 * mixed)
    angle = torch.atan2(2 * mixed, difference).where(gap > ROUND * total, 0.0) / 2
    axes = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=-1).view(-1, 2, 2)
    variances = torch.stack([total + gap, (total - gap).clamp_min(0)], dim=-1) / 2
    return axes * variances.sqrt()[:, None]


def draws(restarts: int, components: int, seed: int) -> Tensor:
    """Draw uniform numbers [restarts, components] that all maps share, so a map's start depends on the map alone."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(restarts, components, dtype=torch.float64, generator=generator).clamp(max=BELOW_ONE)


def spread_seeds(points: Tensor, counts: Tensor, uniform: Tensor) -> Tensor:
    """Draw seeds [B, K, 2] among the points, with probabilities count x squared distance to the nearest earlier seed.

    Equal draws at the same shares of the mass, counted outwards from where most of the spread lies: a map that is moved
    or mirrored has its seeds moved or mirrored. With fewer different points than seeds, points are repeated.

    Args:
        points: [B, P, 2], around their centre of mass.
        counts: [B, P], float64; a point of count 0 is never drawn.
        uniform: [K] in [0, 1).

    Source: Arthur and Vassilvitskii 2007 (k-means++), with weighted points.
    """
    outwards = _outwards(points, counts)
    points, counts = points.gather(1, outwards[..., None].expand(-1, -1, 2)), counts.gather(1, outwards)
    seeds: list[Tensor] = []
    distance = torch.ones_like(counts)
    for draw in uniform.tolist():
        mass = counts * distance
        mass = mass.where(mass.any(dim=1, keepdim=True), counts)  # every point is a seed: repeat one
        reached = mass.cumsum(dim=1)
        drawn = torch.searchsorted(reached, draw * reached[:, -1:], right=True)
        seeds.append(points.gather(1, drawn[..., None].expand(-1, -1, 2)))
        squared = (points - seeds[-1]).square().sum(dim=2)
        distance = torch.minimum(distance, squared) if len(seeds) > 1 else squared
    return torch.cat(seeds, dim=1)


def _outwards(points: Tensor, counts: Tensor) -> Tensor:
    """Return an order of the points, int64 [B, P], that does not depend on the directions of the axes.

    They go by their distance from the mean weighted by count x squared distance: pixels that lie alike around the
    centre of mass, which is often half-way between pixels, do not tie there unless the map itself is symmetric.
    """
    pull = (counts * points.square().sum(dim=2))[..., None]
    total = pull.sum(dim=1, keepdim=True)
    middle = (pull * points).sum(dim=1, keepdim=True) / total.where(total > 0, 1.0)
    return (points - middle).square().sum(dim=2).argsort(dim=1, stable=True)


def nearest_parts(features: Tensor, counts: Tensor, seeds: Tensor, regularisation: float, pixels: int) -> Mixtures:
    """Return the mixtures whose components are fitted to the points nearest to each seed.

    Args:
        features: `monomials` of the points, [B, 6, P].
        counts: [B, P].
        seeds: [B, K, 2].
        regularisation: Added to the variances.
        pixels: Points in one pass; bounds the memory.
    """
    handicap = TIE * torch.arange(seeds.shape[1], device=seeds.device)
    level = -seeds.square().sum(dim=2) - handicap
    closeness = torch.cat([level[..., None], 2 * seeds], dim=2)  # up to each point's own square
    moments = torch.zeros(*seeds.shape[:2], 6, dtype=features.dtype, device=features.device)
    for some, weight in blocks(features, counts, pixels):
        best = torch.bmm(closeness, some[:, :3]).argmax(dim=1, keepdim=True)
        share = torch.zeros(len(seeds), seeds.shape[1], best.shape[2], dtype=features.dtype, device=features.device)
        moments += torch.bmm(share.scatter_(1, best, weight[:, None]), some.mT)
    return maximise(moments, regularisation)


HALF_UP = 1e-9
"""Added before rounding, so that a value that rounding error has put just below a half is rounded up."""


def unit_grid(height: int, width: int, device: torch.device | None = None) -> Tensor:
    """Return the centres of the pixels in the unit square: float64 [H * W, 2] as (down, across), row by row.

    Example:
        >>> import torch
        >>> unit_grid(1, 2)
        tensor([[0.5000, 0.2500],
                [0.5000, 0.7500]], dtype=torch.float64)
    """
    down, across = ((torch.arange(side, dtype=torch.float64, device=device) + 0.5) / side for side in (height, width))
    return torch.cartesian_prod(down, across)


def quantise(maps: Tensor, bins: int) -> Tensor:
    """Return how often each pixel is duplicated, round(bins * value) with halves upwards: int64 of the maps' shape.

    Args:
        maps: Values in [0, 1].
        bins: Duplicates of a pixel of value 1.

    Source: Rhodes et al. 2024, the binning parameter b.

    Example:
        >>> import torch
        >>> quantise(torch.tensor([0.0, 0.25, 1.0]), bins=10)
        tensor([ 0,  3, 10])
    """
    return (maps.double() * bins + (0.5 + HALF_UP)).floor().long()


def fill_empty(counts: Tensor) -> Tensor:
    """Set every count to one in the rows of [B, P] that are all zero: a constant map is spread evenly."""
    return counts.where(counts.any(dim=1, keepdim=True), 1)


def compact(points: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Drop the pixels that no map of the batch counts: points [B, Q, 2] in their order, counts [B, Q] padded with 0.

    Args:
        points: [P, 2], the same for all maps.
        counts: [B, P].
    """
    kept = counts > 0
    length = int(kept.sum(dim=1).max())
    order = (~kept).long().argsort(dim=1, stable=True)[:, :length]
    return points[order], counts.gather(1, order)
