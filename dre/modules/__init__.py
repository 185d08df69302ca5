"""Lightning modules: training of mask generators and of classifiers, and evaluation of explainers."""

from dre.modules.classification import ClassifierTraining
from dre.modules.evaluation import ExplainerEvaluation
from dre.modules.training import MaskTraining

__all__ = ["ClassifierTraining", "ExplainerEvaluation", "MaskTraining"]
