"""Explanations from one gradient."""

from typing import Literal

from torch import Tensor

from dre.explainers.base import Explainer
from dre.models import Classifier
from dre.scoring import ScoreName

Reduction = Literal["sum", "abs_sum", "sum_abs", "max_abs", "max"]


def reduce_channels(attribution: Tensor, reduction: Reduction) -> Tensor:
    """Bring [B, C, H, W] to [B, 1, H, W].

    `sum` keeps signs, `abs_sum` is the magnitude of the sum, `sum_abs` and `max_abs` work on magnitudes, `max` keeps
    the largest signed value.
    """
    match reduction:
        case "sum":
            return attribution.sum(1, keepdim=True)
        case "abs_sum":
            return attribution.sum(1, keepdim=True).abs()
        case "sum_abs":
            return attribution.abs().sum(1, keepdim=True)
        case "max_abs":
            return attribution.abs().amax(1, keepdim=True)
        case "max":
            return attribution.amax(1, keepdim=True)
        case _:
            raise ValueError(f"unknown reduction {reduction!r}; choose sum, abs_sum, sum_abs, max_abs or max")


class VanillaGradient(Explainer):
    """Magnitude of the gradient of the score with respect to each pixel; one forward and one backward pass.

    Args:
        classifier: What is explained.
        score: Which output is differentiated; a saturated probability has almost no gradient, `log_probability` has.
        reduce: How the channels become one value.

    Source: Simonyan et al. 2014.
    """

    def __init__(
        self, classifier: Classifier, *, score: ScoreName = "probability", reduce: Reduction = "max_abs"
    ) -> None:
        super().__init__(classifier, score=score)
        self.reduce: Reduction = reduce

    def explain(self, images: Tensor, targets: Tensor) -> Tensor:
        """See `Explainer.forward`."""
        _, gradient = self.probe(targets).gradient(images)
        return reduce_channels(gradient, self.reduce)
