"""Mask sampling: which mask training shows (the controller's, one of a random area, or a tuned one)."""

from typing import Literal

from torch import Tensor

from dre.engine.perturbation import SweepEngine, rank
from dre.explainers.learned import remaining_gain
from dre.types import Batch, Sweep

MaskSampling = Literal["controller", "random_area", "tuned"]

TUNING_STEPS = 8
"""Masked copies that `tuned_mask` scores beside the empty one: a quarter of DRE+'s, as every step pays for them."""


def tuned_mask(mask: Tensor, batch: Batch, targets: Tensor, engine: SweepEngine) -> Tensor:
    """Weight every pixel by the score that is still to be gained once those above it are shown: [B, 1, H, W].

    The weights are those of DRE+ (self-based) from fewer masked copies; the gradient treats them as constants.

    Args:
        mask: Of the estimator, [B, 1, H, W] in [0, 1].
        batch: Images [B, C, H, W] in [0, 1] and their keys.
        targets: int64 [B].
        engine: Forwards the masked copies and counts them, 9 for each image.

    Source: Fu et al. 2021, appendix C: M' = M x W takes the place of M in the loss; left there as future work.
    """
    fixed = mask.detach().float()
    copies = Sweep(tuple(step / TUNING_STEPS for step in range(TUNING_STEPS + 1)))
    (scores,) = engine.run(batch["images"], targets, fixed, [copies], batch["key"])
    return mask * remaining_gain(scores, rank(fixed)).view_as(mask)
