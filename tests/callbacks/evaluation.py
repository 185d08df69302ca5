"""Small evaluation module that tests share."""

from dre.explainers import GradCAM, Random, VanillaGradient
from dre.modules import ExplainerEvaluation
from tests.networks import small_classifier

EXPLAINERS = {"grad_cam": GradCAM, "random": Random, "vanilla_gradient": VanillaGradient}


def small_evaluation(classes: int = 5, **options) -> ExplainerEvaluation:
    return ExplainerEvaluation(small_classifier(classes), dict(EXPLAINERS), **options)
