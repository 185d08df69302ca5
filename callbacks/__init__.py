"""What observes training and evaluation: checkpoints, throughput, progress, metrics, pictures, cost, the report."""

from callbacks.artifacts import CheckpointArtifact
from callbacks.checkpoints import RunCheckpoints
from callbacks.cost import ExplanationCost
from callbacks.explanation_metrics import ExplanationMetrics
from callbacks.panel import SaliencyPanel
from callbacks.progress import EvaluationProgress
from callbacks.report import EvaluationReport
from callbacks.throughput import Throughput

__all__ = [
    "CheckpointArtifact",
    "EvaluationProgress",
    "EvaluationReport",
    "ExplanationCost",
    "ExplanationMetrics",
    "RunCheckpoints",
    "SaliencyPanel",
    "Throughput",
]
