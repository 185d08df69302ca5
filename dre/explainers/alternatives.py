"""Say which explainers work for a classifier that one of them had to refuse."""

from collections.abc import Callable

import torch
from torch import Tensor

from dre.explainers.cam import pooled_head
from dre.explainers.guided import GuidedRectifiers
from dre.explainers.interception import Interceptor, UnsupportedFunctionError, frozen
from dre.explainers.relevance import Relevance, Rules
from dre.explainers.relevance_rules import EpsilonRule, Leaves
from dre.explainers.rescale import Recorder, Rescale
from dre.models import Classifier

ALWAYS = (
    "VanillaGradient",
    "InputXGradient",
    "SmoothGrad",
    "IntegratedGradients",
    "BlurIG",
    "GuidedIG",
    "SAMP",
    "SAMPPlusPlus",
    "GGIG",
    "RISE",
)
"""What asks for scores and gradients alone."""


def working_explainers(classifier: Classifier) -> list[str]:
    """Names of explainers that work for this classifier and need no training; the doubtful ones are tried."""
    trials: dict[str, Callable[[Classifier], bool]] = {
        "GradCAM": lambda classifier: classifier.activation_tap is not None,
        "GradCAMPlusPlus": lambda classifier: classifier.activation_tap is not None,
        "CAM": _has_pooled_head,
        "GuidedBackprop": _has_rectifiers,
        "LRP": _has_relevance,
        "DeepLift": _has_multipliers,
    }
    return [*ALWAYS, *(name for name, is_working in trials.items() if is_working(classifier))]


def _has_pooled_head(classifier: Classifier) -> bool:
    try:
        pooled_head(classifier)
    except ValueError:
        return False
    return True


def _has_rectifiers(classifier: Classifier) -> bool:
    with GuidedRectifiers() as rectifiers, torch.no_grad():
        classifier(_sample(classifier))
    return bool(rectifiers.count > 0)


def _has_relevance(classifier: Classifier) -> bool:
    sample = classifier.normalise(_sample(classifier))
    leaves = Leaves(torch.ones_like(sample, requires_grad=True))
    relevance = Relevance(classifier.network, Rules(EpsilonRule(), EpsilonRule(), "same", 0.0), leaves)
    return _is_supported(relevance, relevance.show(sample, sample, sample))


def _has_multipliers(classifier: Classifier) -> bool:
    sample = classifier.normalise(_sample(classifier))
    with Recorder(classifier.network) as recorder, torch.no_grad():
        classifier.network(sample)
    return _is_supported(Rescale(classifier.network, recorder.meetings), sample.requires_grad_())


def _is_supported(interceptor: Interceptor, pixels: Tensor) -> bool:
    try:
        with torch.enable_grad(), frozen(interceptor.network), interceptor:
            return bool(interceptor.network(pixels).requires_grad)
    except UnsupportedFunctionError:
        return False


def _sample(classifier: Classifier) -> Tensor:
    """One grey image."""
    shape = (1, classifier.preprocessing.channels, *classifier.preprocessing.size)
    return torch.full(shape, 0.5).to(classifier.mean)
