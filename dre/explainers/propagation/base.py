"""Base class of explainers that propagate the logit back to the pixels: DeepLIFT and LRP."""

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from dre.explainers.base import Explainer, UnsupportedError
from dre.explainers.gradient import Reduction
from dre.explainers.propagation.function_mode import FunctionMode, UnsupportedFunctionError, frozen
from dre.models import Classifier
from dre.types import ScoreName


class PropagationExplainer(Explainer):
    """Propagate the logit back with rules of the method's own for the functions that the network calls.

    Args:
        classifier: What is explained.
        score: Only the logit can be propagated back: a softmax has no rule.
        reduce: How the channels become one value.
        chunk: Most images in one pass; by default what suits the device.

    Raises:
        ValueError: `score` is not `logit`.
        UnsupportedError: The network calls a function that has no rule.
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
        """Refuse a classifier that calls a function without a rule, which is found by a run on noise.

        Raises:
            ValueError: A function that the network calls has no rule.
        """
        try:
            with torch.enable_grad(), frozen(classifier.network):
                cls.rehearse(classifier, classifier.sample())
        except UnsupportedFunctionError as error:
            raise ValueError(cls._missing_rule(error, classifier)) from None

    @classmethod
    @abstractmethod
    def rehearse(cls, classifier: Classifier, images: Tensor) -> None:
        """Run a frozen classifier under the method's rules, so that a missing rule raises."""

    @contextmanager
    def under(self, mode: FunctionMode) -> Iterator[None]:
        """Run the network under a function mode, its parameters frozen.

        Raises:
            UnsupportedError: It calls a function that has no rule.
        """
        try:
            with frozen(self.classifier.network), mode:
                yield
        except UnsupportedFunctionError as error:
            raise UnsupportedError(self._missing_rule(error, self.classifier), self.classifier) from None

    @classmethod
    def _missing_rule(cls, error: UnsupportedFunctionError, classifier: Classifier) -> str:
        return f"{cls.__name__} has no rule for {error} of {classifier.name}"
