"""Metrics: a pure function from a batch to [B] below, a mergeable torchmetrics.Metric above, no model inside."""

from dre.metrics.confidence import AverageDrop, AverageDropInDeletion, IncreaseInConfidence, relative_drop
from dre.metrics.explainability import Explainability, average_precision
from dre.metrics.faithfulness import Faithfulness, faithfulness
from dre.metrics.image_mean import ImageMean
from dre.metrics.localisation import EnergyInside, PointingGame, energy_inside, pointing_game
from dre.metrics.score_curve import CurveSettings, Deletion, Insertion, area_under_curve
from dre.metrics.score_table import ScoreTable
from dre.metrics.skewness import PearsonSkewness, pearson_skewness

__all__ = [
    "AverageDrop",
    "AverageDropInDeletion",
    "CurveSettings",
    "Deletion",
    "EnergyInside",
    "Explainability",
    "Faithfulness",
    "ImageMean",
    "IncreaseInConfidence",
    "Insertion",
    "PearsonSkewness",
    "PointingGame",
    "ScoreTable",
    "area_under_curve",
    "average_precision",
    "energy_inside",
    "faithfulness",
    "pearson_skewness",
    "pointing_game",
    "relative_drop",
]
