"""The one place that runs forward and backward passes of the classifier for explainers, and counts them."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import torch
from torch import Tensor

from dre.chunks import Chunk
from dre.models import Classifier
from dre.randomness import image_generators as image_generators
from dre.scoring import ScoreName, score


@dataclass(slots=True)
class Cost:
    """Passes of single images: what an explanation really costs, independent of the machine."""

    forwards: int = 0
    backwards: int = 0
    head_backwards: int = 0


@dataclass(slots=True)
class Probe:
    """Ask the classifier for the scores of a batch's targets and their gradients; precision is the caller's autocast.

    Args:
        classifier: Frozen.
        targets: [B].
        score: What is differentiated.
        cost: Counter that the passes are added to.
        chunk: Most images in one pass.
        keys: Names of the B images, which seed random draws.
    """

    classifier: Classifier
    targets: Tensor
    score: ScoreName
    cost: Cost = field(default_factory=Cost)
    chunk: Chunk = field(default_factory=Chunk)
    keys: Sequence[str] | None = None

    @property
    def neutral(self) -> Tensor:
        """Colour [1, C, 1, 1] that the classifier's normalisation maps to zero."""
        return self.classifier.mean

    def gradient(self, images: Tensor, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Scores [B] and their gradient with respect to the pixels, [B, C, H, W].

        Args:
            images: [B, C, H, W], or fewer where `rows` says which images of the batch they are.
            rows: Places in the batch.
        """
        scores, gradients = self.chunk.map(self._gradient, images, self._targets(rows))
        return scores, gradients

    def gradients(self, stops: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Give each stop [B, C, H, W] with its scores and gradient, in order.

        Several stops share a pass when the batch is smaller than the chunk, so one image is as efficient as many; no
        more stops than one pass takes are ever built.
        """
        stops = iter(stops)
        together = max(1, self.chunk.limit(self.targets.device) // len(self.targets))
        while group := list(islice(stops, together)):
            images = torch.cat(group) if len(group) > 1 else group[0]
            targets = self.targets.repeat(len(group))
            scores, gradients = self.chunk.map(self._gradient, images, targets)
            yield from zip(group, scores.chunk(len(group)), gradients.chunk(len(group)), strict=True)
            together = max(1, self.chunk.limit(self.targets.device) // len(self.targets))

    def scores(self, images: Tensor, rows: Tensor | None = None) -> Tensor:
        """Scores [B] from forward passes alone."""
        (scores,) = self.chunk.map(self._score, images, self._targets(rows), backward=False)
        return scores

    def activations(self, images: Tensor) -> Tensor:
        """Last feature map [B, C, h, w], as the network lays it out."""
        (activations,) = self.chunk.map(self._activations, images, self.targets, backward=False)
        return activations

    def activation_gradient(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Last feature map [B, C, h, w] and the gradient of the scores with respect to it; no more is kept for it."""
        activations, gradient = self.chunk.map(self._head_gradient, images, self.targets, backward=False)
        return activations, gradient

    def generators(self, images: Tensor, seed: int) -> list[torch.Generator]:
        """One CPU generator per image, seeded by its key."""
        return image_generators(images, self.keys, seed)

    def _targets(self, rows: Tensor | None) -> Tensor:
        return self.targets if rows is None else self.targets[rows]

    def _gradient(self, images: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            pixels = images.detach().requires_grad_()
            scores = score(self.classifier(pixels), targets, self.score)
            (gradient,) = torch.autograd.grad(scores.sum(), pixels)
        self.cost.forwards += len(images)
        self.cost.backwards += len(images)
        return scores.detach(), gradient

    @torch.no_grad()
    def _score(self, images: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
        scores = score(self.classifier(images), targets, self.score)
        self.cost.forwards += len(images)
        return (scores,)

    @torch.no_grad()
    def _activations(self, images: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
        activations, _ = self.classifier.activations(images)
        self.cost.forwards += len(images)
        return (activations.detach(),)

    def _head_gradient(self, images: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
        activations, logits = self.classifier.activations(images)
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(score(logits, targets, self.score).sum(), activations)
        self.cost.forwards += len(images)
        self.cost.head_backwards += len(images)
        return activations.detach(), gradient
