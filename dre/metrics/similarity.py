"""Pearson and Spearman correlation, SSIM, weighted Jaccard, squared error and top overlap of two saliency maps."""

import torch
import torch.nn.functional as F
from torch import Tensor

from dre.images.maps import min_max
from dre.metrics.map_comparison import MapComparison

WINDOW = 7
"""Side of the windows of structural similarity, in pixels."""

STABILISERS = (0.01**2, 0.03**2)
"""Constants C1 and C2 of structural similarity (Wang et al. 2004), for values in [0, 1]."""


def pearson(saliency: Tensor, reference: Tensor) -> Tensor:
    """Return Pearson's correlation over pixels: float64 [B] in [-1, 1]; NaN where either map is constant.

    Args:
        saliency: [B, 1, H, W], any range.
        reference: [B, 1, H, W], any range.

    Example:
        >>> import torch
        >>> pearson(torch.tensor([[[[0.0, 1.0, 2.0]]]]), torch.tensor([[[[5.0, 3.0, 1.0]]]]))
        tensor([-1.], dtype=torch.float64)
    """
    one, other = (_deviations(maps.flatten(1).double()) for maps in (saliency, reference))
    norm = (one.square().sum(dim=1) * other.square().sum(dim=1)).sqrt()
    return ((one * other).sum(dim=1) / norm.where(norm > 0, torch.nan)).clamp(-1, 1)


def spearman(saliency: Tensor, reference: Tensor) -> Tensor:
    """Return Spearman's rank correlation over pixels: float64 [B] in [-1, 1]; NaN where either map is constant.

    Equal values share the mean of their ranks.

    Args:
        saliency: [B, 1, H, W], any range.
        reference: [B, 1, H, W], any range.

    Example:
        >>> import torch
        >>> spearman(torch.tensor([[[[0.0, 1.0, 9.0]]]]), torch.tensor([[[[5.0, 6.0, 7.0]]]]))
        tensor([1.], dtype=torch.float64)
    """
    return pearson(_ranks(saliency.flatten(1)), _ranks(reference.flatten(1)))


def weighted_jaccard(saliency: Tensor, reference: Tensor) -> Tensor:
    """Return the sum of the smaller values divided by the sum of the larger ones: float64 [B] in [0, 1].

    Both maps are scaled to [0, 1] first, signs kept. 1 for equal maps and for two constant maps.

    Args:
        saliency: [B, 1, H, W], any range.
        reference: [B, 1, H, W], any range.

    Source: Rahman et al. 2022, the similarity of maps and input on MNIST.

    Example:
        >>> import torch
        >>> weighted_jaccard(torch.tensor([[[[0.0, 1.0, 2.0]]]]), torch.tensor([[[[0.0, 2.0, 2.0]]]]))
        tensor([0.7500], dtype=torch.float64)
    """
    one, other = _scaled(saliency), _scaled(reference)
    larger = torch.maximum(one, other).sum(dim=1)
    return torch.where(larger > 0, torch.minimum(one, other).sum(dim=1) / larger.where(larger > 0, 1.0), 1.0)


def structural_similarity(saliency: Tensor, reference: Tensor) -> Tensor:
    """Return the mean structural similarity (SSIM): float64 [B] in [-1, 1]; 1 for equal maps and two constant maps.

    Both maps are scaled to [0, 1] first, signs kept. Windows of 7 x 7 (or the largest odd side that fits) have equal
    weights and sample variances and lie wholly inside the map, as scikit-image does by default.

    Args:
        saliency: [B, 1, H, W], any range.
        reference: [B, 1, H, W], any range.

    Source: Rahman et al. 2022, the similarity of maps and input on MNIST; Wang et al. 2004, Eq. 13.

    Example:
        >>> import torch
        >>> structural_similarity(torch.eye(8)[None, None], 3 * torch.eye(8)[None, None])
        tensor([1.], dtype=torch.float64)
    """
    side = min(WINDOW, *saliency.shape[-2:])
    side -= 1 - side % 2
    one, other = min_max(saliency.double()), min_max(reference.double())
    sample = side * side / max(side * side - 1, 1)

    def mean(maps: Tensor) -> Tensor:
        return F.avg_pool2d(maps, side, stride=1)

    centre, level = mean(one), mean(other)
    variances = sample * (mean(one * one) - centre * centre + mean(other * other) - level * level)
    covariance = sample * (mean(one * other) - centre * level)
    means, spreads = STABILISERS
    alike: Tensor = (2 * centre * level + means) * (2 * covariance + spreads)
    alike = alike / ((centre * centre + level * level + means) * (variances + spreads))
    return alike.flatten(1).mean(dim=1)


