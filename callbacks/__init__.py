"""What observes training and evaluation: checkpoints, throughput, metrics, pictures, cost, the report."""

from callbacks.artifacts import CheckpointArtifact, ResultsArtifact
from callbacks.checkpoints import RunCheckpoints
from callbacks.cost import ExplanationCost
from callbacks.explanation_metrics import ExplanationMetrics
from callbacks.panel import SaliencyPanel
from callbacks.report import EvaluationReport
from callbacks.throughput import Throughput

__all__ = [
    "CheckpointArtifact",
    "EvaluationReport",
    "ExplanationCost",
    "ExplanationMetrics",
    "ResultsArtifact",
    "RunCheckpoints",
    "SaliencyPanel",
    "Throughput",
]
