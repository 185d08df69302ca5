"""How alike two maps of an image are: by rank, by value, by structure, by what they put first."""

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from dre.checks import check_saliency
from dre.images.maps import min_max
from dre.metrics.base import ImageMean, MapComparison

WINDOW = 7
"""Side of the windows of structural similarity, in pixels."""

STABILISERS = (0.01**2, 0.03**2)
"""Of the means and of the variances in structural similarity (Wang et al. 2004), for values in [0, 1]."""


def pearson(saliency: Tensor, reference: Tensor) -> Tensor:
    """Pearson's correlation over pixels, float64 [B] in [-1, 1]; NaN where either map is constant."""
    one, other = (_deviations(maps.flatten(1).double()) for maps in (saliency, reference))
    norm = (one.square().sum(dim=1) * other.square().sum(dim=1)).sqrt()
    return ((one * other).sum(dim=1) / norm.where(norm > 0, torch.nan)).clamp(-1, 1)


def spearman(saliency: Tensor, reference: Tensor) -> Tensor:
    """Spearman's rank correlation over pixels, float64 [B] in [-1, 1]; NaN where either map is constant.

    Equal values share the mean of their ranks.
    """
    return pearson(_ranks(saliency.flatten(1)), _ranks(reference.flatten(1)))


def weighted_jaccard(saliency: Tensor, reference: Tensor) -> Tensor:
    """Sum of the smaller over sum of the larger values, float64 [B] in [0, 1]; 1 for two constant maps.

    Both maps are scaled to [0, 1] first.

    Source: paper 004, the similarity of maps and input on MNIST.
    """
    one, other = _scaled(saliency), _scaled(reference)
    larger = torch.maximum(one, other).sum(dim=1)
    return torch.where(larger > 0, torch.minimum(one, other).sum(dim=1) / larger.where(larger > 0, 1.0), 1.0)


def structural_similarity(saliency: Tensor, reference: Tensor) -> Tensor:
    """Mean structural similarity, float64 [B] in [-1, 1]; 1 for two constant maps.

    Both maps are scaled to [0, 1] first. Windows of 7 x 7 (or the largest odd side that fits) with equal weights,
    wholly inside the map, with sample variances: what scikit-image computes by default.

    Source: paper 004, the similarity of maps and input on MNIST; Wang et al. 2004, Eq. 13.
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
    """1 - sum of squared differences / sum of squares of the reference, float64 [B], 1 for equal maps, no lower bound.

    Both maps are scaled to [0, 1] first. NaN where the reference is constant and the map is not.

    Source: paper 004, the normalised (reverse) mean squared error; that the reference's energy is what normalises it
    is this project's reading.
    """
    one, other = _scaled(saliency), _scaled(reference)
    error, energy = (one - other).square().sum(dim=1), other.square().sum(dim=1)
    return torch.where(error > 0, 1 - error / energy.where(energy > 0, torch.nan), 1.0)


def top_intersection(saliency: Tensor, reference: Tensor, share: float = 0.1) -> Tensor:
    """Share of the highest-ranked pixels of one map that are among the other's, float64 [B] in [0, 1].

    Args:
        saliency: [B, 1, H, W], any range. Of equal values the one that comes first, row by row, ranks higher.
        reference: [B, 1, H, W].
        share: Of the pixels, in (0, 1]; at least one pixel is taken.
    """
    pixels = saliency[0].numel()
    count = max(1, round(share * pixels))
    chosen = []
    for maps in (saliency, reference):
        first = maps.flatten(1).argsort(dim=1, descending=True, stable=True)[:, :count]
        chosen.append(torch.zeros_like(maps.flatten(1), dtype=torch.bool).scatter_(1, first, True))
    return (chosen[0] & chosen[1]).sum(dim=1).double() / count


def _deviations(values: Tensor) -> Tensor:
    """Give values less their mean, [B, N], and exact zeros for a constant row, whose mean may be off by rounding."""
    varies = values.amax(dim=1, keepdim=True) > values.amin(dim=1, keepdim=True)
    deviations = (values - values.mean(dim=1, keepdim=True)).where(varies, 0.0)
    return deviations / deviations.abs().amax(dim=1, keepdim=True).where(varies, 1.0)  # squares must not underflow


def _ranks(values: Tensor) -> Tensor:
    """Ranks from 1 of values [B, N], equal ones sharing the mean of theirs, float64."""
    ordered, order = values.sort(dim=1)
    first = torch.searchsorted(ordered, ordered, right=False)
    last = torch.searchsorted(ordered, ordered, right=True)
    shared = (first + last + 1).double() / 2
    return torch.empty_like(shared).scatter_(1, order, shared)


def _scaled(saliency: Tensor) -> Tensor:
    return min_max(saliency.double()).flatten(1)


class Pearson(MapComparison):
    """Mean over images of Pearson's correlation of two maps: in [-1, 1]; constant maps are left out and counted.

    Example:
        >>> import torch
        >>> metric = Pearson()
        >>> metric.update(torch.tensor([[[[0.0, 1.0, 2.0]]]]), torch.tensor([[[[5.0, 3.0, 1.0]]]]))
        >>> metric.compute()
        tensor(-1., dtype=torch.float64)
    """

    higher_is_better = None

    def compare(self, saliency: Tensor, reference: Tensor) -> Tensor:
        """Correlate values."""
        return pearson(saliency, reference)


class Spearman(MapComparison):
    """Mean over images of Spearman's rank correlation of two maps: in [-1, 1]; constant maps are left out and counted.

    Example:
        >>> import torch
        >>> metric = Spearman()
        >>> metric.update(torch.tensor([[[[0.0, 1.0, 9.0]]]]), torch.tensor([[[[5.0, 6.0, 7.0]]]]))
        >>> metric.compute()
        tensor(1., dtype=torch.float64)
    """

    higher_is_better = None

    def compare(self, saliency: Tensor, reference: Tensor) -> Tensor:
        """Correlate ranks."""
        return spearman(saliency, reference)


class WeightedJaccard(MapComparison):
    """Mean over images of the weighted Jaccard similarity of two maps, each scaled to [0, 1]: in [0, 1].

    Example:
        >>> import torch
        >>> metric = WeightedJaccard()
        >>> metric.update(torch.tensor([[[[0.0, 1.0, 2.0]]]]), torch.tensor([[[[0.0, 2.0, 2.0]]]]))
        >>> metric.compute()
        tensor(0.7500, dtype=torch.float64)
    """

    higher_is_better = None

    def compare(self, saliency: Tensor, reference: Tensor) -> Tensor:
        """Divide the overlap by the hull."""
        return weighted_jaccard(saliency, reference)


class StructuralSimilarity(MapComparison):
    """Mean over images of the structural similarity of two maps, each scaled to [0, 1]: in [-1, 1].

    Example:
        >>> import torch
        >>> metric = StructuralSimilarity()
        >>> metric.update(torch.eye(8)[None, None], 3 * torch.eye(8)[None, None])
        >>> metric.compute()
        tensor(1., dtype=torch.float64)
    """

    higher_is_better = None

    def compare(self, saliency: Tensor, reference: Tensor) -> Tensor:
        """Compare windows."""
        return structural_similarity(saliency, reference)


class ReverseSquaredError(MapComparison):
    """Mean over images of 1 - the normalised squared error of two maps, each scaled to [0, 1]: at most 1.

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
        """Subtract the error's share from one."""
        return reverse_squared_error(saliency, reference)


