"""RMSE, IoU, Kullback-Leibler divergence and Wasserstein distances between two saliency maps."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dre.metrics.distribution import as_distribution, normalised_saliency
from dre.metrics.map_comparison import MapComparison

FLOOR = 1e-3
"""Share of the mass that is spread evenly before the Kullback-Leibler divergence, which keeps it finite."""

SIDE = 28
"""Pixels a side on which the earth mover's distance is solved: 784 places, 614,656 unknowns."""


def root_mean_square(saliency: Tensor, reference: Tensor) -> Tensor:
    """Return the root mean squared difference of the normalised saliencies: float64 [B] in [0, 1]; 0 for equal maps.

    Args:
        saliency: [B, 1, H, W], any range.
        reference: [B, 1, H, W], any range.

    Example:
        >>> import torch
        >>> root_mean_square(torch.tensor([[[[0.0, 1.0, 1.0, 1.0]]]]), torch.tensor([[[[0.0, 0.0, 2.0, 2.0]]]]))
        tensor([0.5000], dtype=torch.float64)
    """
    return (normalised_saliency(saliency) - normalised_saliency(reference)).flatten(1).square().mean(dim=1).sqrt()


def intersection_over_union(saliency: Tensor, reference: Tensor, threshold: float = 0.5) -> Tensor:
    """Return the intersection over union of the pixels at or above a threshold: float64 [B] in [0, 1].

    1 for two constant maps, which have no such pixel.

    Args:
        saliency: [B, 1, H, W], any range.
        reference: [B, 1, H, W].
        threshold: Of the normalised saliency, in (0, 1).

    Example:
        >>> import torch
        >>> saliency, reference = torch.tensor([[[[0.0, 1.0, 1.0]]]]), torch.tensor([[[[0.0, 0.0, 2.0]]]])
        >>> intersection_over_union(saliency, reference)
        tensor([0.5000], dtype=torch.float64)
    """
    one, other = ((normalised_saliency(maps) >= threshold).flatten(1) for maps in (saliency, reference))
    either = (one | other).sum(dim=1).double()
    return torch.where(either > 0, (one & other).sum(dim=1) / either.where(either > 0, 1.0), 1.0)


def kullback_leibler(saliency: Tensor, reference: Tensor) -> Tensor:
    """Return the Kullback-Leibler divergence of the map from the reference in nats: float64 [B], 0 for equal maps.

    Both are normalised to sum 1. A thousandth of the mass of both is spread evenly over the image, which bounds the
    divergence of N pixels by log(1000 N). Not symmetric.

    Args:
        saliency: [B, 1, H, W], any range.
        reference: [B, 1, H, W], any range.

    Example:
        >>> import torch
        >>> kullback_leibler(torch.tensor([[[[0.0, 1.0]]]]), torch.tensor([[[[1.0, 0.0]]]])).round(decimals=3)
        tensor([7.5930], dtype=torch.float64)
    """
    even = FLOOR / saliency[0].numel()
    one, other = ((1 - FLOOR) * as_distribution(maps) + even for maps in (saliency, reference))
    return (one * (one.log() - other.log())).sum(dim=1).clamp(min=0)


def value_distance(saliency: Tensor, reference: Tensor) -> Tensor:
    """Return the Wasserstein-1 distance of the values of two normalised saliencies: float64 [B] in [0, 1].

    Where the values lie in the image does not matter.

    Args:
        saliency: [B, 1, H, W], any range.
        reference: [B, 1, H, W], any range.

    Example:
        >>> import torch
        >>> value_distance(torch.tensor([[[[0.0, 1.0, 1.0, 1.0]]]]), torch.tensor([[[[2.0, 0.0, 2.0, 0.0]]]]))
        tensor([0.2500], dtype=torch.float64)
    """
    one, other = (normalised_saliency(maps).flatten(1).sort(dim=1).values for maps in (saliency, reference))
    return (one - other).abs().mean(dim=1)


