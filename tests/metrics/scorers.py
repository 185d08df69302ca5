"""Toy scorers with known curves, and a helper that updates a metric from its sweeps."""

import torch
from torch import Tensor

from dre.engine.perturbation import SweepEngine
from dre.metrics.base import feed


def white_share(images: Tensor) -> Tensor:
    """One class whose score is the mean of the image: white pixels are counted, black ones are not."""
    return images.double().mean(dim=(1, 2, 3))[:, None]


class Linear:
    """A classifier with two classes and fixed random weights."""

    def __init__(self, shape: tuple[int, int, int], seed: int = 0) -> None:
        self.weights = torch.randn(2, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))

    def __call__(self, images: Tensor) -> Tensor:
        return images.double().flatten(1) @ self.weights.flatten(1).T


def measure(metric, images, saliency, classifier=white_share, targets=None, keys=None):
    """Read a metric's sweeps, update it, and return the engine that counted the passes."""
    engine = SweepEngine(classifier, score="logit")
    targets = torch.zeros(len(images), dtype=torch.int64) if targets is None else targets
    read = engine.run(images, targets, saliency, list(metric.sweeps.values()), keys)
    feed(metric, {"saliency": saliency, "keys": keys}, dict(zip(metric.sweeps.values(), read, strict=True)))
    return engine
