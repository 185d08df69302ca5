"""How saliency is shared out among the pixels: evenly, or among few."""

import math

import torch
from torch import Tensor

from dre.checks import check_saliency
from dre.metrics.image_mean import ImageMean


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