class TopIntersection(MapComparison):
    """Mean over images of the share of highest-ranked pixels that two maps have in common: in [0, 1].

    A random map has `share` in expectation.

    Args:
        share: Of the pixels that are taken as the highest-ranked, in (0, 1].

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
        """Intersect the first pixels."""
        return top_intersection(saliency, reference, self.share)


Measure = Literal["spearman", "weighted_jaccard", "structural_similarity", "reverse_squared_error"]
MEASURES = {
    "spearman": spearman,
    "weighted_jaccard": weighted_jaccard,
    "structural_similarity": structural_similarity,
    "reverse_squared_error": reverse_squared_error,
}


class InputSimilarity(ImageMean):
    """Mean over images of the similarity between a map and its image, both scaled to [0, 1]; at most 1.

    The channels of an image are averaged. Images for which the measure is not defined, such as a correlation with a
    constant map, are left out and counted in `dropped`. An edge detector does well by it: it describes a map and says
    nothing about the classifier.

    Args:
        measure: Of `dre.metrics.similarity`; the image is the reference.

    Source: paper 004, table 1, on MNIST.

    Example:
        >>> import torch
        >>> metric = InputSimilarity()
        >>> metric.update(torch.tensor([[[[0.0, 1.0, 2.0]]]]), torch.tensor([[[[0.1, 0.5, 0.9]]]]))
        >>> metric.compute()
        tensor(1., dtype=torch.float64)
    """

    higher_is_better = True

    def __init__(self, measure: Measure = "spearman") -> None:
        super().__init__()
        if measure not in get_args(Measure):
            raise ValueError(f"no measure {measure!r} of similarity; choose {', '.join(get_args(Measure))}")
        self.measure = measure

    def update(self, saliency: Tensor, images: Tensor) -> None:
        """Add a batch of maps [B, 1, H, W] and their images [B, C, H, W]."""
        check_saliency(saliency)
        if images.shape[0] != saliency.shape[0] or images.shape[2:] != saliency.shape[2:]:
            raise ValueError(
                f"`images` must be {len(saliency)} of {list(saliency.shape[2:])} pixels to match `saliency`, "
                f"got {list(images.shape)}"
            )
        values = MEASURES[self.measure](saliency, images.mean(dim=1, keepdim=True))
        self.accumulate(values, keep=~values.isnan())
