"""How saliency is shared out among the pixels: evenly, or among few."""

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from dre.checks import check_saliency
from dre.images.maps import min_max
from dre.metrics.base import ImageMean


def entropy(saliency: Tensor) -> Tensor:
    """Shannon entropy of each pixel's share of the magnitude, over that of an even share: float64 [B] in [0, 1].

    1 for a map of one magnitude (all zero included), 0 for a single pixel.

    Args:
        saliency: [B, 1, H, W], any range; absolute values count.
    """
    shares = _shares(saliency)
    information = -torch.xlogy(shares, shares).sum(dim=1)
    return (information / math.log(max(shares.shape[1], 2))).clamp(0, 1)


def gini(saliency: Tensor) -> Tensor:
    """Gini index of the magnitudes, float64 [B] in [0, 1): 0 for a map of one magnitude, 1 - 1 / N for one pixel of N.

    Args:
        saliency: [B, 1, H, W], any range; absolute values count.

    Source: Hurley and Rickard, "Comparing measures of sparsity", 2009.
    """
    shares = _shares(saliency).sort(dim=1).values
    pixels = shares.shape[1]
    places = torch.arange(pixels, dtype=torch.float64, device=shares.device)
    return (1 - 2 * (shares * (pixels - places - 0.5) / pixels).sum(dim=1)).clamp(min=0)


def _shares(saliency: Tensor) -> Tensor:
    """Each pixel's share of the magnitude, [B, N]; even shares for a map that is zero."""
    values = saliency.flatten(1).double().abs()
    values = values / values.amax(dim=1, keepdim=True).clamp(min=torch.finfo(values.dtype).tiny)
    values = values.where(values.any(dim=1, keepdim=True), 1.0)
    return values / values.sum(dim=1, keepdim=True)


class Entropy(ImageMean):
    """Mean over images of the entropy of the saliency's magnitude, over that of an even map: in [0, 1].

    Example:
        >>> import torch
        >>> metric = Entropy()
        >>> metric.update(torch.tensor([[[[0.0, 0.0, 3.0, -3.0]]]]))
        >>> metric.compute()
        tensor(0.5000, dtype=torch.float64)
    """

    higher_is_better = None

    def update(self, saliency: Tensor) -> None:
        """Add a batch of maps, [B, 1, H, W]."""
        check_saliency(saliency)
        self.accumulate(entropy(saliency))


class GiniSparsity(ImageMean):
    """Mean over images of the Gini index of the saliency's magnitude: in [0, 1), higher where fewer pixels hold it.

    Example:
        >>> import torch
        >>> metric = GiniSparsity()
        >>> metric.update(torch.tensor([[[[0.0, 0.0, 3.0, -3.0]]]]))
        >>> metric.compute()
        tensor(0.5000, dtype=torch.float64)
    """

    higher_is_better = None

    def update(self, saliency: Tensor) -> None:
        """Add a batch of maps, [B, 1, H, W]."""
        check_saliency(saliency)
        self.accumulate(gini(saliency))


ENDS = (0.1, 0.9)
"""Between these shares of its range a value counts as graded."""


def middle_share(saliency: Tensor) -> Tensor:
    """Share of the pixels between 10 and 90 % of the map's range, float64 [B] in [0, 1]; 0 for a constant map."""
    scaled = min_max(saliency.double()).flatten(1)
    return ((scaled > ENDS[0]) & (scaled < ENDS[1])).double().mean(dim=1)


class MiddleShare(ImageMean):
    """Mean over images of the share of pixels between the ends of a map: in [0, 1], 0 for a mask of zeros and ones.

    Source: our choice, for what paper 003 (section 4.2.2) says of MGnet: its scores are stacked at 0 and 1.

    Example:
        >>> import torch
        >>> metric = MiddleShare()
        >>> metric.update(torch.tensor([[[[0.0, 0.5, 0.95, 1.0]]]]))
        >>> metric.compute()
        tensor(0.2500, dtype=torch.float64)
    """

    higher_is_better = None

    def update(self, saliency: Tensor) -> None:
        """Add a batch of maps [B, 1, H, W]."""
        check_saliency(saliency)
        self.accumulate(middle_share(saliency))


Sign = Literal["magnitude", "positive", "shift"]
"""What a negative value counts: as much as a positive one, nothing, or less than zero does."""


def relief(saliency: Tensor, sign: Sign = "magnitude") -> Tensor:
    """Non-negative map, scaled to [0, 1] by its own extremes, float64 [B, 1, H, W]; all zero for a constant map.

    Args:
        saliency: [B, 1, H, W], any range.
        sign: `magnitude` takes absolute values, `positive` sets negative ones to zero, `shift` keeps the order of all
            values and lets the smallest count nothing. They agree where no value is negative. A signed map that is
            shifted has its zero, which is most of a path attribution, somewhere in the middle of the range.
    """
    values = saliency.double()
    match sign:
        case "magnitude":
            return min_max(values.abs())
        case "positive":
            return min_max(values.clamp(min=0))
        case "shift":
            return min_max(values)
    raise ValueError(f"unknown sign {sign!r}; choose {', '.join(get_args(Sign))}")


def distribution(saliency: Tensor, sign: Sign = "magnitude") -> Tensor:
    """Give the relief as shares of its sum, float64 [B, H * W]; a constant map is spread evenly."""
    heights = relief(saliency, sign).flatten(1)
    heights = heights.where(heights.any(dim=1, keepdim=True), 1.0)
    return heights / heights.sum(dim=1, keepdim=True)


def pearson_skewness(saliency: Tensor) -> Tensor:
    """Pearson's second coefficient of skewness, 3 (mean - median) / std, per image: float64 [B] in [-3, 3].

    The standard deviation is the population's; a constant map has skewness 0.

    Args:
        saliency: [B, 1, H, W], any range.
    """
    values = saliency.flatten(1).double().sort(dim=1).values
    middle = values.shape[1] // 2
    median = (values[:, middle] + values[:, -middle - 1]) / 2
    varies = values[:, 0] < values[:, -1]
    spread = values.std(dim=1, correction=0)
    return torch.where(varies, 3 * (values.mean(dim=1) - median) / spread.where(varies, 1.0), 0.0)


class PearsonSkewness(ImageMean):
    """Mean over images of Pearson's second coefficient of skewness of the saliency: in [-3, 3].

    Example:
        >>> import torch
        >>> metric = PearsonSkewness()
        >>> metric.update(torch.tensor([[[[0.0, 0.0, 0.0, 4.0]]]]))
        >>> metric.compute()
        tensor(1.7321, dtype=torch.float64)
    """

    higher_is_better = None
    is_share = False

    def update(self, saliency: Tensor) -> None:
        """Add a batch of maps, [B, 1, H, W]."""
        check_saliency(saliency)
        self.accumulate(pearson_skewness(saliency))
