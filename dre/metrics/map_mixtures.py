"""Gaussian mixtures fitted to a saliency map at several scales, the model behind XMGD."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dre.checks import check_count, check_saliency
from dre.metrics.distribution import Sign, normalised_saliency
from dre.mixtures import Begin, Fitting, Mixtures, fit_mixtures, mixture_distances, quantise

NUMBERS = 6
"""Numbers that describe a component: its weight, its mean (2), and the entries of its covariance (3)."""


@dataclass(frozen=True, slots=True)
class MapMixtures:
    """Fit mixtures to maps at several scales, and sum up the distances of the scales.

    Args:
        levels: Scales; the first is the map itself, each further one is averaged over windows of the one before.
        window: Side of those windows in pixels, and their stride.
        bins: How often a pixel of the highest value is counted; every scale is stretched to [0, 1] first.
        components: Gaussians of each mixture.
        weights: Of the scales' distances in their sum; equal and of sum 1 when not given.
        sign: How negative saliency is normalised, see `dre.metrics.distribution.normalised_saliency`.
        begin: Where each fit begins: `ellipse` or `k-means++`, see `dre.mixtures.Fitting`.
        restarts: Starts by k-means++ of which the likeliest end is kept.
        seed: Of their draws, which all maps share.

    Raises:
        ValueError: A count is below 1, or the weights do not fit the levels.

    Source: Rhodes et al. 2024, steps 1 to 5 with l, w, b and g; stride, normalisation and weights are our choice.

    Example:
        >>> import torch
        >>> model = MapMixtures(levels=2, components=3)
        >>> first, second = (model.fit(torch.eye(8)[None, None, row]) for row in ([2, 2], [4, 4]))
        >>> root, squared = model.distances(first, second)
        >>> model.pack(first).shape
        torch.Size([1, 36])
    """

    levels: int = 3
    window: int = 2
    bins: int = 10
    components: int = 10
    weights: Sequence[float] | None = None
    sign: Sign = "magnitude"
    begin: Begin = "ellipse"
    restarts: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        """Check that there is something to compare."""
        for name in ("levels", "window", "bins", "components"):
            check_count(name, getattr(self, name))
        self._fitting()
        given = self.weights
        if given is not None and (len(given) != self.levels or min(given) < 0 or sum(given) <= 0):
            raise ValueError(
                f"`weights` must hold {self.levels} shares, one for each level, none negative and not all zero, "
                f"got {list(given)}"
            )

    def check(self, saliency: Tensor) -> None:
        """Check that maps are a finite [B, 1, H, W] and not too small for the scales.

        Raises:
            ValueError: They are not [B, 1, H, W], not finite, or smaller than window^(levels - 1) pixels a side.
        """
        check_saliency(saliency)
        height, width = saliency.shape[-2:]
        coarsest = self.window ** (self.levels - 1)
        if min(height, width) < coarsest:
            raise ValueError(
                f"maps of {height} x {width} pixels have no {self.levels} scales of window {self.window}; "
                f"they need {coarsest} pixels a side, or fewer levels"
            )

    def fit(self, saliency: Tensor) -> list[Mixtures]:
        """Fit the maps [B, 1, H, W] at every scale; return one batch of B mixtures for each."""
        self.check(saliency)
        fitting, fitted = self._fitting(), []
        for maps, points in self._scales(normalised_saliency(saliency, self.sign)):
            counts = quantise(normalised_saliency(maps), self.bins).flatten(1)
            fitted.append(fit_mixtures(points, counts, fitting).mixtures)
        return fitted

    def distances(self, first: list[Mixtures], second: list[Mixtures]) -> tuple[Tensor, Tensor]:
        """Return the weighted sums over the scales of MW2 and of its square, both [B], between mixtures row by row."""
        weights = self.weights or [1 / self.levels] * self.levels
        squares = [mixture_distances(one, other) for one, other in zip(first, second, strict=True)]
        roots = [square.sqrt() for square in squares]
        return _weighted(roots, weights), _weighted(squares, weights)

    def pack(self, fitted: list[Mixtures]) -> Tensor:
        """Write the mixtures of all scales as one row a map, float64 [B, levels * K * 6]."""
        return torch.cat([torch.cat(_parts(mixtures), dim=1) for mixtures in fitted], dim=1)

    def unpack(self, rows: Tensor) -> list[Mixtures]:
        """Read what `pack` wrote."""
        return [_read(level, self.components) for level in torch.split(rows, NUMBERS * self.components, dim=1)]

    def _fitting(self) -> Fitting:
        return Fitting(self.components, self.begin, self.restarts, self.seed)

    def _scales(self, maps: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return the maps at every scale with the centres of their windows in the unit square."""
        sides = [(torch.arange(side).to(maps) + 0.5) / side for side in maps.shape[-2:]]
        scales = []
        for level in range(self.levels):
            if level:
                maps = F.avg_pool2d(maps, self.window, ceil_mode=True)
                sides = [F.avg_pool1d(side[None], self.window, ceil_mode=True)[0] for side in sides]
            scales.append((maps, torch.cartesian_prod(*sides).view(-1, 2)))
        return scales


def _weighted(entries: list[Tensor], weights: Sequence[float]) -> Tensor:
    return torch.stack([weight * entry for weight, entry in zip(weights, entries, strict=True)]).sum(dim=0)


def _parts(mixtures: Mixtures) -> list[Tensor]:
    covariances = mixtures.covariances.flatten(2)[..., [0, 1, 3]]
    return [mixtures.weights, mixtures.means.flatten(1), covariances.flatten(1)]


def _read(numbers: Tensor, components: int) -> Mixtures:
    weights, means, entries = torch.split(numbers, [components, 2 * components, 3 * components], dim=1)
    covariances = entries.reshape(-1, components, 3)[..., [0, 1, 1, 2]]
    return Mixtures(weights, means.reshape(-1, components, 2), covariances.view(-1, components, 2, 2))
