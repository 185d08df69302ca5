"""What attributions promise by their own theory: to sum to the score's change, and to be concentrated on few pixels."""

import torch
from torch import Tensor

from dre.checks import check_saliency
from dre.metrics.base import ImageMean
from dre.renamed import accepts_old_options
from dre.types import Fill, Readout, Sweep


def completeness_gap(saliency: Tensor, change: Tensor) -> Tensor:
    """Distance between the sum of a map and the change of the score that it explains, per image: float64 [B].

    Args:
        saliency: [B, 1, H, W], any range.
        change: [B], score of the image minus score of the baseline.

    Source: Sundararajan et al. 2017, completeness.
    """
    return (saliency.flatten(1).double().sum(dim=1) - change.double()).abs()


def concentration(saliency: Tensor) -> Tensor:
    """Variance of a map over its pixels, per image: float64 [B].

    Args:
        saliency: [B, 1, H, W], any range.

    Source: paper 001, definition 1: of attributions with the same sum, those with the higher variance are preferred.
    """
    return saliency.flatten(1).double().var(dim=1, correction=0)


def scaled_concentration(saliency: Tensor) -> Tensor:
    """Variance of a map that is divided by its sum of magnitudes, times the number of pixels: float64 [B] in [0, 1).

    0 for a constant map, 1 - 1 / N for a single one of N pixels; maps of different units can be compared.

    Args:
        saliency: [B, 1, H, W], any range.
    """
    values = saliency.flatten(1).double()
    values = values / values.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    total = values.abs().sum(dim=1, keepdim=True)
    return values.shape[1] * (values / total.where(total > 0, 1.0)).var(dim=1, correction=0)


@accepts_old_options
class CompletenessGap(ImageMean):
    """Mean over images of |sum of the map - (score of the image - score of the baseline)|: at least 0.

    Only methods that promise completeness can be judged by it, and only with their own baseline and score.

    Args:
        baseline: What is shown instead of the image.
        read: Score that the explainer was asked to explain.

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
        """Add a batch of maps [B, 1, H, W] and the scores [B, 2] of the baseline and of the image."""
        check_saliency(saliency)
        if scores.shape != (len(saliency), 2):
            raise ValueError(f"`scores` must be [{len(saliency)}, 2], baseline and image, got {list(scores.shape)}")
        self.accumulate(completeness_gap(saliency, scores[:, 1].double() - scores[:, 0].double()))


class Concentration(ImageMean):
    """Mean over images of the variance of the map over its pixels: at least 0; a constant map has 0.

    Args:
        scaled: Divide each map by its sum of magnitudes and multiply the variance by the number of pixels, so that
            maps of different units compare: in [0, 1).

    Source: paper 001, the concentration principle.

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

    def update(self, saliency: Tensor) -> None:
        """Add a batch of maps, [B, 1, H, W]."""
        check_saliency(saliency)
        self.accumulate(scaled_concentration(saliency) if self.scaled else concentration(saliency))
