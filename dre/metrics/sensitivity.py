"""Sensitivity-N: summed saliency of random sets against the score's drop; class sensitivity: maps of two classes."""

import math
from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from dre.checks import check_saliency
from dre.images.randomness import Draw, draw_orders, top_count
from dre.metrics.base import ImageCurve, ImageMean
from dre.metrics.map_comparison import check_pair
from dre.metrics.similarity import spearman
from dre.renamed import accepts_old_options
from dre.types import Fill, Readout, Sweep


def removed_sums(saliency: Tensor, keys: Sequence[str], sweep: Sweep) -> Tensor:
    """Return the sum of the saliency that each random set of a sweep removes: float64 [B, draws, R].

    Args:
        saliency: [B, 1, H, W], any range.
        keys: Names of the images; the random sets depend on them.
        sweep: The perturbation sweep, with `draws` random orders and R ratios.

    Example:
        >>> import torch
        >>> sweep = Sweep((0.5, 1.0), kept="rest", draws=2)
        >>> removed_sums(torch.ones(1, 1, 2, 2), ["image"], sweep)
        tensor([[[2., 4.],
                 [2., 4.]]], dtype=torch.float64)
    """
    values, names = saliency.flatten(1).double(), [key.encode() for key in keys]
    pixels = values.shape[1]
    counts = torch.tensor([top_count(ratio, pixels) for ratio in sweep.ratios], device=values.device)
    sums = []
    for number in range(sweep.draws):
        order = draw_orders(names, pixels, Draw(sweep.seed, number)).to(values.device)
        running = torch.nn.functional.pad(values.gather(1, order).cumsum(dim=1), (1, 0))
        sums.append(running[:, counts])
    return torch.stack(sums, dim=1)


def correlation(first: Tensor, second: Tensor) -> Tensor:
    """Return Pearson's correlation along the middle axis of [B, N, R]: float64 [B, R]; NaN where either is constant."""
    deviations = []
    for values in (first.double(), second.double()):
        varies = (values.amax(dim=1, keepdim=True) > values.amin(dim=1, keepdim=True)).double()
        centred = values - values.mean(dim=1, keepdim=True)
        scale = centred.abs().amax(dim=1, keepdim=True)  # first, so that squares neither overflow nor vanish
        deviations.append(centred / scale.where(varies > 0, torch.nan))
    one, other = deviations
    return (one * other).sum(dim=1) / (one.square().sum(dim=1) * other.square().sum(dim=1)).sqrt()


class RandomSetMetric(ImageCurve):
    """Compare the summed saliency of random sets of pixels with what the score loses without them: a base class.

    A subclass says in `compare` what it makes of both. All that have the same options read the same passes, so those of
    `SensitivityN` are paid once. The curve has a point for each size of a set.
    """

    x_label = "share of pixels in a set"

    def __init__(self, ratios: Sequence[float], draws: int, fill: Fill, read: Readout, seed: int) -> None:
        super().__init__(len(ratios))
        self.sweeps = {
            "scores": Sweep(tuple(ratios), fill, "rest", read=read, draws=draws, seed=seed),
            "full": Sweep((1.0,), read=read),
        }

    def update(self, saliency: Tensor, scores: Tensor, full: Tensor, keys: Sequence[str]) -> None:
        """Add a batch of maps, scores [B, draws x sizes] without the random sets and [B, 1] of the images.

        Raises:
            ValueError: A shape differs, or the number of keys is not that of the maps.
        """
        check_saliency(saliency)
        sweep = self.sweeps["scores"]
        if scores.shape != (len(saliency), sweep.columns) or full.shape != (len(saliency), 1):
            raise ValueError(
                f"`scores` must be [{len(saliency)}, {sweep.columns}] and `full` [{len(saliency)}, 1], "
                f"got {list(scores.shape)} and {list(full.shape)}"
            )
        if len(keys) != len(saliency):
            raise ValueError(f"{len(saliency)} maps need as many `keys`, got {len(keys)}")
        drops = (full.double() - scores.double()).view(len(saliency), sweep.draws, -1)
        self.compare(removed_sums(self.summed(saliency), keys, sweep), drops)

    def summed(self, saliency: Tensor) -> Tensor:
        """Return what is summed of a batch of maps: their values as they are."""
        return saliency

    @abstractmethod
    def compare(self, sums: Tensor, drops: Tensor) -> None:
        """Accumulate what sums of saliency and drops of the score, both float64 [B, draws, R], give."""

    @property
    def curve_x(self) -> tuple[float, ...]:
        """Return the shares of the pixels in a set."""
        return self.sweeps["scores"].ratios


