"""What observes training and evaluation: checkpoints, throughput, metrics, pictures."""

from callbacks.checkpoints import RunCheckpoints
from callbacks.explanation_metrics import ExplanationMetrics
from callbacks.panel import SaliencyPanel
from callbacks.throughput import Throughput

__all__ = ["ExplanationMetrics", "RunCheckpoints", "SaliencyPanel", "Throughput"]
