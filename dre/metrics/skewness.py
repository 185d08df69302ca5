"""The shape of the scores: DRE wants few high ones and many low ones, a positive skew."""

import torch
from torch import Tensor

from dre.checks import check_saliency
from dre.metrics.image_mean import ImageMean


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