def earth_mover(saliency: Tensor, reference: Tensor, side: int = SIDE) -> Tensor:
    """Return the Wasserstein-1 distance of two maps over the unit square: float64 [B] in [0, sqrt(2)].

    Both are normalised to sum 1 and averaged onto at most `side` x `side` cells; POT solves the transport exactly, one
    image after the other on the CPU, in about 50 ms each.

    Args:
        saliency: [B, 1, H, W], any range.
        reference: [B, 1, H, W].
        side: Cells a side; a smaller map keeps its pixels.

    Example:
        >>> import torch
        >>> earth_mover(torch.eye(8)[None, None, [2, 2]], torch.eye(8)[None, None, [4, 4]])
        tensor([0.2500], dtype=torch.float64)
    """
    import ot  # takes a second, which no other metric needs

    height, width = (min(side, length) for length in saliency.shape[-2:])
    down, across = ((torch.arange(length).double() + 0.5) / length for length in (height, width))
    places = torch.cartesian_prod(down, across)
    costs = torch.cdist(places, places, compute_mode="donot_use_mm_for_euclid_dist").numpy()
    shares = []
    for maps in (saliency, reference):
        cells = F.adaptive_avg_pool2d(as_distribution(maps).view(maps.shape), (height, width)).flatten(1)
        shares.append((cells / cells.sum(dim=1, keepdim=True)).cpu().numpy())
    distances = [(ot.emd(one, other, costs) * costs).sum() for one, other in zip(*shares, strict=True)]
    return torch.from_numpy(np.array(distances, dtype=np.float64)).to(saliency.device)


class RootMeanSquare(MapComparison):
    """Compute the mean over images of the root mean squared difference of two normalised saliencies: in [0, 1].

    Example:
        >>> import torch
        >>> metric = RootMeanSquare()
        >>> metric.update(torch.tensor([[[[0.0, 1.0, 1.0, 1.0]]]]), torch.tensor([[[[0.0, 0.0, 2.0, 2.0]]]]))
        >>> metric.compute()
        tensor(0.5000, dtype=torch.float64)
    """

    higher_is_better = None

    def compare(self, saliency: Tensor, reference: Tensor) -> Tensor:
        """Return the root mean squared difference, [B]."""
        return root_mean_square(saliency, reference)


class IntersectionOverUnion(MapComparison):
    """Compute the mean over images of the intersection over union of the pixels above a threshold: in [0, 1].

    Args:
        threshold: Of the normalised saliency, in (0, 1).

    Raises:
        ValueError: `threshold` is outside (0, 1).

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
        """Return the intersection over union, [B]."""
        return intersection_over_union(saliency, reference, self.threshold)


class KullbackLeibler(MapComparison):
    """Compute the mean over images of the Kullback-Leibler divergence of a map from the reference: at least 0, in nats.

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
        """Return the Kullback-Leibler divergence, [B]."""
        return kullback_leibler(saliency, reference)


class ValueDistance(MapComparison):
    """Compute the mean over images of the Wasserstein-1 distance of the values of two normalised saliencies: in [0, 1].

    Example:
        >>> import torch
        >>> metric = ValueDistance()
        >>> metric.update(torch.tensor([[[[0.0, 1.0, 1.0, 1.0]]]]), torch.tensor([[[[2.0, 0.0, 2.0, 0.0]]]]))
        >>> metric.compute()
        tensor(0.2500, dtype=torch.float64)
    """

    higher_is_better = None

    def compare(self, saliency: Tensor, reference: Tensor) -> Tensor:
        """Return the distance of the sorted values, [B]."""
        return value_distance(saliency, reference)


class EarthMover(MapComparison):
    """Compute the mean over images of the Wasserstein-1 distance of two maps over the unit square: in [0, sqrt(2)].

    Args:
        side: Cells a side on which it is solved; the time grows with about the fourth power.

    Raises:
        ValueError: `side` is below 1.

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
        """Return the Wasserstein-1 distance, [B]."""
        return earth_mover(saliency, reference, self.side)
