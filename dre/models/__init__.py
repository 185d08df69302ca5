"""Classifiers, the mask generators that are trained to explain them, and their checkpoints."""

from dre.models.checkpoints import (
    check_compatible,
    check_state,
    load_estimator,
    read_checkpoint,
    read_classifier_checkpoint,
    variant_of,
)
from dre.models.class_names import check_class_names, match_classes
from dre.models.classifiers import Classifier
from dre.models.controller import SkewController
from dre.models.estimator import EstimatorSettings, MaskEstimator
from dre.models.generator import MaskGenerator, SpatialFilter, cell_widths
from dre.models.trained import TrainedNetwork

__all__ = [
    "Classifier",
    "EstimatorSettings",
    "MaskEstimator",
    "MaskGenerator",
    "SkewController",
    "SpatialFilter",
    "TrainedNetwork",
    "cell_widths",
    "check_class_names",
    "check_compatible",
    "check_state",
    "load_estimator",
    "match_classes",
    "read_checkpoint",
    "read_classifier_checkpoint",
    "variant_of",
]
