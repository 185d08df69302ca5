"""What explainers that hand the logit back through the network have in common."""

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from dre.explainers.base import Explainer, UnsupportedError
from dre.explainers.gradient import Reduction
from dre.explainers.propagation.function_mode import Interceptor, UnsupportedFunctionError, frozen
from dre.models import Classifier
from dre.types import ScoreName


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

    @classmethod
    def require(cls, classifier: Classifier) -> None:
        """Refuse a classifier that calls a function without a rule, which is tried on noise."""
        try:
            with torch.enable_grad(), frozen(classifier.network):
                cls.rehearse(classifier, classifier.sample())
        except UnsupportedFunctionError as error:
            raise ValueError(cls._lack(error, classifier)) from None

    @classmethod
    @abstractmethod
    def rehearse(cls, classifier: Classifier, images: Tensor) -> None:
        """Run a frozen classifier under the method's rules, whatever they give."""

    @contextmanager
    def intercepting(self, interceptor: Interceptor) -> Iterator[None]:
        """Run the network under rules, its parameters frozen; refuse it in one line where a rule is missing."""
        try:
            with frozen(self.classifier.network), interceptor:
                yield
        except UnsupportedFunctionError as error:
            raise UnsupportedError(self._lack(error, self.classifier), self.classifier) from None

    @classmethod
    def _lack(cls, error: UnsupportedFunctionError, classifier: Classifier) -> str:
        return f"{cls.__name__} has no rule for {error} of {classifier.name}"
