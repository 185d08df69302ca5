"""Lightning callbacks of training and evaluation: checkpoints, progress, metrics, panels, reports and studies."""

from callbacks.artifacts import CheckpointArtifact, ResultsArtifact
from callbacks.checkpoints import RunCheckpoints
from callbacks.explanation_metrics import ExplanationMetrics
from callbacks.map_distances import MapDistances
from callbacks.panels import SaliencyPanel, SalientPixels
from callbacks.progress import EvaluationProgress, ExplanationCost
from callbacks.report import EvaluationReport
from callbacks.resume import EvaluationResume
from callbacks.saved_maps import SavedMaps
from callbacks.studies.background import BackgroundReplacement
from callbacks.studies.grid_pointing import GridPointingGame
from callbacks.studies.noise_stability import NoiseStability
from callbacks.studies.projection_gap import ProjectionGap
from callbacks.studies.stability import DeviceStability, JpegStability
from callbacks.studies.steps import StepStudy
from callbacks.studies.weights import ModelRandomisation, WeightPerturbation
from callbacks.throughput import Throughput
from callbacks.training_progress import TrainingProgress
from dre import renamed

__all__ = [
    "BackgroundReplacement",
    "CheckpointArtifact",
    "DeviceStability",
    "EvaluationProgress",
    "EvaluationReport",
    "EvaluationResume",
    "ExplanationCost",
    "ExplanationMetrics",
    "GridPointingGame",
    "JpegStability",
    "MapDistances",
    "ModelRandomisation",
    "NoiseStability",
    "ProjectionGap",
    "ResultsArtifact",
    "RunCheckpoints",
    "SaliencyPanel",
    "SalientPixels",
    "SavedMaps",
    "StepStudy",
    "Throughput",
    "TrainingProgress",
    "WeightPerturbation",
]

__getattr__ = renamed.getter(__name__)
