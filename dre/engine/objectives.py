"""Loss terms of DRE and MGnet: functions of logits, masks and class resemblance."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from dre.images.fill import blend

PRESENCE_MARGIN = 1.0
ABSENCE_MARGIN = 5.0
BORDER_WEIGHT = 0.3
CROSS_ENTROPY_POWER = 0.5
AREA_OFFSET = 5e-4
AREA_POWER = 0.3


def embedding_loss(resemblance: Tensor, is_target: Tensor) -> Tensor:
    """Raise the mean sigmoid of the resemblance for the target class, lower it for any other.

    Args:
        resemblance: [B, 1, h, w], features times class embedding.
        is_target: bool [B], whether the class is the image's target.

    Source: Fu et al. 2021, Eq. 4, as a mean over places instead of a sum, so that `lr` does not depend on the size.
    """
    sign = torch.where(is_target, -1.0, 1.0)
    return (sign * resemblance.sigmoid().flatten(1).mean(1)).mean()


def embedding_bce(resemblance: Tensor, is_target: Tensor) -> Tensor:
    """Return the two-way cross-entropy of the mean resemblance: is the class the target? A scalar.

    Source: the published code of Dabkowski and Gal 2017.
    """
    return F.binary_cross_entropy_with_logits(resemblance.flatten(1).mean(1), is_target.to(resemblance))


def total_variation(
    mask: Tensor, power: float = 2.0, border_weight: float = 0.0, *, floor: float = 0.0, per_image: bool = False
) -> Tensor:
    """Sum the slopes of a mask, to a power, and add a price for values at its border.

    A slope is the length of the difference vector to the next row and the next column.

    Args:
        mask: [B, 1, h, w].
        power: 1 is the usual total variation; above it, smooth ramps are cheaper than edges.
        border_weight: Price of the squared values of the first and last row and column.
        floor: Squared slope below which the gradient is zero; powers below 2 need one, because their gradient is
            infinite at a slope of zero.
        per_image: Give one sum for each image, [B], instead of one for the batch, a scalar.

    Source: Fong and Vedaldi 2017, Eq. 4, with the differences of its published code; the border and power 2 are of the
    published code of Dabkowski and Gal 2017.
    """

    def add_up(values: Tensor) -> Tensor:
        return values.flatten(1).sum(1) if per_image else values.sum()

    if power == 2 and floor == 0:  # the two directions can be summed one by one
        down, right = mask[..., 1:, :] - mask[..., :-1, :], mask[..., 1:] - mask[..., :-1]
        total = add_up(down.square()) + add_up(right.square())
    else:
        squares = F.pad(mask.diff(dim=2).square(), (0, 0, 0, 1)) + F.pad(mask.diff(dim=3).square(), (0, 1))
        total = add_up(squares.clamp_min(floor) ** (power / 2))
    if border_weight:
        edges = [mask[..., 0, :], mask[..., -1, :], mask[..., 0], mask[..., -1]]
        total = total + border_weight * sum(add_up(edge.square()) for edge in edges)
    return total


def smoothness(mask: Tensor) -> Tensor:
    """Return the mean over images of half the total variation, borders included: a scalar.

    Source: the published code of Dabkowski and Gal 2017; Fu et al. 2021, Eq. 2, names the term and not its form.
    """
    return total_variation(mask, border_weight=BORDER_WEIGHT) / (2 * len(mask))


def area(mask: Tensor, offset: float = AREA_OFFSET, power: float = AREA_POWER) -> Tensor:
    """Return the mean of (mask + offset) ** power, a scalar: small areas are cheap, faint ones are not.

    Source: the published code of Dabkowski and Gal 2017.
    """
    return ((mask + offset) ** power).mean()


def margin(logits: Tensor, targets: Tensor, present: Tensor, slack: Tensor | float) -> Tensor:
    """Return the hinge on the gap between the target's logit and the best other one, averaged: a scalar.

    Args:
        logits: [B, K].
        targets: [B].
        present: bool [B]; True wants the target ahead by `slack`, False wants it behind by `slack`.
        slack: In logits, one for all or [B].

    Source: Carlini and Wagner 2017, whose objective it is; the published code of Dabkowski and Gal 2017.
    """
    target = logits.gather(1, targets[:, None]).squeeze(1)
    others = logits.scatter(1, targets[:, None], float("-inf")).amax(1)
    gap = torch.where(present, others - target, target - others)
    return F.relu(gap + slack).mean()


def target_probability(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the softmax probability of the target class, [B] in [0, 1]."""
    return logits.softmax(1).gather(1, targets[:, None]).squeeze(1)


def generalised_cross_entropy(logits: Tensor, targets: Tensor, power: float = CROSS_ENTROPY_POWER) -> Tensor:
    """Return the mean of (1 - p ** power) / power, between cross-entropy (power to 0) and 1 - p (power 1).

    Under a mask of a few pixels the target's probability can be near zero. The gradient then stays bounded, where that
    of the cross-entropy would outweigh every other image of the batch.

    Source: Zhang and Sabuncu 2018, Eq. 6; the power is our choice.
    """
    log_probability = F.log_softmax(logits, 1).gather(1, targets[:, None]).squeeze(1)
    return bounded_loss(log_probability, power).mean()


