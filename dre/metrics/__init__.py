"""Metrics: a pure function from a batch to [B] below, a mergeable torchmetrics.Metric above, no model inside."""

from dre.metrics.divergence import (
    EarthMover,
    IntersectionOverUnion,
    KullbackLeibler,
    RootMeanSquare,
    ValueDistance,
    earth_mover,
    intersection_over_union,
    kullback_leibler,
    root_mean_square,
    value_distance,
)
from dre.metrics.explainability import Explainability, average_precision
from dre.metrics.faithfulness import Faithfulness, faithfulness
from dre.metrics.image_mean import ImageMean
from dre.metrics.map_mixtures import MapMixtures
from dre.metrics.score_table import ScoreTable
from dre.metrics.similarity import (
    Pearson,
    ReverseSquaredError,
    Spearman,
    StructuralSimilarity,
    TopIntersection,
    WeightedJaccard,
    pearson,
    reverse_squared_error,
    spearman,
    structural_similarity,
    top_intersection,
    weighted_jaccard,
)
from dre.metrics.skewness import PearsonSkewness, pearson_skewness
from dre.metrics.sparsity import Entropy, GiniSparsity, entropy, gini
from dre.metrics.xmgd import XMGD, xmgd

__all__ = [
    "XMGD",
    "EarthMover",
    "Entropy",
    "Explainability",
    "Faithfulness",
    "GiniSparsity",
    "ImageMean",
    "IntersectionOverUnion",
    "KullbackLeibler",
    "MapMixtures",
    "Pearson",
    "PearsonSkewness",
    "ReverseSquaredError",
    "RootMeanSquare",
    "ScoreTable",
    "Spearman",
    "StructuralSimilarity",
    "TopIntersection",
    "ValueDistance",
    "WeightedJaccard",
    "average_precision",
    "earth_mover",
    "entropy",
    "faithfulness",
    "gini",
    "intersection_over_union",
    "kullback_leibler",
    "pearson",
    "pearson_skewness",
    "reverse_squared_error",
    "root_mean_square",
    "spearman",
    "structural_similarity",
    "top_intersection",
    "value_distance",
    "weighted_jaccard",
    "xmgd",
]
