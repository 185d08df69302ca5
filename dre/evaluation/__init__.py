"""From a batch of images to rows of a table: what evaluate.py and `dre.evaluate` share."""

from dre.evaluation.evaluator import Evaluator
from dre.evaluation.measures import Measures

__all__ = ["Evaluator", "Measures"]
