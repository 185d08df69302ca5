"""Entropy, Gini index, share of middle values and Pearson skewness of the values of a saliency map."""

import math
from abc import ABC, abstractmethod
from typing import Literal, get_args

import torch
from torch import Tensor

from dre.checks import check_saliency
from dre.images.maps import min_max
from dre.metrics.base import ImageMean


def entropy(saliency: Tensor) -> Tensor:
    """Return the Shannon entropy of each map's magnitudes, divided by that of a constant map: float64 [B] in [0, 1].

    1 for a map of one magnitude (all zero included), 0 for a single pixel.

    Args:
        saliency: [B, 1, H, W], any range; absolute values, divided by their sum, are the probabilities.

    Source: Bhatt et al. 2020 (complexity), divided by log N, which is our choice.

    Example:
        >>> import torch
        >>> entropy(torch.tensor([[[[0.0, 0.0, 3.0, -3.0]]]]))
        tensor([0.5000], dtype=torch.float64)
    """
    shares = _shares(saliency)
    information = -torch.xlogy(shares, shares).sum(dim=1)
    return (information / math.log(max(shares.shape[1], 2))).clamp(0, 1)


def gini(saliency: Tensor) -> Tensor:
    """Return the Gini index of each map's magnitudes: float64 [B] in [0, 1).

    0 for a map of one magnitude, 1 - 1 / N for a single non-zero pixel of N.

    Args:
        saliency: [B, 1, H, W], any range; absolute values count.

    Source: Hurley and Rickard 2009.

    Example:
        >>> import torch
        >>> gini(torch.tensor([[[[0.0, 0.0, 0.0, 4.0]]]]))
        tensor([0.7500], dtype=torch.float64)
    """
    shares = _shares(saliency).sort(dim=1).values
    pixels = shares.shape[1]
    places = torch.arange(pixels, dtype=torch.float64, device=shares.device)
    return (1 - 2 * (shares * (pixels - places - 0.5) / pixels).sum(dim=1)).clamp(min=0)


def _shares(saliency: Tensor) -> Tensor:
    """Return each pixel's share of the magnitude, [B, N]; even shares for a map that is zero."""
    values = saliency.flatten(1).double().abs()
    values = values / values.amax(dim=1, keepdim=True).clamp(min=torch.finfo(values.dtype).tiny)
    values = values.where(values.any(dim=1, keepdim=True), 1.0)
    return values / values.sum(dim=1, keepdim=True)


class MapStatistic(ImageMean, ABC):
    """Compute the mean over images of one number for each map."""

    def update(self, saliency: Tensor) -> None:
        """Add a batch of maps, [B, 1, H, W].

        Raises:
            ValueError: The maps have another shape, or NaN or infinity in them.
        """
        check_saliency(saliency)
        self.accumulate(self.measure(saliency))

    @abstractmethod
    def measure(self, saliency: Tensor) -> Tensor:
        """Return a number for each map, [B]."""


class Entropy(MapStatistic):
    """Compute the mean over images of the normalised entropy of the saliency's magnitude: in [0, 1].

    Neither end is better: it describes how evenly the saliency is spread.

    Source: Bhatt et al. 2020 (complexity), divided by log N, which is our choice.

    Example:
        >>> import torch
        >>> metric = Entropy()
        >>> metric.update(torch.tensor([[[[0.0, 0.0, 3.0, -3.0]]]]))
        >>> metric.compute()
        tensor(0.5000, dtype=torch.float64)
    """

    higher_is_better = None

    def measure(self, saliency: Tensor) -> Tensor:
        """Return the entropy of each map, [B]."""
        return entropy(saliency)


class GiniSparsity(MapStatistic):
    """Compute the mean over images of the Gini index of the saliency's magnitude: in [0, 1).

    It is higher where fewer pixels hold the saliency; neither end is better.

    Source: Hurley and Rickard 2009; Chalasani et al. 2020 (sparseness).

    Example:
        >>> import torch
        >>> metric = GiniSparsity()
        >>> metric.update(torch.tensor([[[[0.0, 0.0, 3.0, -3.0]]]]))
        >>> metric.compute()
        tensor(0.5000, dtype=torch.float64)
    """

    higher_is_better = None

    def measure(self, saliency: Tensor) -> Tensor:
        """Return the Gini index of each map, [B]."""
        return gini(saliency)


ENDS = (0.1, 0.9)
"""A value between these shares of the map's range is a middle value."""


