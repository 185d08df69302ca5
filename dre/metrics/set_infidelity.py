"""Infidelity: squared error between summed saliency of random sets and the score's drop, and its optimal scaling."""

from torch import Tensor

from dre.metrics.sensitivity import RandomSetMetric, set_sizes
from dre.types import Fill, Readout


def infidelity(sums: Tensor, drops: Tensor, scaled: bool = False) -> Tensor:
    """Return the mean squared error between summed saliency and drops of the score, at each size: float64 [B, R].

    Args:
        sums: [B, draws, R], saliency of each random set, see `removed_sums`.
        drops: [B, draws, R], what the score loses without the set.
        scaled: Multiply the sums of an image with the factor that makes its error smallest,
            sum(sums x drops) / sum(sums^2) over all sets of all sizes; a map that is zero keeps its error.

    Source: Yeh et al. 2019 (infidelity) with x - x0 on random subsets, and its optimal scaling.

    Example:
        >>> import torch
        >>> sums, drops = torch.tensor([[[1.0], [2.0]]]), torch.tensor([[[2.0], [4.0]]])
        >>> infidelity(sums, drops), infidelity(sums, drops, scaled=True)
        (tensor([[2.5000]], dtype=torch.float64), tensor([[0.]], dtype=torch.float64))
    """
    sums, drops = sums.double(), drops.double()
    if scaled:
        energy = sums.square().sum(dim=(1, 2), keepdim=True)
        factor = (sums * drops).sum(dim=(1, 2), keepdim=True) / energy.where(energy > 0, 1.0)
        sums = factor * sums
    return (sums - drops).square().mean(dim=1)


class Infidelity(RandomSetMetric):
    """Compute the mean squared error, over images and random sets, of summed saliency and the score's drop: at least 0.

    Lower is better. The unit is that of the score, squared, and only maps in the unit of the score can have a small
    value; `InfidelityScaled` compares others. A set stands for the perturbation x - x0 on its pixels, and a map for
    the attribution that is already multiplied with it, as that of `IntegratedGradients` is: what the map gives a set
    is its sum there.

    The sets, and so the passes, are those of a `SensitivityN` with the same options.

    Args:
        sizes: Numbers of pixels in a set, evenly spaced on a logarithmic scale; all count alike.
        draws: Random sets of each size.
        smallest: Share of the pixels in the smallest set, at least one; the default is one of 224 x 224.
        largest: Share of the pixels in the largest set.
        fill: What replaces them; take the baseline of the explainer.
        read: Score of the target.
        seed: Of the sets.

    Raises:
        ValueError: `sizes` is below 1 or `draws` below 2, or not 0 < `smallest` <= `largest` <= 1.

    Source: Yeh et al. 2019 (infidelity); sizes of sets are our choice.

    Example:
        >>> import torch
        >>> metric = Infidelity(sizes=1, draws=2, largest=1.0)
        >>> metric.update(torch.ones(1, 1, 2, 2), torch.tensor([[5.0, 5.0]]), torch.tensor([[8.0]]), ["image"])
        >>> metric.compute()
        tensor(1., dtype=torch.float64)
    """

    higher_is_better = False
    is_share = False
    y_label = "squared error"
    scaled = False

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

    def compare(self, sums: Tensor, drops: Tensor) -> None:
        """Accumulate each image's mean error and its curve; `sums` and `drops` are float64 [B, draws, R]."""
        errors = infidelity(sums, drops, self.scaled)
        self.accumulate(errors.mean(dim=1))
        self.accumulate_curves(errors)


class InfidelityScaled(Infidelity):
    """Compute infidelity after the factor of each map that makes its own error smallest: at least 0.

    Lower is better. It does not depend on the unit or the sign of a map, and is never above `Infidelity`; a map that
    is zero, or one that has nothing to do with the score, has the mean squared drop. Options and passes are those of
    `Infidelity`.

    Raises:
        ValueError: `sizes` is below 1 or `draws` below 2, or not 0 < `smallest` <= `largest` <= 1.

    Source: Yeh et al. 2019 (infidelity with optimal scaling); `normalize=True` of captum.

    Example:
        >>> import torch
        >>> metric = InfidelityScaled(sizes=1, draws=2, largest=1.0)
        >>> metric.update(torch.ones(1, 1, 2, 2), torch.tensor([[5.0, 5.0]]), torch.tensor([[8.0]]), ["image"])
        >>> metric.compute()
        tensor(0., dtype=torch.float64)
    """

    higher_is_better = False
    scaled = True
