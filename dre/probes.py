"""The one place that runs forward and backward passes of the classifier for explainers, and counts them."""

import hashlib
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import torch
from torch import Tensor

from dre.models import Classifier
from dre.scoring import ScoreName, score

CHUNKS = {"cpu": 8, "cuda": 128}
"""Images in one forward and backward pass: a CPU gains nothing from larger ones, they leave its cache."""


@dataclass(slots=True)
class Cost:
    """Passes of single images: what an explanation really costs, independent of the machine."""

    forwards: int = 0
    backwards: int = 0
    head_backwards: int = 0


@dataclass(slots=True)
class Chunk:
    """Most images in one pass; the probes of an explainer share it, so a lesson about memory is learnt once.

    Args:
        size: By default 8 on a CPU and 128 on a GPU.
    """

    size: int | None = None
    was_halved: bool = False

    def __post_init__(self) -> None:
        """Refuse an empty chunk."""
        if self.size is not None and self.size < 1:
            raise ValueError(f"`chunk` must be at least one image, got {self.size}")

    def limit(self, device: torch.device) -> int:
        """Give the most images that go through at once on this device."""
        return self.size or CHUNKS.get(device.type, CHUNKS["cpu"])

    def halve(self, failed: int) -> None:
        """Go on with half of what did not fit, and say so the first time."""
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.size = failed // 2
        if not self.was_halved:
            warnings.warn(
                f"no memory for {failed} images at once: going on with chunks of {self.size} or less; "
                "set `chunk` to say so",
                stacklevel=2,
            )
        self.was_halved = True


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
        scores, gradients = self._in_chunks(self._gradient, images, self._targets(rows))
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
            scores, gradients = self._in_chunks(self._gradient, images, targets)
            yield from zip(group, scores.chunk(len(group)), gradients.chunk(len(group)), strict=True)
            together = max(1, self.chunk.limit(self.targets.device) // len(self.targets))

    def scores(self, images: Tensor, rows: Tensor | None = None) -> Tensor:
        """Scores [B] from forward passes alone."""
        (scores,) = self._in_chunks(self._score, images, self._targets(rows))
        return scores

    def leaf_gradients(
        self, images: Tensor, run: Callable[[Tensor], tuple[Sequence[Tensor], Tensor]]
    ) -> tuple[Tensor, ...]:
        """Scores [B] and their gradients with respect to leaves of the caller's own, [B, ...] each.

        Args:
            images: [B, ...], handed on a chunk at a time.
            run: Runs the classifier once on a chunk and gives the leaves and the logits that depend on them.
        """

        def pull(images: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
            with torch.enable_grad():
                leaves, logits = run(images)
                scores = score(logits, targets, self.score)
                gradients = torch.autograd.grad(scores.sum(), leaves, allow_unused=True, materialize_grads=True)
            self.cost.forwards += len(images)
            self.cost.backwards += len(images)
            return scores.detach(), *gradients

        return self._in_chunks(pull, images, self.targets)

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """Logits [B, K] of images that are already a chunk."""
        self.cost.forwards += len(images)
        logits: Tensor = self.classifier(images)
        return logits

    def activation_gradient(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Last feature map [B, C, h, w] and the gradient of the scores with respect to it."""
        activations, logits = self.classifier.activations(images)
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(score(logits, self.targets, self.score).sum(), activations)
        self.cost.forwards += len(images)
        self.cost.head_backwards += len(images)
        return activations.detach(), gradient

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

    def _in_chunks(
        self, run: Callable[[Tensor, Tensor], tuple[Tensor, ...]], images: Tensor, targets: Tensor
    ) -> tuple[Tensor, ...]:
        """Run on even parts of at most a chunk; a part that the device has no memory for is halved."""
        parts: list[tuple[Tensor, ...]] = []
        done = 0
        while done < len(images):
            left = len(images) - done
            size = math.ceil(left / math.ceil(left / self.chunk.limit(images.device)))
            try:
                parts.append(run(images[done : done + size], targets[done : done + size]))
                done += size
                continue
            except torch.OutOfMemoryError:
                if size == 1:
                    raise
            self.chunk.halve(size)  # outside the handler, whose traceback holds on to the tensors that did not fit
        return parts[0] if len(parts) == 1 else tuple(torch.cat(column) for column in zip(*parts, strict=True))


def image_generators(images: Tensor, keys: Sequence[str] | None, seed: int) -> list[torch.Generator]:
    """One CPU generator per image, seeded by its key, so that draws depend on neither batch nor rank.

    Args:
        images: [B, C, H, W]; without keys, a hash of the pixels stands for the key.
        keys: Sample names.
        seed: Of the run.
    """
    names = [key.encode() for key in keys] if keys is not None else [_pixels(image) for image in images]
    digests = (hashlib.sha256(seed.to_bytes(8, "little") + name).digest() for name in names)
    return [torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1) for digest in digests]


def _pixels(image: Tensor) -> bytes:
    return image.detach().float().cpu().contiguous().numpy().tobytes()
