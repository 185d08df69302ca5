"""What observes training and evaluation: checkpoints, throughput, metrics, pictures."""

from callbacks.artifacts import CheckpointArtifact
from callbacks.checkpoints import RunCheckpoints
from callbacks.explanation_metrics import ExplanationMetrics
from callbacks.panel import SaliencyPanel
from callbacks.throughput import Throughput

__all__ = ["CheckpointArtifact", "ExplanationMetrics", "RunCheckpoints", "SaliencyPanel", "Throughput"]
