"""NN-Explainer's objective: cross-entropy, entropy, areas and total variation of the masks of several classes."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dre.checks import check_count, check_not_negative
from dre.engine.objectives import fake_targets


@dataclass(frozen=True, slots=True)
class ClassMaskTerms:
    """Hold the weights of the terms of NN-Explainer's loss, and how many other classes get a mask.

    Args:
        others: Classes beside the target whose masks make the non-target mask: the runner-up, then any.
        entropy: Of the negative entropy of the image under the complement of the target's mask, a mean over classes:
            with K classes it weighs 1/K as much as the entropy.
        bounds: Of the penalty for an area of the target's mask outside of `least_area` and `most_area`.
        area: Of the target mask's mean.
        other_area: Of the non-target mask's mean.
        variation: Of the total variation of both masks.
        least_area: Share of the image whose highest values should be 1.
        most_area: Share of the image outside of whose highest values the mask should be 0.

    Raises:
        ValueError: `others` is below 1, a weight is negative, or not 0 <= `least_area` <= `most_area` <= 1.

    Source: the published code of Stalder et al. 2022, its defaults; `others` is our choice, where the paper has an
    output for each class.

    Example:
        >>> ClassMaskTerms(entropy=50.0).most_area
        0.3
    """

    others: int = 2
    entropy: float = 1.0
    bounds: float = 1.0
    area: float = 0.1
    other_area: float = 0.3
    variation: float = 1.0
    least_area: float = 0.05
    most_area: float = 0.3

    def __post_init__(self) -> None:
        """Check the options."""
        check_count("others", self.others)
        for name in ("entropy", "bounds", "area", "other_area", "variation"):
            check_not_negative(**{name: getattr(self, name)})
        if not 0 <= self.least_area <= self.most_area <= 1:
            raise ValueError(
                f"`least_area` and `most_area` must ascend within [0, 1], got {self.least_area} and {self.most_area}"
            )


def other_classes(logits: Tensor, count: int, generator: torch.Generator | None = None) -> Tensor:
    """Return classes that are not predicted: the runner-up, then classes drawn uniformly, int64 [count, B].

    Source: our choice. The runner-up may be in the image; any class may be asked for later.

    Example:
        >>> other_classes(torch.tensor([[1.0, 3.0, 2.0]]), 1)
        tensor([[2]])
    """
    targets = logits.argmax(dim=1)
    runner_up = logits.scatter(1, targets[:, None], float("-inf")).argmax(dim=1)
    drawn = [fake_targets(targets, logits.shape[1], 1.0, generator) for _ in range(count - 1)]
    return torch.stack([runner_up, *drawn])


def negative_entropy(logits: Tensor) -> Tensor:
    """Return the mean of p log p over images and classes, a scalar: lowest where all classes are alike.

    Source: Stalder et al. 2022.

    Example:
        >>> negative_entropy(torch.zeros(1, 2))  # minus log 2, over two classes
        tensor(-0.3466)
    """
    return (logits.softmax(dim=1) * F.log_softmax(logits, dim=1)).mean()


def area_bounds(mask: Tensor, least: float, most: float) -> Tensor:
    """Penalise masks that are not 1 on a least share of the image, or not 0 beyond a most share: a scalar.

    Args:
        mask: [B, 1, H, W] in [0, 1].
        least: Share of pixels, the highest, whose distance to 1 is added up.
        most: Share of pixels, the highest, beyond which values are added up.

    Source: Stalder et al. 2022; the mean over pixels is that of the published code.

    Example:
        >>> area_bounds(torch.tensor([[[[0.5, 0.5, 0.0, 0.0]]]]), 0.25, 0.25)
        tensor(0.2500)
    """
    ranked = mask.flatten(1).sort(dim=1, descending=True).values
    lit, dark = int(ranked.shape[1] * least), int(ranked.shape[1] * most)
    gaps = (1 - ranked[:, :lit]).sum(dim=1) + ranked[:, dark:].sum(dim=1)
    return gaps.mean() / ranked.shape[1]


def mean_variation(mask: Tensor) -> Tensor:
    """Return the mean over pixels of the differences to the next column and to the next row, without sign: a scalar.

    The last column and row are mirrored, so that their one difference counts twice.

    Source: the published code of Stalder et al. 2022.

    Example:
        >>> mean_variation(torch.tensor([[[[0.0, 1.0], [0.0, 1.0]]]]))
        tensor(1.)
    """
    padded = F.pad(mask, (0, 1, 0, 1), mode="reflect")
    right, down = padded[..., :-1, :].diff(dim=3), padded[..., :-1].diff(dim=2)
    return (right.abs() + down.abs()).mean()


def class_mask_loss(
    kept: Tensor, hidden: Tensor, targets: Tensor, mask: Tensor, other: Tensor, terms: ClassMaskTerms
) -> Tensor:
    """Return NN-Explainer's loss of a batch, a scalar.

    Args:
        kept: Logits of the images under the target's mask, [B, K].
        hidden: Logits under its complement, [B, K].
        targets: int64 [B].
        mask: Of the targets, [B, 1, H, W] in [0, 1].
        other: Highest value of the masks of other classes at each pixel, like `mask`.
        terms: Weights.

    Source: Stalder et al. 2022, for one target an image; cross-entropy as their code takes for data with one
    label.

    Example:
        >>> sure, unsure = torch.tensor([[0.0, 1e3]]), torch.zeros(1, 2)
        >>> half, nothing = torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]]), torch.zeros(1, 1, 2, 2)
        >>> terms = ClassMaskTerms(entropy=0, area=0, variation=0, most_area=0.5)
        >>> class_mask_loss(sure, unsure, torch.tensor([1]), half, nothing, terms)
        tensor(0.)
    """
    loss = F.cross_entropy(kept, targets) + terms.entropy * negative_entropy(hidden)
    loss = loss + terms.bounds * area_bounds(mask, terms.least_area, terms.most_area)
    loss = loss + terms.area * mask.mean() + terms.other_area * other.mean()
    return loss + terms.variation * (mean_variation(mask) + mean_variation(other))
