"""Effective complexity: share of the pixels that a saliency map uses at all."""

from torch import Tensor

from dre.metrics.distribution import MapStatistic


def effective_complexity(saliency: Tensor, threshold: float = 1e-5) -> Tensor:
    """Return the share of the pixels whose magnitude is above a share of the largest: float64 [B] in [0, 1].

    0 for a map that is zero.

    Args:
        saliency: [B, 1, H, W], any range.
        threshold: Share of the map's largest magnitude.

    Source: Nguyen and Martinez 2020 as Quantus reads them, divided by the number of pixels.

    Example:
        >>> import torch
        >>> effective_complexity(torch.tensor([[[[0.0, 1e-6, 0.5, -1.0]]]]))
        tensor([0.5000], dtype=torch.float64)
    """
    values = saliency.flatten(1).double().abs()
    return (values > threshold * values.amax(dim=1, keepdim=True)).double().mean(dim=1)


class EffectiveComplexity(MapStatistic):
    """Compute the mean over images of the share of pixels that a map uses at all: in [0, 1]; neither end is better.

    Args:
        threshold: A pixel counts if its magnitude is above this share of the map's largest.

    Raises:
        ValueError: `threshold` is outside [0, 1).

    Source: Nguyen and Martinez 2020 as Quantus reads them. The paper itself asks how many of the highest features keep
    the score; `Insertion` shows that.

    Example:
        >>> import torch
        >>> metric = EffectiveComplexity()
        >>> metric.update(torch.tensor([[[[0.0, 1e-6, 0.5, -1.0]]]]))
        >>> metric.compute()
        tensor(0.5000, dtype=torch.float64)
    """

    higher_is_better = None

    def __init__(self, threshold: float = 1e-5) -> None:
        super().__init__()
        if not 0 <= threshold < 1:
            raise ValueError(f"`threshold` must be a share of the largest magnitude in [0, 1), got {threshold}")
        self.threshold = threshold

    def measure(self, saliency: Tensor) -> Tensor:
        """Return the share of each map, [B]."""
        return effective_complexity(saliency, self.threshold)
