"""What observes training and evaluation: checkpoints, throughput, metrics, distances, pictures, cost, the report."""

from callbacks.artifacts import CheckpointArtifact, ResultsArtifact
from callbacks.checkpoints import RunCheckpoints
from callbacks.cost import ExplanationCost
from callbacks.explanation_metrics import ExplanationMetrics
from callbacks.map_distances import MapDistances
from callbacks.panel import SaliencyPanel
from callbacks.report import EvaluationReport
from callbacks.throughput import Throughput

__all__ = [
    "CheckpointArtifact",
    "EvaluationReport",
    "ExplanationCost",
    "ExplanationMetrics",
    "MapDistances",
    "ResultsArtifact",
    "RunCheckpoints",
    "SaliencyPanel",
    "Throughput",
]
