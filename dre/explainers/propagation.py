"""What explainers that hand the logit back through the network have in common."""

from collections.abc import Iterator
from contextlib import contextmanager

from dre.explainers.alternatives import working_explainers
from dre.explainers.base import Explainer
from dre.explainers.gradient import Reduction
from dre.explainers.interception import Interceptor, UnsupportedFunctionError, frozen
from dre.models import Classifier
from dre.scoring import ScoreName


class PropagationExplainer(Explainer):
    """Run the network with rules of its own for the functions that it calls.

    Args:
        classifier: What is explained.
        score: Only the logit can be handed back: a softmax has no rule.
        reduce: How the channels become one value.
        chunk: Most images in one pass; by default what suits the device.
    """

    def __init__(
        self,
        classifier: Classifier,
        *,
        score: ScoreName = "logit",
        reduce: Reduction = "sum",
        chunk: int | None = None,
    ) -> None:
        super().__init__(classifier, score=score, chunk=chunk)
        if score != "logit":
            raise ValueError(
                f"`score` must be 'logit' for {type(self).__name__}, got {score!r}: its rules end before the softmax"
            )
        self.reduce: Reduction = reduce

    @contextmanager
    def intercepting(self, interceptor: Interceptor) -> Iterator[None]:
        """Run the network under rules, its parameters frozen; refuse it in one line where a rule is missing."""
        try:
            with frozen(self.classifier.network), interceptor:
                yield
        except UnsupportedFunctionError as error:
            raise ValueError(
                f"{type(self).__name__} has no rule for {error} of {self.classifier.name}; "
                f"{', '.join(working_explainers(self.classifier))} work for it"
            ) from None
