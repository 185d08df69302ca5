"""What observes training and evaluation: checkpoints, throughput, progress, metrics, pictures, cost, studies."""

from callbacks.artifacts import CheckpointArtifact, ResultsArtifact
from callbacks.background_replacement import BackgroundReplacement
from callbacks.checkpoints import RunCheckpoints
from callbacks.cost import ExplanationCost
from callbacks.explanation_metrics import ExplanationMetrics
from callbacks.map_distances import MapDistances
from callbacks.model_sanity import ModelRandomisation, WeightPerturbation
from callbacks.panel import SaliencyPanel
from callbacks.paper_table import PaperTables
from callbacks.progress import EvaluationProgress
from callbacks.projection_gap import ProjectionGap
from callbacks.report import EvaluationReport
from callbacks.resume import EvaluationResume
from callbacks.salient_pixels import SalientPixels
from callbacks.stability import DeviceStability, JpegStability
from callbacks.step_study import StepStudy
from callbacks.throughput import Throughput

__all__ = [
    "BackgroundReplacement",
    "CheckpointArtifact",
    "DeviceStability",
    "EvaluationProgress",
    "EvaluationReport",
    "EvaluationResume",
    "ExplanationCost",
    "ExplanationMetrics",
    "JpegStability",
    "MapDistances",
    "ModelRandomisation",
    "PaperTables",
    "ProjectionGap",
    "ResultsArtifact",
    "RunCheckpoints",
    "SaliencyPanel",
    "SalientPixels",
    "StepStudy",
    "Throughput",
    "WeightPerturbation",
]
