"""Class scores: the probability, logit or log-probability of a target class, by one classifier or by a second one."""

import math
from typing import Any, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dre.checks import check_choice
from dre.models import Classifier, match_classes
from dre.types import MemoryEstimate, ScoreName


def score(logits: Tensor, targets: Tensor, name: ScoreName = "probability") -> Tensor:
    """Return each image's score for its target class, [B], differentiable in the logits.

    Args:
        logits: [B, K]; half-precision logits are scored in float32.
        targets: int64 [B].
        name: The logit itself, or the softmax probability, or its natural logarithm.

    Raises:
        ValueError: `name` is none of these.
    """
    check_score_name(name)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if name == "probability":
        logits = logits.softmax(dim=1)
    elif name == "log_probability":
        logits = logits.log_softmax(dim=1)
    return logits.gather(1, targets[:, None])[:, 0]


def check_score_name(name: str) -> None:
    """Check the name of a score.

    Raises:
        ValueError: It is neither `probability`, `logit` nor `log_probability`.
    """
    check_choice("score", name, get_args(ScoreName))


def finite_logits(logits: Tensor) -> Tensor:
    """Return of which images the logits [B, K] give probabilities, bool [B]; a class may have minus infinity."""
    return logits.float().logsumexp(dim=1).isfinite()


def spread(values: Tensor, rows: Tensor) -> Tensor:
    """Return values [N, ...] at the rows that bool [B] marks, and NaN at the others: [B, ...]."""
    whole = values.new_full((len(rows), *values.shape[1:]), torch.nan)
    whole[rows] = values
    return whole


def spread_all(values: Any, rows: Tensor) -> Any:
    """Spread tensors in nested dicts over the rows of a batch, see `spread`."""
    if isinstance(values, Tensor):
        return spread(values, rows)
    return {name: spread_all(one, rows) for name, one in values.items()}


def judge(logits: Tensor, targets: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the probability of the target, float64 [B], and whether the prediction is the label, int64 [B].

    The latter is 1 where it is, 0 where it is not, and -1 where the label is no class of the classifier. Where the
    logits are not finite, there is neither: NaN and -1.

    Args:
        logits: [B, K].
        targets: int64 [B].
        labels: int64 [B], -1 where the data name no class.

    Example:
        >>> judge(torch.tensor([[0.0, 0.0], [0.0, 0.0]]), torch.tensor([0, 1]), torch.tensor([0, -1]))
        (tensor([0.5000, 0.5000], dtype=torch.float64), tensor([ 1, -1]))
    """
    finite, named = finite_logits(logits), (labels >= 0) & (labels < logits.shape[1])
    probability = logits.double().softmax(dim=1).gather(1, targets[:, None])[:, 0]
    right = (logits.argmax(dim=1) == labels).long()
    return probability.masked_fill(~finite, math.nan), right.masked_fill(~(finite & named), -1)


def other_class(logits: Tensor, targets: Tensor) -> Tensor:
    """Return a class in the middle of each image's own order of the classes, and never its target: int64 [B].

    It is that of rank ceil(K / 2), counted from 1, or the next where that is the target; of two classes, the other.

    Args:
        logits: [B, K], of at least two classes.
        targets: int64 [B].

    Source: our choice. The lowest class may be as special as the highest; one in the middle is a class like most.

    Example:
        >>> other_class(torch.tensor([[4.0, 3.0, 2.0, 1.0], [4.0, 3.0, 2.0, 1.0]]), torch.tensor([0, 1]))
        tensor([1, 2])
    """
    order = logits.argsort(dim=1, descending=True, stable=True)
    rank = math.ceil(logits.shape[1] / 2)
    chosen, following = order[:, rank - 1], order[:, rank % logits.shape[1]]
    return torch.where(chosen == targets, following, chosen)


class TransferClassifier(nn.Module):
    """Score images that are made for the explained classifier by a second one, with its own size and normalisation.

    Images are resized to its size bilinearly, without aliasing, and may change their shape by that; nothing is cropped.

    Args:
        classifier: The second one.
        explained: The first one, whose images and targets are given.

    Raises:
        ValueError: They read different numbers of channels, or no class is known to both.

    Example:
        >>> module = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 3))
        >>> large, small = (Classifier.wrap(module, size=(side, side)) for side in (16, 8))
        >>> transfer = TransferClassifier(small, explained=large)
        >>> transfer(torch.rand(2, 3, 16, 16)).shape, transfer.targets(torch.tensor([2]))
        (torch.Size([2, 3]), tensor([2]))
    """

    classes: Tensor
    mean: Tensor

    def __init__(self, classifier: Classifier, explained: Classifier) -> None:
        super().__init__()
        channels = classifier.preprocessing.channels, explained.preprocessing.channels
        if channels[0] != channels[1]:
            raise ValueError(
                f"the second classifier {classifier.name} reads {channels[0]} channels, {explained.name} reads "
                f"{channels[1]}; give one that reads the same images"
            )
        self.classifier, self.name = classifier, classifier.name
        self.explained_size = explained.preprocessing.size
        classes = match_classes(
            explained.class_names,
            classifier.class_names,
            (explained.num_classes, classifier.num_classes),
            (explained.name, classifier.name),
        )
        self.register_buffer("classes", torch.tensor(classes), persistent=False)
        self.register_buffer("mean", explained.mean.clone(), persistent=False)  # of the fill that goes by this name

    @property
    def memory_estimate(self) -> MemoryEstimate:
        """Return the memory estimate for each pixel of an image that is given, before it is resized."""
        own = self.classifier.memory_estimate
        share = math.prod(self.classifier.preprocessing.size) / math.prod(self.explained_size)
        return MemoryEstimate(own.forward * share, own.backward * share)

    def targets(self, targets: Tensor) -> Tensor:
        """Return the second classifier's indices of the targets, int64 [B], -1 for those that it does not know."""
        return self.classes[targets]

    def forward(self, images: Tensor) -> Tensor:
        """Return the second classifier's logits [B, K] of images [B, C, H, W] in [0, 1]."""
        size = self.classifier.preprocessing.size
        if tuple(images.shape[-2:]) != tuple(size):
            images = F.interpolate(images, size=tuple(size), mode="bilinear", align_corners=False, antialias=True)
        logits: Tensor = self.classifier(images)
        return logits
