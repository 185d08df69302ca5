"""Loss terms of the mask generators: pure functions of logits, masks and resemblances."""

import torch
import torch.nn.functional as F
from torch import Tensor

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

    Source: paper 003, Eq. 4, as a mean over places instead of its sum, so that the rate does not depend on the size.
    """
    sign = torch.where(is_target, -1.0, 1.0)
    return (sign * resemblance.sigmoid().flatten(1).mean(1)).mean()


def embedding_bce(resemblance: Tensor, is_target: Tensor) -> Tensor:
    """Classify from the mean resemblance whether the class is the target (the loss of MGnet's published code)."""
    return F.binary_cross_entropy_with_logits(resemblance.flatten(1).mean(1), is_target.to(resemblance))


def total_variation(mask: Tensor, border_weight: float = BORDER_WEIGHT) -> Tensor:
    """Mean over images of half the summed squared differences of neighbours, plus a price for a lit border.

    Source: MGnet's published code (paper 003 names the term, not its form).
    """
    rows = (mask[..., 1:, :] - mask[..., :-1, :]).square().sum()
    columns = (mask[..., 1:] - mask[..., :-1]).square().sum()
    border = mask[..., 0, :].square().sum() + mask[..., -1, :].square().sum()
    border = border + mask[..., 0].square().sum() + mask[..., -1].square().sum()
    return (rows + columns + border_weight * border) / (2 * len(mask))


def area(mask: Tensor, offset: float = AREA_OFFSET, power: float = AREA_POWER) -> Tensor:
    """Mean of (mask + offset) ** power: small areas are cheap, faint ones are not. Source: MGnet's published code."""
    return ((mask + offset) ** power).mean()


def margin(logits: Tensor, targets: Tensor, present: Tensor, slack: Tensor | float) -> Tensor:
    """Hinge on the gap between the target's logit and the best other one (Carlini and Wagner's objective).

    Args:
        logits: [B, K].
        targets: [B].
        present: bool [B]; True wants the target ahead by `slack`, False wants it behind by `slack`.
        slack: In logits, one for all or [B].
    """
    target = logits.gather(1, targets[:, None]).squeeze(1)
    others = logits.scatter(1, targets[:, None], float("-inf")).amax(1)
    gap = torch.where(present, others - target, target - others)
    return F.relu(gap + slack).mean()


def target_probability(logits: Tensor, targets: Tensor) -> Tensor:
    """Softmax probability of the target class, [B]."""
    return logits.softmax(1).gather(1, targets[:, None]).squeeze(1)


def generalised_cross_entropy(logits: Tensor, targets: Tensor, power: float = CROSS_ENTROPY_POWER) -> Tensor:
    """Mean of (1 - p ** power) / power, between cross-entropy (power to 0) and 1 - p (power 1).

    A mask of a few pixels can leave the target hopeless; its gradient then stays bounded, where that of the
    cross-entropy would outweigh every other image of the batch.

    Source: Zhang and Sabuncu 2018, Eq. 6; the power is our choice.
    """
    log_probability = F.log_softmax(logits, 1).gather(1, targets[:, None]).squeeze(1)
    return ((1 - (power * log_probability).exp()) / power).mean()