def reverse_squared_error(saliency: Tensor, reference: Tensor) -> Tensor:
    """Return 1 - sum of squared differences / sum of squares of the reference: float64 [B], at most 1, no lower bound.

    Both maps are scaled to [0, 1] first, signs kept. 1 for equal maps; NaN where the reference is constant and the map
    is not.

    Args:
        saliency: [B, 1, H, W], any range.
        reference: [B, 1, H, W], any range.

    Source: Rahman et al. 2022, the normalised (reverse) mean squared error; division by the sum of squares of the
    reference is our reading.

    Example:
        >>> import torch
        >>> reverse_squared_error(torch.tensor([[[[0.0, 1.0, 2.0]]]]), torch.tensor([[[[0.0, 2.0, 2.0]]]]))
        tensor([0.8750], dtype=torch.float64)
    """
    one, other = _scaled(saliency), _scaled(reference)
    error, energy = (one - other).square().sum(dim=1), other.square().sum(dim=1)
    return torch.where(error > 0, 1 - error / energy.where(energy > 0, torch.nan), 1.0)


def top_intersection(saliency: Tensor, reference: Tensor, share: float = 0.1) -> Tensor:
    """Return the share of the highest-ranked pixels of one map that are among the other's: float64 [B] in [0, 1].

    Args:
        saliency: [B, 1, H, W], any range. Of equal values the one that comes first, row by row, ranks higher.
        reference: [B, 1, H, W].
        share: Of the pixels, in (0, 1]; at least one pixel is taken.

    Source: our choice.

    Example:
        >>> import torch
        >>> saliency, reference = torch.tensor([[[[4.0, 3.0, 2.0, 1.0]]]]), torch.tensor([[[[4.0, 1.0, 3.0, 2.0]]]])
        >>> top_intersection(saliency, reference, share=0.5)
        tensor([0.5000], dtype=torch.float64)
    """
    pixels = saliency[0].numel()
    count = max(1, round(share * pixels))
    tops = []
    for maps in (saliency, reference):
        first = maps.flatten(1).argsort(dim=1, descending=True, stable=True)[:, :count]
        tops.append(torch.zeros_like(maps.flatten(1), dtype=torch.bool).scatter_(1, first, True))
    return (tops[0] & tops[1]).sum(dim=1).double() / count


def _deviations(values: Tensor) -> Tensor:
    """Subtract the mean of each row [B, N] and scale by the largest magnitude; a constant row is exactly zero."""
    varies = values.amax(dim=1, keepdim=True) > values.amin(dim=1, keepdim=True)
    deviations = (values - values.mean(dim=1, keepdim=True)).where(varies, 0.0)
    return deviations / deviations.abs().amax(dim=1, keepdim=True).where(varies, 1.0)  # squares must not underflow


def _ranks(values: Tensor) -> Tensor:
    """Return ranks from 1 of values [B, N], equal ones sharing the mean of theirs, float64."""
    ordered, order = values.sort(dim=1)
    first = torch.searchsorted(ordered, ordered, right=False)
    last = torch.searchsorted(ordered, ordered, right=True)
    shared = (first + last + 1).double() / 2
    return torch.empty_like(shared).scatter_(1, order, shared)


def _scaled(saliency: Tensor) -> Tensor:
    return min_max(saliency.double()).flatten(1)


class Pearson(MapComparison):
    """Compute the mean over images of Pearson's correlation of two maps: in [-1, 1]; constant maps are left out.

    Example:
        >>> import torch
        >>> metric = Pearson()
        >>> metric.update(torch.tensor([[[[0.0, 1.0, 2.0]]]]), torch.tensor([[[[5.0, 3.0, 1.0]]]]))
        >>> metric.compute()
        tensor(-1., dtype=torch.float64)
    """

    higher_is_better = None

    def compare(self, saliency: Tensor, reference: Tensor) -> Tensor:
        """Return the correlation of the values, [B]."""
        return pearson(saliency, reference)


