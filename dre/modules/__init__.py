"""Lightning modules: training of mask generators, and evaluation of explainers."""

from dre.modules.evaluation import ExplainerEvaluation
from dre.modules.training import MaskTraining

__all__ = ["ExplainerEvaluation", "MaskTraining"]