class SetCorrelation(RandomSetMetric):
    """Correlate, over the random sets of a size, summed saliency with what the score loses: a base class.

    A correlation that is not defined is counted in `undefined` and left out; an image without any other is counted in
    `dropped`.
    """

    y_label = "correlation"

    undefined: Tensor

    def __init__(self, ratios: Sequence[float], draws: int, fill: Fill, read: Readout, seed: int) -> None:
        super().__init__(ratios, draws, fill, read, seed)
        self.add_state("undefined", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def compare(self, sums: Tensor, drops: Tensor) -> None:
        """Accumulate each image's mean correlation, and its curve; `sums` and `drops` are float64 [B, draws, R]."""
        correlations = self.correlate(sums, drops)
        defined = ~correlations.isnan()
        broken = ~drops.isfinite().flatten(1).all(dim=1)
        means = correlations.nanmean(dim=1).masked_fill(broken, torch.nan)
        self.accumulate(means, keep=defined.any(dim=1) | broken)
        self.accumulate_curves(correlations)
        self.undefined += (~defined).sum()

    def correlate(self, sums: Tensor, drops: Tensor) -> Tensor:
        """Return the correlation at each size, float64 [B, R]; NaN where there is none."""
        return correlation(sums, drops)


def set_sizes(owner: str, sizes: int, draws: int, smallest: float, largest: float) -> tuple[float, ...]:
    """Return the shares of the pixels in random sets, evenly spaced on a logarithmic scale.

    Args:
        owner: Metric, for the error.
        sizes: How many; a single one is `largest`.
        draws: Sets of each size.
        smallest: Share.
        largest: Share.

    Raises:
        ValueError: `sizes` is below 1 or `draws` below 2, or not 0 < `smallest` <= `largest` <= 1.

    Example:
        >>> [round(share, 6) for share in set_sizes("a metric", 3, 2, 0.01, 1.0)]
        [0.01, 0.1, 1.0]
    """
    if sizes < 1 or draws < 2 or not 0 < smallest <= largest <= 1:
        raise ValueError(
            f"{owner} needs `sizes` >= 1, `draws` >= 2 and 0 < `smallest` <= `largest` <= 1, got "
            f"{sizes}, {draws}, {smallest} and {largest}"
        )
    places = [step / max(1, sizes - 1) for step in range(sizes)] if sizes > 1 else [1.0]
    return tuple(largest * math.exp((1 - place) * math.log(smallest / largest)) for place in places)


@accepts_old_options
class SensitivityN(SetCorrelation):
    """Compute the mean correlation, over images and set sizes, of summed saliency with the score's drop: in [-1, 1].

    Higher is better.

    For each size, `draws` random sets of pixels (all channels together) are replaced, and the saliency inside them is
    correlated with what the score loses. The sets depend on the image's key alone, so all explainers share the
    `sizes` x `draws` passes. A correlation is undefined where all sums, or all drops, are equal (a constant map): it is
    counted in `undefined` and left out; an image without any other is counted in `dropped`.

    Args:
        sizes: Numbers of pixels in a set, evenly spaced on a logarithmic scale.
        draws: Random sets of each size.
        smallest: Share of the pixels in the smallest set, at least one; the default is one of 224 x 224.
        largest: Share of the pixels in the largest set.
        fill: What replaces them; take the baseline of the explainer.
        read: Score of the target.
        seed: Of the sets.

    Raises:
        ValueError: `sizes` is below 1 or `draws` below 2, or not 0 < `smallest` <= `largest` <= 1.

    Source: Ancona et al. 2018.

    Example:
        >>> import torch
        >>> metric = SensitivityN(sizes=1, draws=2, largest=0.5)
        >>> saliency = torch.arange(4.0).view(1, 1, 2, 2)
        >>> drops = removed_sums(saliency, ["image"], metric.sweeps["scores"])[..., 0]
        >>> metric.update(saliency, scores=9 - drops, full=torch.tensor([[9.0]]), keys=["image"])
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
        super().__init__(set_sizes("Sensitivity-N", sizes, draws, smallest, largest), draws, fill, read, seed)


class ClassSensitivity(ImageMean):
    """Compute the mean rank correlation between the maps of the target and of another class: in [-1, 1].

    Lower is better: 1 means that the explainer draws the same map whatever class it is asked for. The other class is
    that of rank ceil(K / 2) in the classifier's own order of its K classes for the image (`dre.engine.scoring`), so an
    evaluation explains every image a second time. Images of which either map is constant have no correlation; they are
    left out and counted in `dropped`.

    Source: Sixt et al. 2020, the test with a random logit; rank correlation and the choice of the class are ours.

    Example:
        >>> import torch
        >>> metric = ClassSensitivity()
        >>> metric.update(torch.tensor([[[[0.0, 1.0, 2.0]]]]), torch.tensor([[[[6.0, 4.0, 2.0]]]]))
        >>> metric.compute()
        tensor(-1., dtype=torch.float64)
    """

    higher_is_better = False

    def update(self, saliency: Tensor, other_saliency: Tensor) -> None:
        """Add a batch of maps of the target and of the other class, both [B, 1, H, W].

        Raises:
            ValueError: Maps are broken, or their shapes differ.
        """
        check_pair(saliency, other_saliency)
        values = spearman(saliency, other_saliency)
        self.accumulate(values, keep=~values.isnan())
