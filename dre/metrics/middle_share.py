"""Whether a map grades its pixels, or puts nearly all of them at its two ends."""

from torch import Tensor

from dre.checks import check_saliency
from dre.imaging import min_max
from dre.metrics.image_mean import ImageMean

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
