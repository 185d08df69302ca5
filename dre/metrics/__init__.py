"""Metrics: a pure function from a batch to [B] below, a mergeable torchmetrics.Metric above, no model inside."""

from dre.metrics.attribution import (
    CompletenessGap,
    Concentration,
    completeness_gap,
    concentration,
    scaled_concentration,
)
from dre.metrics.confidence import AverageDrop, AverageDropInDeletion, IncreaseInConfidence, relative_drop
from dre.metrics.explainability import Explainability, average_precision
from dre.metrics.faithfulness import Faithfulness, faithfulness
from dre.metrics.image_mean import ImageMean
from dre.metrics.information_curve import (
    AccuracyInformationCurve,
    InformationSettings,
    SoftmaxInformationCurve,
    information_curve,
)
from dre.metrics.localisation import EnergyInside, PointingGame, energy_inside, pointing_game
from dre.metrics.score_curve import CurveSettings, Deletion, Insertion, area_under_curve
from dre.metrics.score_table import ScoreTable
from dre.metrics.sensitivity import SensitivityN, removed_sums
from dre.metrics.skewness import PearsonSkewness, pearson_skewness

__all__ = [
    "AccuracyInformationCurve",
    "AverageDrop",
    "AverageDropInDeletion",
    "CompletenessGap",
    "Concentration",
    "CurveSettings",
    "Deletion",
    "EnergyInside",
    "Explainability",
    "Faithfulness",
    "ImageMean",
    "IncreaseInConfidence",
    "InformationSettings",
    "Insertion",
    "PearsonSkewness",
    "PointingGame",
    "ScoreTable",
    "SensitivityN",
    "SoftmaxInformationCurve",
    "area_under_curve",
    "average_precision",
    "completeness_gap",
    "concentration",
    "energy_inside",
    "faithfulness",
    "information_curve",
    "pearson_skewness",
    "pointing_game",
    "relative_drop",
    "removed_sums",
    "scaled_concentration",
]