def middle_share(saliency: Tensor) -> Tensor:
    """Return the share of the pixels between 10 and 90 % of the map's range: float64 [B] in [0, 1].

    0 for a constant map and for a mask of zeros and ones.

    Args:
        saliency: [B, 1, H, W], any range.

    Source: our choice.

    Example:
        >>> import torch
        >>> middle_share(torch.tensor([[[[0.0, 0.5, 0.95, 1.0]]]]))
        tensor([0.2500], dtype=torch.float64)
    """
    scaled = min_max(saliency.double()).flatten(1)
    return ((scaled > ENDS[0]) & (scaled < ENDS[1])).double().mean(dim=1)


class MiddleShare(MapStatistic):
    """Compute the mean over images of the share of pixels between 10 and 90 % of the map's range: in [0, 1].

    0 for a mask of zeros and ones; neither end is better.

    Source: our choice, for what Fu et al. 2021 (Section 4.2.2) say of MGnet: its scores are stacked at 0 and 1.

    Example:
        >>> import torch
        >>> metric = MiddleShare()
        >>> metric.update(torch.tensor([[[[0.0, 0.5, 0.95, 1.0]]]]))
        >>> metric.compute()
        tensor(0.2500, dtype=torch.float64)
    """

    higher_is_better = None

    def measure(self, saliency: Tensor) -> Tensor:
        """Return the share of middle values of each map, [B]."""
        return middle_share(saliency)


Sign = Literal["magnitude", "positive", "shift"]
"""How negative values are normalised: as positive ones, as zero, or below zero."""


def normalised_saliency(saliency: Tensor, sign: Sign = "magnitude") -> Tensor:
    """Scale each map to [0, 1] by its own smallest and largest value: float64 [B, 1, H, W], 0 for a constant map.

    Args:
        saliency: [B, 1, H, W], any range.
        sign: `magnitude` takes absolute values, `positive` sets negative ones to zero, `shift` keeps the order of all
            values and maps the smallest to 0. They agree where no value is negative. A signed map that is shifted has
            its zero, which is most of a path attribution, somewhere in the middle of the range.

    Raises:
        ValueError: `sign` is none of these.

    Example:
        >>> import torch
        >>> normalised_saliency(torch.tensor([[[[-2.0, 0.0, 1.0]]]])).flatten().tolist()
        [1.0, 0.0, 0.5]
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


def as_distribution(saliency: Tensor, sign: Sign = "magnitude") -> Tensor:
    """Return the normalised saliency divided by its sum: float64 [B, H * W]; a constant map is spread evenly.

    Args:
        saliency: [B, 1, H, W], any range.
        sign: How negative values are normalised, see `normalised_saliency`.

    Example:
        >>> import torch
        >>> as_distribution(torch.tensor([[[[-2.0, 0.0, 2.0]]]]))
        tensor([[0.5000, 0.0000, 0.5000]], dtype=torch.float64)
    """
    values = normalised_saliency(saliency, sign).flatten(1)
    values = values.where(values.any(dim=1, keepdim=True), 1.0)
    return values / values.sum(dim=1, keepdim=True)


def pearson_skewness(saliency: Tensor) -> Tensor:
    """Return Pearson's second coefficient of skewness, 3 (mean - median) / std, of each map: float64 [B] in [-3, 3].

    The standard deviation is the population's; a constant map has skewness 0.

    Args:
        saliency: [B, 1, H, W], any range.

    Source: Fu et al. 2021, who report Pearson skewness; that it is the second coefficient is our reading.

    Example:
        >>> import torch
        >>> pearson_skewness(torch.tensor([[[[0.0, 0.0, 0.0, 4.0]]]]))
        tensor([1.7321], dtype=torch.float64)
    """
    values = saliency.flatten(1).double().sort(dim=1).values
    middle = values.shape[1] // 2
    median = (values[:, middle] + values[:, -middle - 1]) / 2
    varies = values[:, 0] < values[:, -1]
    spread = values.std(dim=1, correction=0)
    return torch.where(varies, 3 * (values.mean(dim=1) - median) / spread.where(varies, 1.0), 0.0)


class PearsonSkewness(MapStatistic):
    """Compute the mean over images of Pearson's second coefficient of skewness of the saliency: in [-3, 3].

    Positive where few pixels are far above the others; neither end is better.

    Source: Fu et al. 2021, who report Pearson skewness; that it is the second coefficient is our reading.

    Example:
        >>> import torch
        >>> metric = PearsonSkewness()
        >>> metric.update(torch.tensor([[[[0.0, 0.0, 0.0, 4.0]]]]))
        >>> metric.compute()
        tensor(1.7321, dtype=torch.float64)
    """

    higher_is_better = None
    is_share = False

    def measure(self, saliency: Tensor) -> Tensor:
        """Return the skewness of each map, [B]."""
        return pearson_skewness(saliency)
