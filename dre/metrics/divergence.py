"""Distances beside XMGD, so that it can be compared: in the space of pixels, of values, and of distributions."""

from typing import Literal

import numpy as np
import ot
import torch
import torch.nn.functional as F
from torch import Tensor

from dre.checks import check_choice
from dre.metrics.base import MapComparison
from dre.metrics.distribution import distribution, relief

FLOOR = 1e-3
"""Share of the mass that is spread evenly before Kullback-Leibler: a pixel of no mass would make it infinite."""

SIDE = 28
"""Pixels a side on which the earth mover's distance is solved: 784 places, 614,656 unknowns."""


def root_mean_square(saliency: Tensor, reference: Tensor) -> Tensor:
    """Root of the mean squared difference of the reliefs, float64 [B] in [0, 1]."""
    return (relief(saliency) - relief(reference)).flatten(1).square().mean(dim=1).sqrt()


def intersection_over_union(saliency: Tensor, reference: Tensor, threshold: float = 0.5) -> Tensor:
    """Share of the pixels above the threshold in either relief that are so in both, float64 [B] in [0, 1].

    1 for two constant maps, which have no such pixel.

    Args:
        saliency: [B, 1, H, W], any range.
        reference: [B, 1, H, W].
        threshold: In (0, 1); a relief's highest value is 1.
    """
    one, other = ((relief(maps) >= threshold).flatten(1) for maps in (saliency, reference))
    either = (one | other).sum(dim=1).double()
    return torch.where(either > 0, (one & other).sum(dim=1) / either.where(either > 0, 1.0), 1.0)


def kullback_leibler(saliency: Tensor, reference: Tensor) -> Tensor:
    """Divergence of the map's distribution from the reference's in nats, float64 [B], 0 for equal ones.

    A thousandth of the mass of both is spread evenly over the image, which bounds the divergence of N pixels by
    log(1000 N). Not symmetric.
    """
    even = FLOOR / saliency[0].numel()
    one, other = ((1 - FLOOR) * distribution(maps) + even for maps in (saliency, reference))
    return (one * (one.log() - other.log())).sum(dim=1).clamp(min=0)


def value_distance(saliency: Tensor, reference: Tensor) -> Tensor:
    """Wasserstein-1 distance of the values of two reliefs, wherever they lie, float64 [B] in [0, 1]."""
    one, other = (relief(maps).flatten(1).sort(dim=1).values for maps in (saliency, reference))
    return (one - other).abs().mean(dim=1)


def earth_mover(saliency: Tensor, reference: Tensor, side: int = SIDE) -> Tensor:
    """Wasserstein-1 distance of the distributions over the unit square, float64 [B] in [0, sqrt(2)].

    Both are averaged onto at most `side` x `side` cells first and solved exactly by POT, one image after the other on
    the CPU: about 50 ms each.

    Args:
        saliency: [B, 1, H, W], any range.
        reference: [B, 1, H, W].
        side: Cells a side; a smaller map keeps its pixels.
    """
    height, width = (min(side, length) for length in saliency.shape[-2:])
    down, across = ((torch.arange(length).double() + 0.5) / length for length in (height, width))
    places = torch.cartesian_prod(down, across)
    costs = torch.cdist(places, places, compute_mode="donot_use_mm_for_euclid_dist").numpy()
    shares = []
    for maps in (saliency, reference):
        cells = F.adaptive_avg_pool2d(distribution(maps).view(maps.shape), (height, width)).flatten(1)
        shares.append((cells / cells.sum(dim=1, keepdim=True)).cpu().numpy())
    distances = [(ot.emd(one, other, costs) * costs).sum() for one, other in zip(*shares, strict=True)]
    return torch.from_numpy(np.array(distances, dtype=np.float64)).to(saliency.device)


class RootMeanSquare(MapComparison):
    """Mean over images of the root mean squared difference of two maps, each as relief in [0, 1].

    Example:
        >>> import torch
        >>> metric = RootMeanSquare()
        >>> metric.update(torch.tensor([[[[0.0, 1.0, 1.0, 1.0]]]]), torch.tensor([[[[0.0, 0.0, 2.0, 2.0]]]]))
        >>> metric.compute()
        tensor(0.5000, dtype=torch.float64)
    """

    higher_is_better = None

    def compare(self, saliency: Tensor, reference: Tensor) -> Tensor:
        """Compare pixel by pixel."""
        return root_mean_square(saliency, reference)


class IntersectionOverUnion(MapComparison):
    """Mean over images of the intersection over union of the pixels above a threshold: in [0, 1].

    Args:
        threshold: In (0, 1), of the relief, whose highest value is 1.

    Example:
        >>> import torch
        >>> metric = IntersectionOverUnion()
        >>> metric.update(torch.tensor([[[[0.0, 1.0, 1.0, 1.0]]]]), torch.tensor([[[[0.0, 0.0, 2.0, 2.0]]]]))
        >>> metric.compute()
        tensor(0.6667, dtype=torch.float64)
    """

    higher_is_better = None

    def __init__(self, threshold: float = 0.5) -> None:
        super().__init__()
        if not 0 < threshold < 1:
            raise ValueError(f"`threshold` must be in (0, 1), got {threshold}")
        self.threshold = threshold

    def compare(self, saliency: Tensor, reference: Tensor) -> Tensor:
        """Compare what is highest."""
        return intersection_over_union(saliency, reference, self.threshold)