def bounded_loss(log_probability: Tensor, power: float = CROSS_ENTROPY_POWER) -> Tensor:
    """Return the generalised cross-entropy of each natural logarithm of a target's probability, in the same shape."""
    return (1 - (power * log_probability).exp()) / power


ObjectiveName = Literal["cross_entropy", "generalised_cross_entropy", "eq2", "published_mgnet"]


@dataclass(frozen=True, slots=True)
class Constraints:
    """Hold the weights of the terms of the loss; for DRE the kept image alone counts.

    Args:
        preservation: Of the term on the image under the mask.
        background: Of the term on the image under the mask's complement.
        area: Of the mask's area.
        smoothness: Of its total variation.
    """

    preservation: float = 1.0
    background: float = 0.0
    area: float = 0.0
    smoothness: float = 0.0


PUBLISHED_MGNET = Constraints(preservation=0.3, background=1.0, area=8.0, smoothness=0.005)
"""Of MGnet's published training script."""

EQUATION_2 = Constraints(background=0.3, area=8.0, smoothness=0.005)
"""For Eq. 2 of Fu et al. 2021, which gives no figures: our choice."""


def fake_targets(targets: Tensor, classes: int, share: float, generator: torch.Generator | None = None) -> Tensor:
    """Replace each target, with probability `share`, by another class drawn uniformly: int64 [B]."""
    other = (targets + torch.randint(1, classes, targets.shape, device=targets.device, generator=generator)) % classes
    replace = torch.rand(targets.shape, device=targets.device, generator=generator) < share
    return torch.where(replace, other, targets)


def contrast_targets(logits: Tensor, share: float, generator: torch.Generator | None = None) -> Tensor:
    """Replace each predicted class, with probability `share`, by the runner-up or by any other class: int64 [B].

    The two have even chances. The runner-up is often in the image, or is like what is there; another class hardly is.

    Source: our choice, after the fake labels of Dabkowski and Gal 2017.
    """
    targets = logits.argmax(dim=1)
    runner_up = logits.scatter(1, targets[:, None], float("-inf")).argmax(dim=1)
    other = fake_targets(targets, logits.shape[1], 1.0, generator)
    draws = torch.rand(2, len(logits), device=logits.device, generator=generator)
    return torch.where(draws[1] < share, torch.where(draws[0] < 0.5, runner_up, other), targets)


def against_target(logits: Tensor, targets: Tensor, asked: Tensor) -> Tensor:
    """Leave, where another class than the target was asked for, these two classes alone: logits [B, K].

    Whatever criterion reads the result for the class asked for then asks for evidence of it against the target's: no
    mask makes a class that is not in the image the most probable of all.

    Source: our choice.
    """
    alone = asked == targets
    classes = torch.arange(logits.shape[1], device=logits.device)
    kept = (classes == targets[:, None]) | (classes == asked[:, None]) | alone[:, None]
    return logits.masked_fill(~kept, float("-inf"))


def objective(
    name: ObjectiveName,
    classify: Callable[[Tensor], Tensor],
    images: Tensor,
    mask: Tensor,
    background: Tensor,
    targets: Tensor,
    asked: Tensor,
    constraints: Constraints,
) -> tuple[Tensor, Tensor]:
    """Return the loss of a batch of masks, a scalar, and the logits [B, K] of the images under the masks.

    Args:
        name: `cross_entropy` is Eq. 9 of Fu et al. 2021, to which `constraints` add the terms of Eq. 2;
            `generalised_cross_entropy` bounds the weight of an image whose target is lost; `eq2` is Eq. 2 with the
            probability; `published_mgnet` is the margin loss of MGnet's published code.
        classify: Images to logits.
        images: [B, 3, H, W] in [0, 1].
        mask: [B, 1, H, W] in [0, 1].
        background: Like `images`.
        targets: int64 [B], what the classifier sees in the images.
        asked: int64 [B], the classes that the masks were asked for. Where one is not the target, `published_mgnet`
            wants the target kept out of the mask; the others want what speaks for the class against the target in it.
        constraints: Weights of the terms.
    """
    logits = classify(blend(images, mask, background))
    present, scored = asked == targets, against_target(logits, targets, asked)
    if name == "cross_entropy":
        kept = F.cross_entropy(scored, asked)
    elif name == "generalised_cross_entropy":
        kept = generalised_cross_entropy(scored, asked)
    elif name == "eq2":
        kept = -target_probability(scored, asked).mean()
    else:
        kept = margin(logits, targets, present, PRESENCE_MARGIN)
    loss = constraints.preservation * kept
    if constraints.background:
        complement = classify(blend(images, 1 - mask, background))
        if name == "published_mgnet":
            slack = torch.where(present, ABSENCE_MARGIN, PRESENCE_MARGIN)
            hidden = margin(complement, targets, ~present, slack)
        else:
            hidden = target_probability(against_target(complement, targets, asked), asked).mean()
        loss = loss + constraints.background * hidden
    if constraints.area:
        loss = loss + constraints.area * area(mask)
    if constraints.smoothness:
        loss = loss + constraints.smoothness * smoothness(mask)
    return loss, logits
