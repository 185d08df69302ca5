"""What a study asks of the evaluation module and of what it holds."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from dre.metrics import ImageMean
from dre.sweeps import SweepEngine

Network = Callable[[Tensor], Tensor]
Explain = Callable[[Tensor, Tensor, list[str]], Tensor]
Measure = Callable[[Tensor, Tensor, list[str]], tuple[Tensor, Tensor]]
Compare = Callable[[Tensor, Tensor], Tensor]


class Variants(Protocol):
    """The evaluated explainers under other conditions, as the evaluation module builds them."""

    def explainers(
        self, names: Sequence[str], classifier: Any = None, steps: int | None = None
    ) -> Mapping[str, Explain]:
        """Build explainers anew."""

    def explain_with(
        self, names: Sequence[str], classifier: Any = None, steps: int | None = None
    ) -> Mapping[str, Explain]:
        """Build them as functions that share walks, as long as all are asked about one image before the next."""

    def step_gaps(self, names: Sequence[str], steps: int) -> Mapping[str, Measure]:
        """Build path explainers as functions that give what IDGI's steps miss and what the score moves, [B] both."""

    def path_explainers(self) -> list[str]:
        """Name those whose steps can be chosen."""

    def layers(self) -> list[str]:
        """Name the classifier's layers with weights, from the image up."""

    def randomised(self, layers: Sequence[str], seed: int, redraw: Literal["initial", "shuffled"]) -> Network:
        """Give a copy of the classifier in which these layers are drawn anew."""

    def noisy(self, level: float, seed: int, sigma: Literal["global", "tensor"]) -> Network:
        """Give a copy of the classifier with noise on its parameters."""

    def on_device(self, device: torch.device) -> Network:
        """Give a copy of the classifier on another device."""


class Classifier(Protocol):
    """What is asked of the evaluated classifier."""

    num_classes: int

    def __call__(self, images: Tensor) -> Tensor:
        """Logits [B, K]."""


class Studied(Protocol):
    """What is asked of the evaluation module."""

    explainers: dict[str, object]
    classifier: Classifier
    variants: Variants
    engine: SweepEngine
    metrics: Mapping[str, ImageMean]
    device: torch.device


def check_walks(studied: Studied, names: Sequence[str] | None) -> None:
    """Refuse the name of an explainer that walks no path in steps."""
    walking = studied.variants.path_explainers()
    for name in names or ():
        if name not in walking:
            raise ValueError(f"{name!r} walks no path in steps; those that do are {', '.join(walking) or 'none'}")
