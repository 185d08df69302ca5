"""What a mask generator is trained towards: the loss of DRE, of MGnet, and Eq. 2 of paper 003."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from dre.imaging import blend
from dre.losses import ABSENCE_MARGIN, PRESENCE_MARGIN, area, margin, target_probability, total_variation

ObjectiveName = Literal["cross_entropy", "eq2", "published_mgnet"]


@dataclass(frozen=True, slots=True)
class Constraints:
    """Weights of the ad hoc terms of Eq. 2; all zero for DRE.

    Args:
        background: Of the target's score where the mask's complement is shown.
        area: Of the mask's area.
        smoothness: Of its total variation.
    """

    background: float = 0.0
    area: float = 0.0
    smoothness: float = 0.0


MGNET_CONSTRAINTS = Constraints(background=0.3, area=8.0, smoothness=0.005)
"""Of MGnet's published training script; paper 003 calls them carefully tuned."""


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
    asked: Tensor,
    present: Tensor,
    constraints: Constraints,
) -> tuple[Tensor, Tensor]:
    """Loss of a batch of masks, and the logits [B, K] of the images blended under them.

    Args:
        name: `cross_entropy` is Eq. 9 of paper 003, to which `constraints` add the terms of Eq. 2; `eq2` is Eq. 2
            with the probability; `published_mgnet` is the margin loss of MGnet's code.
        classify: Images to logits.
        images: [B, 3, H, W] in [0, 1].
        mask: [B, 1, H, W] in [0, 1].
        background: Like `images`.
        asked: int64 [B], the classes that the masks were asked for.
        present: bool [B], whether the class asked for is the image's target; MGnet alone is also asked for others.
        constraints: Weights of the added terms.
    """
    logits = classify(blend(images, mask, background))
    if name == "cross_entropy":
        loss = F.cross_entropy(logits, asked)
    elif name == "eq2":
        loss = -target_probability(logits, asked).mean()
    else:
        loss = constraints.background * margin(logits, asked, present, PRESENCE_MARGIN)
    if name == "published_mgnet":
        loss = loss + margin(classify(blend(images, 1 - mask, background)), asked, ~present, ABSENCE_MARGIN)
    elif constraints.background:
        complement = classify(blend(images, 1 - mask, background))
        loss = loss + constraints.background * target_probability(complement, asked).mean()
    if constraints.area:
        loss = loss + constraints.area * area(mask)
    if constraints.smoothness:
        loss = loss + constraints.smoothness * total_variation(mask)
    return loss, logits
