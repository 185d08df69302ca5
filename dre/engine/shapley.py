"""Shapley values by regression: subsets from the Shapley kernel, the efficiency normalisation, FastSHAP's loss."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dre.checks import check_count, check_not_negative, check_shares
from dre.engine.scoring import check_score_name
from dre.types import ScoreName


@dataclass(frozen=True, slots=True)
class ShapleySettings:
    """Hold the options of FastSHAP's training.

    Args:
        subsets: Of superpixels, drawn for each image in a step, in pairs of one and its complement: an even number.
        uniform_share: Share of images for which any class is asked, drawn uniformly; the others are asked for the one
            that the classifier predicts. 1 is the published draw. Of 1000 classes it hardly ever asks for one that is
            in the image; the values that minimise the loss are the same for every share between 0 and 1.
        efficiency: Weight of the squared gap between the sum of the values and the change of the score.
        score: What is shared among the superpixels: the probability as in the paper; `log_probability` in the published
            code for CIFAR-10; or the logit.
        surrogate: Checkpoint, or run, of a classifier that was trained by `surrogate: true` to predict from subsets
            what the classifier predicts of the whole image; it scores the images in its place. Without one the
            classifier itself sees the fill where superpixels are hidden.

    Raises:
        ValueError: `subsets` is odd or below 2, `uniform_share` outside [0, 1], `efficiency` negative, or `score`
            unknown.

    Source: Jethani et al. 2022; two subsets and the weight are those of their published code for CIFAR-10.

    Example:
        >>> ShapleySettings(subsets=4).uniform_share
        1.0
    """

    subsets: int = 2
    uniform_share: float = 1.0
    efficiency: float = 0.01
    score: ScoreName = "probability"
    surrogate: str | None = None

    def __post_init__(self) -> None:
        """Check the options."""
        check_count("subsets", self.subsets, 2)
        if self.subsets % 2:
            raise ValueError(f"`subsets` must be even, as they are drawn in pairs, got {self.subsets}")
        check_shares(uniform_share=self.uniform_share)
        check_not_negative(efficiency=self.efficiency)
        check_score_name(self.score)


def size_weights(players: int) -> Tensor:
    """Return the probability of each size of a subset under the Shapley kernel, of the sizes 1 to `players` - 1.

    The kernel gives a subset of size k the weight (d - 1) / (C(d, k) k (d - k)), and there are C(d, k) of them.

    Raises:
        ValueError: There are fewer than two players.

    Source: Lundberg and Lee 2017, theorem 2; Jethani et al. 2022.

    Example:
        >>> size_weights(4)
        tensor([0.3636, 0.2727, 0.3636], dtype=torch.float64)
    """
    if players < 2:
        raise ValueError(
            f"Shapley values need at least two superpixels of 16 pixels, got {players}; take larger images"
        )
    sizes = torch.arange(1, players, dtype=torch.float64)
    weights = 1 / (sizes * (players - sizes))
    return weights / weights.sum()


def shapley_subsets(
    images: int, subsets: int, players: int, generator: torch.Generator, device: torch.device | None = None
) -> Tensor:
    """Draw subsets from the Shapley kernel, each followed by its complement: [images, subsets, players] of 0 and 1.

    Args:
        images: How many images get subsets of their own.
        subsets: Of each image, an even number.
        players: Superpixels.
        generator: Source of randomness on that device.
        device: Of the result; the CPU when not given.

    Source: Covert and Lee 2021, paired sampling, as in the published code of Jethani et al. 2022.

    Example:
        >>> drawn = shapley_subsets(1, 2, 6, torch.Generator().manual_seed(0))
        >>> drawn.sum(dim=1)
        tensor([[1., 1., 1., 1., 1., 1.]])
    """
    pairs = images * subsets // 2
    sizes = 1 + torch.multinomial(size_weights(players).to(device), pairs, replacement=True, generator=generator)
    order = torch.rand(pairs, players, device=device, generator=generator).argsort(dim=1)
    drawn = (order < sizes[:, None]).float()
    return torch.stack([drawn, 1 - drawn], dim=1).view(images, subsets, players)


def uniform_subsets(
    images: int, players: int, generator: torch.Generator, device: torch.device | None = None
) -> Tensor:
    """Draw one subset for each image whose size is uniform from none to all: [images, players] of 0 and 1.

    Source: Jethani et al. 2022, the subsets of which a surrogate is trained.

    Example:
        >>> uniform_subsets(2, 6, torch.Generator().manual_seed(0)).sum(dim=1)
        tensor([4., 3.])
    """
    sizes = torch.randint(players + 1, (images, 1), device=device, generator=generator)
    order = torch.rand(images, players, device=device, generator=generator).argsort(dim=1)
    return (order < sizes).float()


def any_classes(targets: Tensor, classes: int, share: float, generator: torch.Generator | None = None) -> Tensor:
    """Replace each target, with probability `share`, by a class drawn uniformly of all, its own as well: int64 [B].

    Source: Jethani et al. 2022, for a share of 1.

    Example:
        >>> any_classes(torch.tensor([2, 0]), 3, share=0.0)
        tensor([2, 0])
    """
    drawn = torch.randint(classes, targets.shape, device=targets.device, generator=generator)
    replaced = torch.rand(targets.shape, device=targets.device, generator=generator) < share
    return torch.where(replaced, drawn, targets)


def efficient(values: Tensor, change: Tensor) -> Tensor:
    """Shift the values [B, d] of each image by one number, so that their sum is the change of its score, [B].

    Source: Jethani et al. 2022, the additive efficient normalisation.

    Example:
        >>> efficient(torch.tensor([[1.0, 2.0]]), torch.tensor([4.0]))
        tensor([[1.5000, 2.5000]])
    """
    return values + (change - values.sum(dim=1))[:, None] / values.shape[1]


def shapley_loss(
    values: Tensor, subsets: Tensor, scores: Tensor, whole: Tensor, empty: Tensor, efficiency: float = 0.0
) -> Tensor:
    """Return the mean squared error of the scores that the values predict for subsets: a scalar.

    Args:
        values: Of the superpixels of each image, [B, d]; their sum is corrected before they predict.
        subsets: [B, n, d] of 0 and 1, drawn from the Shapley kernel.
        scores: Of the images in which only these superpixels are shown, [B, n].
        whole: Score of each image, [B].
        empty: Score with all superpixels hidden, [B].
        efficiency: Weight of the squared gap between the sum of the values and the change of the score.

    Source: Jethani et al. 2022, with the penalty of the published code, which multiplies both by d: Adam does not see a
    factor. Without the penalty nothing would train the sum, which the normalisation takes out of the loss.

    Example:
        >>> subset = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
        >>> values = torch.tensor([[1.0, 3.0]])
        >>> shapley_loss(values, subset, values, torch.tensor([4.0]), torch.zeros(1))
        tensor(0.)
    """
    change = whole - empty
    predicted = empty[:, None] + torch.einsum("bnd,bd->bn", subsets, efficient(values, change))
    loss = (predicted - scores).square().mean()
    return loss + efficiency * (change - values.sum(dim=1)).square().mean()