class KullbackLeibler(MapComparison):
    """Mean over images of the Kullback-Leibler divergence of a map's distribution from the reference's, in nats.

    Example:
        >>> import torch
        >>> metric = KullbackLeibler()
        >>> metric.update(torch.eye(8)[None, None], 3 * torch.eye(8)[None, None])
        >>> metric.compute()
        tensor(0., dtype=torch.float64)
    """

    higher_is_better = None
    is_symmetric = False

    def compare(self, saliency: Tensor, reference: Tensor) -> Tensor:
        """Compare distributions without regard to where pixels lie."""
        return kullback_leibler(saliency, reference)


class ValueDistance(MapComparison):
    """Mean over images of the Wasserstein-1 distance of two maps' values, each as relief in [0, 1].

    Example:
        >>> import torch
        >>> metric = ValueDistance()
        >>> metric.update(torch.tensor([[[[0.0, 1.0, 1.0, 1.0]]]]), torch.tensor([[[[2.0, 0.0, 2.0, 0.0]]]]))
        >>> metric.compute()
        tensor(0.2500, dtype=torch.float64)
    """

    higher_is_better = None

    def compare(self, saliency: Tensor, reference: Tensor) -> Tensor:
        """Compare sorted values."""
        return value_distance(saliency, reference)


class EarthMover(MapComparison):
    """Mean over images of the Wasserstein-1 distance of two maps' distributions over the unit square.

    Args:
        side: Cells a side on which it is solved; the time grows with about the fourth power.

    Example:
        >>> import torch
        >>> metric = EarthMover()
        >>> metric.update(torch.eye(8)[None, None, [2, 2]], torch.eye(8)[None, None, [4, 4]])
        >>> metric.compute()
        tensor(0.2500, dtype=torch.float64)
    """

    higher_is_better = None

    def __init__(self, side: int = SIDE) -> None:
        super().__init__()
        if side < 1:
            raise ValueError(f"`side` must be at least 1, got {side}")
        self.side = side

    def compare(self, saliency: Tensor, reference: Tensor) -> Tensor:
        """Move one distribution into the other."""
        return earth_mover(saliency, reference, self.side)


Unit = Literal["sum", "magnitude"]
"""What a map is divided by: its signed sum, as paper 002 does it, or the sum of its magnitudes."""


ROUNDING = torch.finfo(torch.float32).eps
"""A signed sum that is smaller than this share of the magnitudes is that of the map's own rounding."""


def scaled_squared_error(saliency: Tensor, reference: Tensor, unit: Unit = "magnitude") -> Tensor:
    """Mean squared difference of two maps in units of their own sums, float64 [B]; 0 for equal maps.

    NaN where a map has nothing to be divided by: a sum of zero, up to rounding. The signed sum of a path attribution
    may be close to zero, and the error then says more about that sum than about the map.

    Args:
        saliency: [B, 1, H, W], any range.
        reference: [B, 1, H, W].
        unit: What each map is divided by.

    Source: paper 002, table 5; the division is that of its published code.
    """
    check_choice("unit", unit, ("sum", "magnitude"))
    one, other = (_in_units(maps.flatten(1).double(), unit) for maps in (saliency, reference))
    return (one - other).square().mean(dim=1)


def log_squared_error(saliency: Tensor, reference: Tensor, unit: Unit = "magnitude") -> Tensor:
    """- log10 of `scaled_squared_error`, float64 [B]; higher is steadier, infinite for equal maps.

    Args:
        saliency: [B, 1, H, W], any range.
        reference: [B, 1, H, W].
        unit: What each map is divided by.

    Source: paper 002, table 5; the base of the logarithm is our reading of its figures.
    """
    return -scaled_squared_error(saliency, reference, unit).log10()


def _in_units(values: Tensor, unit: Unit) -> Tensor:
    values = values / values.abs().amax(dim=1, keepdim=True)  # NaN for an empty map; tiny values would underflow
    magnitude = values.abs().sum(dim=1, keepdim=True)
    total = values.sum(dim=1, keepdim=True) if unit == "sum" else magnitude
    return values / total.where(total.abs() > ROUNDING * magnitude, torch.nan)


class LogSquaredError(MapComparison):
    """Mean over images of - log10 of the squared difference of two maps, each in units of its own sum: no bounds.

    Images without a unit are left out and counted in `dropped`, and so are images whose maps are equal.

    Args:
        unit: What each map is divided by: its signed `sum` (paper 002) or the sum of its `magnitude`.

    Example:
        >>> import torch
        >>> metric = LogSquaredError()
        >>> metric.update(torch.tensor([[[[0.5, 0.5]]]]), torch.tensor([[[[3.0, 2.0]]]]))
        >>> metric.compute().round(decimals=6)
        tensor(2., dtype=torch.float64)
    """

    higher_is_better = True
    is_share = False

    def __init__(self, unit: Unit = "magnitude") -> None:
        super().__init__()
        check_choice("unit", unit, ("sum", "magnitude"))
        self.unit = unit

    def compare(self, saliency: Tensor, reference: Tensor) -> Tensor:
        """Compare in units of the maps' own sums."""
        error = log_squared_error(saliency, reference, self.unit)
        return error.where(error.isfinite(), torch.nan)
