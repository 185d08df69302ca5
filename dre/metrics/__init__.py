"""Metrics: a pure function from a batch to [B] below, a mergeable torchmetrics.Metric above, no model inside."""

from dre.metrics.explainability import Explainability, average_precision
from dre.metrics.faithfulness import Faithfulness, faithfulness
from dre.metrics.image_mean import ImageMean
from dre.metrics.score_table import ScoreTable
from dre.metrics.skewness import PearsonSkewness, pearson_skewness

__all__ = [
    "Explainability",
    "Faithfulness",
    "ImageMean",
    "PearsonSkewness",
    "ScoreTable",
    "average_precision",
    "faithfulness",
    "pearson_skewness",
]
