"""Metrics of saliency maps: pure functions from a batch to [B], and a torchmetrics.Metric for each; no model inside."""

from dre import renamed
from dre.metrics.attribution import (
    CompletenessGap,
    Concentration,
    completeness_gap,
    concentration,
    scaled_concentration,
)
from dre.metrics.base import ImageMean
from dre.metrics.complexity import EffectiveComplexity, effective_complexity
from dre.metrics.confidence import AverageDrop, AverageDropInDeletion, IncreaseInConfidence, relative_drop
from dre.metrics.distribution import (
    Entropy,
    GiniSparsity,
    MiddleShare,
    PearsonSkewness,
    entropy,
    gini,
    middle_share,
    pearson_skewness,
)
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
from dre.metrics.information_curves import (
    AccuracyInformationCurve,
    InformationSettings,
    SoftmaxInformationCurve,
    information_curve,
)
from dre.metrics.input_similarity import InputSimilarity
from dre.metrics.localisation import (
    BackgroundShare,
    EdgeContrast,
    EnergyPointingGame,
    PointingGame,
    background_share,
    edge_contrast,
    energy_pointing_game,
    inside,
    pointing_game,
)
from dre.metrics.m_e import Explainability, average_precision
from dre.metrics.m_f import Faithfulness, FaithfulnessFills, faithfulness
from dre.metrics.map_mixtures import MapMixtures
from dre.metrics.noise_stability import (
    local_lipschitz,
    max_sensitivity,
    relative_input_stability,
    relative_output_stability,
)
from dre.metrics.oriented_gradients import GradientCorrelation, gradient_correlation
from dre.metrics.relevance_rank import RelevanceRankAccuracy, relevance_rank_accuracy
from dre.metrics.road import Road, removal_gain
from dre.metrics.score_curve import CurveSettings, Deletion, Insertion, area_under_curve
from dre.metrics.score_table import ScoreTable
from dre.metrics.sensitivity import ClassSensitivity, SensitivityN, removed_sums
from dre.metrics.set_correlations import FaithfulnessCorrelation, MonotonicityCorrelation, monotonicity_correlation
from dre.metrics.set_infidelity import Infidelity, InfidelityScaled, infidelity
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
from dre.metrics.squared_error import LogSquaredError, log_squared_error, scaled_squared_error
from dre.metrics.xmgd_distance import XMGD, xmgd

__all__ = [
    "XMGD",
    "AccuracyInformationCurve",
    "AverageDrop",
    "AverageDropInDeletion",
    "BackgroundShare",
    "ClassSensitivity",
    "CompletenessGap",
    "Concentration",
    "CurveSettings",
    "Deletion",
    "EarthMover",
    "EdgeContrast",
    "EffectiveComplexity",
    "EnergyPointingGame",
    "Entropy",
    "Explainability",
    "Faithfulness",
    "FaithfulnessCorrelation",
    "FaithfulnessFills",
    "GiniSparsity",
    "GradientCorrelation",
    "ImageMean",
    "IncreaseInConfidence",
    "Infidelity",
    "InfidelityScaled",
    "InformationSettings",
    "InputSimilarity",
    "Insertion",
    "IntersectionOverUnion",
    "KullbackLeibler",
    "LogSquaredError",
    "MapMixtures",
    "MiddleShare",
    "MonotonicityCorrelation",
    "Pearson",
    "PearsonSkewness",
    "PointingGame",
    "RelevanceRankAccuracy",
    "ReverseSquaredError",
    "Road",
    "RootMeanSquare",
    "ScoreTable",
    "SensitivityN",
    "SoftmaxInformationCurve",
    "Spearman",
    "StructuralSimilarity",
    "TopIntersection",
    "ValueDistance",
    "WeightedJaccard",
    "area_under_curve",
    "average_precision",
    "background_share",
    "completeness_gap",
    "concentration",
    "earth_mover",
    "edge_contrast",
    "effective_complexity",
    "energy_pointing_game",
    "entropy",
    "faithfulness",
    "gini",
    "gradient_correlation",
    "infidelity",
    "information_curve",
    "inside",
    "intersection_over_union",
    "kullback_leibler",
    "local_lipschitz",
    "log_squared_error",
    "max_sensitivity",
    "middle_share",
    "monotonicity_correlation",
    "pearson",
    "pearson_skewness",
    "pointing_game",
    "relative_drop",
    "relative_input_stability",
    "relative_output_stability",
    "relevance_rank_accuracy",
    "removal_gain",
    "removed_sums",
    "reverse_squared_error",
    "root_mean_square",
    "scaled_concentration",
    "scaled_squared_error",
    "spearman",
    "structural_similarity",
    "top_intersection",
    "value_distance",
    "weighted_jaccard",
    "xmgd",
]

__getattr__ = renamed.getter(__name__)
