"""Faithfulness correlation and monotonicity correlation, from the random sets of Sensitivity-N."""

import math

from torch import Tensor

from dre.metrics.sensitivity import SetCorrelation, set_sizes
from dre.metrics.similarity import spearman
from dre.types import Fill, Readout


class FaithfulnessCorrelation(SetCorrelation):
    """Compute the mean over images of the correlation, over sets of one size, of saliency with the drop: in [-1, 1].

    Higher is better. It is Sensitivity-N at one of its sizes, and costs `draws` passes an image for all explainers;
    none beside a `SensitivityN` with the same options. Images without a correlation (a constant map, equal drops) are
    left out and counted in `dropped`.

    Args:
        share: Of the pixels in a set; the nearest of the sizes below is taken, on their logarithmic scale.
        sizes: Of the sets of `SensitivityN`; 1 takes `largest` itself.
        draws: Random sets.
        smallest: See `SensitivityN`.
        largest: See `SensitivityN`.
        fill: What replaces them.
        read: Score of the target.
        seed: Of the sets.

    Raises:
        ValueError: `share` is outside (0, 1], `sizes` below 1 or `draws` below 2, or not 0 < `smallest` <= `largest` <=
            1.

    Source: Bhatt et al. 2020 (faithfulness correlation). Quantus takes 224 of the values of a photograph, 0.15 % of
    224 x 224 with three channels; our sets are of pixels with all channels.

    Example:
        >>> import torch
        >>> from dre.metrics import removed_sums
        >>> metric = FaithfulnessCorrelation(sizes=1, draws=2, largest=0.5)
        >>> saliency = torch.arange(4.0).view(1, 1, 2, 2)
        >>> drops = removed_sums(saliency, ["image"], metric.sweeps["scores"])[..., 0]
        >>> metric.update(saliency, scores=9 - drops, full=torch.tensor([[9.0]]), keys=["image"])
        >>> metric.compute()
        tensor(1., dtype=torch.float64)
    """

    higher_is_better = True

    def __init__(
        self,
        share: float = 0.0015,
        sizes: int = 8,
        draws: int = 100,
        smallest: float = 2e-5,
        largest: float = 0.8,
        fill: Fill = "black",
        read: Readout = "logit",
        seed: int = 0,
    ) -> None:
        ratios = set_sizes(type(self).__name__, sizes, draws, smallest, largest)
        if not 0 < share <= 1:
            raise ValueError(f"`share` of the pixels in a set must lie in (0, 1], got {share}")
        nearest = min(ratios, key=lambda ratio: abs(math.log(ratio / share)))
        super().__init__((nearest,), draws, fill, read, seed)


def monotonicity_correlation(sums: Tensor, drops: Tensor) -> Tensor:
    """Return the rank correlation, over sets, of summed magnitudes with squared drops of the score: float64 [B, R].

    NaN where all sums, or all magnitudes of drops, are equal.

    Args:
        sums: [B, draws, R], magnitude of the saliency in each set, at least 0.
        drops: [B, draws, R], what the score loses without the set.

    Source: Nguyen and Martinez 2020 (monotonicity); see `MonotonicityCorrelation` for where it departs from them.

    Example:
        >>> import torch
        >>> sums, drops = torch.tensor([[[1.0], [2.0], [3.0]]]), torch.tensor([[[0.0], [-2.0], [3.0]]])
        >>> monotonicity_correlation(sums, drops)
        tensor([[1.]], dtype=torch.float64)
    """
    batch, draws, sizes = sums.shape
    rows = [values.double().abs().transpose(1, 2).contiguous().view(-1, 1, 1, draws) for values in (sums, drops)]
    return spearman(rows[0], rows[1]).view(batch, sizes)


class MonotonicityCorrelation(SetCorrelation):
    """Compute the mean rank correlation of the magnitude in random sets with the squared drop of the score: in [-1, 1].

    Higher is better: sets of more saliency, whatever its sign, change the score more, whichever way. Each size of sets
    has its own correlation and all sizes count alike, since over sets of all sizes the larger would win with any map.
    Correlations that are not defined are treated, and passes shared, as in `SensitivityN`.

    Args:
        sizes: Numbers of pixels in a set, evenly spaced on a logarithmic scale.
        draws: Random sets of each size.
        smallest: Share of the pixels in the smallest set, at least one; the default is one of 224 x 224.
        largest: Share of the pixels in the largest set.
        fill: What replaces them.
        read: Score of the target.
        seed: Of the sets.

    Raises:
        ValueError: `sizes` is below 1 or `draws` below 2, or not 0 < `smallest` <= `largest` <= 1.

    Source: Nguyen and Martinez 2020 (monotonicity), with two departures that let it share the passes: their features
    are single ones, Quantus' sets of neighbours in the order of the map, ours random sets; and where they take the
    expectation over many values of a feature, we show one fill. Dividing by the image's own score changes no rank.

    Example:
        >>> import torch
        >>> from dre.metrics import removed_sums
        >>> metric = MonotonicityCorrelation(sizes=1, draws=4, largest=0.5)
        >>> saliency = torch.tensor([[[[0.0, -1.0], [2.0, 3.0]]]])
        >>> effects = removed_sums(saliency.abs(), ["image"], metric.sweeps["scores"])[..., 0]
        >>> metric.update(saliency, scores=9 + effects, full=torch.tensor([[9.0]]), keys=["image"])
        >>> metric.compute()
        tensor(1., dtype=torch.float64)
    """

    higher_is_better = True

    def __init__(
        self,
        sizes: int = 8,
        draws: int = 100,
        smallest: float = 2e-5,
        largest: float = 0.8,
        fill: Fill = "black",
        read: Readout = "logit",
        seed: int = 0,
    ) -> None:
        ratios = set_sizes(type(self).__name__, sizes, draws, smallest, largest)
        super().__init__(ratios, draws, fill, read, seed)

    def summed(self, saliency: Tensor) -> Tensor:
        """Return the magnitudes of maps, [B, 1, H, W]."""
        return saliency.abs()

    def correlate(self, sums: Tensor, drops: Tensor) -> Tensor:
        """Return the rank correlation at each size, [B, R]."""
        return monotonicity_correlation(sums, drops)
