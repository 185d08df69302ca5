"""Completeness gap and concentration: a map's sum against the change of the score, and its variance over pixels."""

import torch
from torch import Tensor

from dre.checks import check_saliency
from dre.metrics.base import ImageMean
from dre.metrics.distribution import MapStatistic
from dre.renamed import accepts_old_options
from dre.types import Fill, Readout, Sweep


def completeness_gap(saliency: Tensor, change: Tensor) -> Tensor:
    """Return how far the sum of each map is from the change of the score that it explains: float64 [B], at least 0.

    Args:
        saliency: [B, 1, H, W], any range.
        change: [B], score of the image minus score of the baseline.

    Source: Sundararajan et al. 2017, the axiom of completeness.

    Example:
        >>> import torch
        >>> completeness_gap(torch.tensor([[[[0.5, 0.25]]]]), torch.tensor([1.0]))
        tensor([0.2500], dtype=torch.float64)
    """
    return (saliency.flatten(1).double().sum(dim=1) - change.double()).abs()


def concentration(saliency: Tensor) -> Tensor:
    """Return the variance of each map over its pixels: float64 [B], at least 0, in the map's own unit squared.

    Args:
        saliency: [B, 1, H, W], any range.

    Source: Zhang et al. 2024, Definition 1: of attributions with the same sum, those of higher variance are preferred.

    Example:
        >>> import torch
        >>> concentration(torch.tensor([[[[0.0, 0.0, 0.0, 4.0]]]]))
        tensor([3.], dtype=torch.float64)
    """
    return saliency.flatten(1).double().var(dim=1, correction=0)


def scaled_concentration(saliency: Tensor) -> Tensor:
    """Return N times the variance of each map after division by its sum of magnitudes: float64 [B] in [0, 1).

    N is the number of pixels. A constant map has 0, a map of one non-zero pixel 1 - 1 / N, so maps of different units
    can be compared.

    Args:
        saliency: [B, 1, H, W], any range.

    Source: our choice, a version of `concentration` without a unit.

    Example:
        >>> import torch
        >>> scaled_concentration(torch.tensor([[[[0.0, 0.0, 0.0, 4.0]]]]))
        tensor([0.7500], dtype=torch.float64)
    """
    values = saliency.flatten(1).double()
    values = values / values.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    total = values.abs().sum(dim=1, keepdim=True)
    return values.shape[1] * (values / total.where(total > 0, 1.0)).var(dim=1, correction=0)


@accepts_old_options
class CompletenessGap(ImageMean):
    """Compute the mean over images of |sum of the map - (score of the image - score of the baseline)|: at least 0.

    Lower is better. Use it only for methods that promise completeness, with their own baseline and score.

    Args:
        baseline: What is shown instead of the image.
        read: Score that the explainer was asked to explain.

    Source: Sundararajan et al. 2017, the axiom of completeness.

    Example:
        >>> import torch
        >>> metric = CompletenessGap()
        >>> metric.update(torch.full((1, 1, 2, 2), 0.25), scores=torch.tensor([[0.1, 0.9]]))
        >>> metric.compute().round(decimals=4)
        tensor(0.2000, dtype=torch.float64)
    """

    higher_is_better = False
    is_share = False

    def __init__(self, baseline: Fill = "black", read: Readout = "probability") -> None:
        super().__init__()
        self.sweeps = {"scores": Sweep((0.0, 1.0), baseline, read=read)}

    def update(self, saliency: Tensor, scores: Tensor) -> None:
        """Add a batch of maps [B, 1, H, W] and the scores [B, 2] of the baseline and of the image.

        Raises:
            ValueError: The maps are broken, or the scores are not [B, 2].
        """
        check_saliency(saliency)
        if scores.shape != (len(saliency), 2):
            raise ValueError(f"`scores` must be [{len(saliency)}, 2], baseline and image, got {list(scores.shape)}")
        self.accumulate(completeness_gap(saliency, scores[:, 1].double() - scores[:, 0].double()))


class Concentration(MapStatistic):
    """Compute the mean over images of the variance of the map over its pixels: at least 0; a constant map has 0.

    Higher is better.

    Args:
        scaled: Divide each map by its sum of magnitudes and multiply the variance by the number of pixels, so that
            maps of different units compare: in [0, 1).

    Source: Zhang et al. 2024, the concentration principle.

    Example:
        >>> import torch
        >>> metric = Concentration()
        >>> metric.update(torch.tensor([[[[0.7, 0.2, 0.1]]]]))
        >>> metric.compute().round(decimals=4)
        tensor(0.0689, dtype=torch.float64)
    """

    higher_is_better = True

    def __init__(self, scaled: bool = False) -> None:
        super().__init__()
        self.scaled = scaled
        self.is_share = scaled

    def measure(self, saliency: Tensor) -> Tensor:
        """Return the variance of each map, [B]."""
        return scaled_concentration(saliency) if self.scaled else concentration(saliency)
