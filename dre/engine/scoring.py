"""Class scores: the probability, logit or log-probability of a target class."""

from typing import get_args

import torch
from torch import Tensor

from dre.checks import check_choice
from dre.types import ScoreName


def score(logits: Tensor, targets: Tensor, name: ScoreName = "probability") -> Tensor:
    """Return each image's score for its target class, [B], differentiable in the logits.

    Args:
        logits: [B, K]; half-precision logits are scored in float32.
        targets: int64 [B].
        name: The logit itself, or the softmax probability, or its natural logarithm.
    """
    check_score_name(name)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if name == "probability":
        logits = logits.softmax(dim=1)
    elif name == "log_probability":
        logits = logits.log_softmax(dim=1)
    return logits.gather(1, targets[:, None])[:, 0]


def check_score_name(name: str) -> None:
    """Raise ValueError for a name that is no score."""
    check_choice("score", name, get_args(ScoreName))


def finite_logits(logits: Tensor) -> Tensor:
    """Return of which images the logits [B, K] give probabilities, bool [B]; a class may have minus infinity."""
    return logits.float().logsumexp(dim=1).isfinite()


def spread(values: Tensor, rows: Tensor) -> Tensor:
    """Return values [N, ...] at the rows that bool [B] marks, and NaN at the others: [B, ...]."""
    whole = values.new_full((len(rows), *values.shape[1:]), torch.nan)
    whole[rows] = values
    return whole
