"""Which mask training shows the classifier: what the estimator gives, one of a random area, or a tuned one."""

from typing import Literal

from torch import Tensor

from dre.engine.perturbation import SweepEngine, rank
from dre.explainers.learned import remaining_gain
from dre.types import Batch, Sweep

ShownName = Literal["controller", "random_area", "tuned"]

TUNING_STEPS = 8
"""Masked versions beside the empty one that `tuned_mask` scores: a quarter of DRE+'s, as every step pays for them."""


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
