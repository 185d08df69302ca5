"""What a mask generator is trained towards: the loss of DRE, of MGnet, and Eq. 2 of paper 003."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from dre.imaging import blend
from dre.losses import (
    ABSENCE_MARGIN,
    PRESENCE_MARGIN,
    area,
    generalised_cross_entropy,
    margin,
    target_probability,
    total_variation,
)

ObjectiveName = Literal["cross_entropy", "generalised_cross_entropy", "eq2", "published_mgnet"]


@dataclass(frozen=True, slots=True)
class Constraints:
    """Weights of the terms of the loss; for DRE the kept image alone counts.

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
"""For Eq. 2 of paper 003, which says "carefully tuned" and gives no figures: our choice."""


def fake_targets(targets: Tensor, classes: int, share: float, generator: torch.Generator | None = None) -> Tensor:
    """Replace each target, with probability `share`, by another class drawn uniformly: int64 [B]."""
    other = (targets + torch.randint(1, classes, targets.shape, device=targets.device, generator=generator)) % classes
    replace = torch.rand(targets.shape, device=targets.device, generator=generator) < share
    return torch.where(replace, other, targets)


def objective(
    name: ObjectiveName,
    classify: Callable[[Tensor], Tensor],
    images: Tensor,
    mask: Tensor,
    background: Tensor,
    targets: Tensor,
    present: Tensor,
    constraints: Constraints,
) -> tuple[Tensor, Tensor]:
    """Loss of a batch of masks, and the logits [B, K] of the images blended under them.

    Args:
        name: `cross_entropy` is Eq. 9 of paper 003, to which `constraints` add the terms of Eq. 2;
            `generalised_cross_entropy` bounds what a hopeless image weighs; `eq2` is Eq. 2 with the probability;
            `published_mgnet` is the margin loss of MGnet's code.
        classify: Images to logits.
        images: [B, 3, H, W] in [0, 1].
        mask: [B, 1, H, W] in [0, 1].
        background: Like `images`.
        targets: int64 [B], what the classifier sees in the images.
        present: bool [B], whether the mask was asked for the target; MGnet alone is also asked for classes that are
            not there, and must then keep the target out of the mask.
        constraints: Weights of the terms.
    """
    logits = classify(blend(images, mask, background))
    if name == "cross_entropy":
        kept = F.cross_entropy(logits, targets)
    elif name == "generalised_cross_entropy":
        kept = generalised_cross_entropy(logits, targets)
    elif name == "eq2":
        kept = -target_probability(logits, targets).mean()
    else:
        kept = margin(logits, targets, present, PRESENCE_MARGIN)
    loss = constraints.preservation * kept
    if constraints.background:
        complement = classify(blend(images, 1 - mask, background))
        if name == "published_mgnet":
            slack = torch.where(present, ABSENCE_MARGIN, PRESENCE_MARGIN)
            hidden = margin(complement, targets, ~present, slack)
        else:
            hidden = target_probability(complement, targets).mean()
        loss = loss + constraints.background * hidden
    if constraints.area:
        loss = loss + constraints.area * area(mask)
    if constraints.smoothness:
        loss = loss + constraints.smoothness * total_variation(mask)
    return loss, logits
