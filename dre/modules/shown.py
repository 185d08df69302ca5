"""Which mask training shows the classifier: what the estimator gives, one of a random area, or a tuned one."""

from typing import Literal

import torch
from torch import Tensor

from dre.explainers.masks import remaining_gain
from dre.models.generator import standardise
from dre.sweeps import SweepEngine, rank
from dre.types import Batch, Sweep

ShownName = Literal["controller", "random_area", "tuned"]

TUNING_STEPS = 8
"""Masked versions beside the empty one that `tuned_mask` scores: a quarter of DRE+'s, as every step pays for them."""

AREA_RANGE = (0.03, 0.98)
"""Between which shares of kept places `random_shares` draws: those of M_F."""


def random_shares(raw: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw for each map of [B, 1, h, w] the share of places to keep, uniform over the shares that M_F asks for: [B]."""
    low, high = AREA_RANGE
    return low + (high - low) * torch.rand(len(raw), device=raw.device, generator=generator)


def mask_of_area(raw: Tensor, shares: Tensor, softness: float) -> Tensor:
    """Keep about the given share of each map's highest places, with a soft edge: [B, 1, h, w] in (0, 1).

    Args:
        raw: Scores before the controller, [B, 1, h, w].
        shares: [B] in (0, 1), of the places kept.
        softness: Width of the edge in standard deviations of the map; the ranking learns from the places there.

    Source: our choice. M_F asks how the image fares at every share of kept pixels; the controller's fixed
    distribution shows training one of them.
    """
    standard = standardise(raw)
    ranked = standard.detach().flatten(1).sort(dim=1).values
    places = ((1 - shares) * ranked.shape[1]).long().clamp_max(ranked.shape[1] - 1)
    threshold = ranked.gather(1, places[:, None]).view(-1, 1, 1, 1)
    return ((standard - threshold) / softness).sigmoid()


def tuned_mask(mask: Tensor, batch: Batch, targets: Tensor, engine: SweepEngine) -> Tensor:
    """Weight every pixel by the score that is still to be gained once those above it are shown: [B, 1, H, W].

    The weights are those of DRE+ (self-based), of fewer versions; they are constants for the gradient.

    Args:
        mask: Of the estimator, [B, 1, H, W] in [0, 1].
        batch: Images [B, C, H, W] in [0, 1] and their keys.
        targets: int64 [B].
        engine: Forwards the masked versions and counts them, 9 for each image.

    Source: paper 003, appendix C: M' = M x W takes the place of M in the loss; left there as future work.
    """
    fixed = mask.detach().float()
    versions = Sweep(tuple(step / TUNING_STEPS for step in range(TUNING_STEPS + 1)))
    (scores,) = engine.run(batch["images"], targets, fixed, [versions], batch["key"])
    return mask * remaining_gain(scores, rank(fixed)).view_as(mask)