class Spearman(MapComparison):
    """Compute the mean over images of Spearman's rank correlation of two maps: in [-1, 1]; constant maps are left out.

    Example:
        >>> import torch
        >>> metric = Spearman()
        >>> metric.update(torch.tensor([[[[0.0, 1.0, 9.0]]]]), torch.tensor([[[[5.0, 6.0, 7.0]]]]))
        >>> metric.compute()
        tensor(1., dtype=torch.float64)
    """

    higher_is_better = None

    def compare(self, saliency: Tensor, reference: Tensor) -> Tensor:
        """Return the correlation of the ranks, [B]."""
        return spearman(saliency, reference)


class WeightedJaccard(MapComparison):
    """Compute the mean over images of the weighted Jaccard similarity of two maps, each scaled to [0, 1]: in [0, 1].

    Source: Rahman et al. 2022.

    Example:
        >>> import torch
        >>> metric = WeightedJaccard()
        >>> metric.update(torch.tensor([[[[0.0, 1.0, 2.0]]]]), torch.tensor([[[[0.0, 2.0, 2.0]]]]))
        >>> metric.compute()
        tensor(0.7500, dtype=torch.float64)
    """

    higher_is_better = None

    def compare(self, saliency: Tensor, reference: Tensor) -> Tensor:
        """Return the weighted Jaccard similarity, [B]."""
        return weighted_jaccard(saliency, reference)


class StructuralSimilarity(MapComparison):
    """Compute the mean over images of the SSIM of two maps, each scaled to [0, 1]: in [-1, 1].

    Source: Wang et al. 2004, Eq. 13; for maps, Rahman et al. 2022.

    Example:
        >>> import torch
        >>> metric = StructuralSimilarity()
        >>> metric.update(torch.eye(8)[None, None], 3 * torch.eye(8)[None, None])
        >>> metric.compute()
        tensor(1., dtype=torch.float64)
    """

    higher_is_better = None

    def compare(self, saliency: Tensor, reference: Tensor) -> Tensor:
        """Return the mean SSIM, [B]."""
        return structural_similarity(saliency, reference)


class ReverseSquaredError(MapComparison):
    """Compute the mean over images of 1 - the normalised squared error of two maps, scaled to [0, 1]: at most 1.

    Source: Rahman et al. 2022.

    Example:
        >>> import torch
        >>> metric = ReverseSquaredError()
        >>> metric.update(torch.tensor([[[[0.0, 1.0, 2.0]]]]), torch.tensor([[[[0.0, 2.0, 2.0]]]]))
        >>> metric.compute()
        tensor(0.8750, dtype=torch.float64)
    """

    higher_is_better = None
    is_symmetric = False

    def compare(self, saliency: Tensor, reference: Tensor) -> Tensor:
        """Return 1 - the normalised squared error, [B]."""
        return reverse_squared_error(saliency, reference)


class TopIntersection(MapComparison):
    """Compute the mean over images of the share of highest-ranked pixels that two maps have in common: in [0, 1].

    A random map has `share` in expectation.

    Args:
        share: Of the pixels that are taken as the highest-ranked, in (0, 1].

    Raises:
        ValueError: `share` is outside (0, 1].

    Example:
        >>> import torch
        >>> metric = TopIntersection(share=0.5)
        >>> metric.update(torch.tensor([[[[4.0, 3.0, 2.0, 1.0]]]]), torch.tensor([[[[4.0, 1.0, 3.0, 2.0]]]]))
        >>> metric.compute()
        tensor(0.5000, dtype=torch.float64)
    """

    higher_is_better = None

    def __init__(self, share: float = 0.1) -> None:
        super().__init__()
        if not 0 < share <= 1:
            raise ValueError(f"`share` must be in (0, 1], got {share}")
        self.share = share

    def compare(self, saliency: Tensor, reference: Tensor) -> Tensor:
        """Return the share of common highest-ranked pixels, [B]."""
        return top_intersection(saliency, reference, self.share)
