"""Probe: runs and counts the forward and backward passes of the classifier that explainers need."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice

import torch
from torch import Tensor

from dre.engine.chunks import Chunk
from dre.engine.convergence import Convergence
from dre.engine.scoring import score
from dre.images.randomness import image_generators as image_generators
from dre.models import Classifier
from dre.models.taps import Tap
from dre.types import ScoreName

ADVICE: dict[ScoreName, str] = {
    "probability": "a probability of 1 is flat; score='log_probability' or 'logit' still has a gradient",
    "logit": "the classifier is flat there",
    "log_probability": "score='logit' may still have a gradient",
}
"""What to do about a gradient that vanished."""


@dataclass(slots=True)
class Cost:
    """Count passes of single images: the cost of an explanation, independent of the machine.

    Of images that are explained to a tolerance it counts how many there were, how many stopped at a bound before they
    reached it, and the largest error that was left, as a share (see `Probe.settle`).
    """

    forwards: int = 0
    backwards: int = 0
    head_backwards: int = 0
    to_tolerance: int = 0
    at_bound: int = 0
    largest_error: float = 0.0


def is_flat(gradient: Tensor) -> Tensor:
    """Return which images have a gradient [B, ...] of nothing but zeros, bool [B]."""
    dims = tuple(range(1, gradient.ndim))
    return (gradient.amax(dims) == 0) & (gradient.amin(dims) == 0)  # twice as fast as the largest magnitude


@dataclass(slots=True)
class Vanished:
    """Count gradients that are zero, and warn of them once.

    Args:
        gradients: How many were taken, of single images.
        flat: How many of them are zero, or belong to a probability of one; a tensor, so that a GPU need not wait.
    """

    gradients: int = 0
    flat: Tensor | int = 0

    def count(self, scores: Tensor, gradient: Tensor, name: ScoreName) -> None:
        """Add the gradients of a pass; the gradient of a probability that rounds to one is that of its rounding."""
        flat = is_flat(gradient)
        self.flat = self.flat + (flat | (scores >= 1) if name == "probability" else flat).sum()
        self.gradients += len(scores)

    def report(self, name: ScoreName) -> None:
        """Warn of the gradients that were counted, with what to do about them, and reset the counts."""
        flat, gradients = int(self.flat), self.gradients
        self.flat, self.gradients = 0, 0
        if flat:
            warnings.warn(
                f"the gradient of the {name} vanished in {flat} of {gradients} passes: {ADVICE[name]}", stacklevel=2
            )


SCALES = (2.0**10, 1.0, 2.0**-10)
"""What scores are multiplied by before a backward pass in float16, whose smallest number is 6e-8 and largest 65,504."""


def differentiate(scores: Tensor, leaves: Sequence[Tensor], precision: torch.dtype) -> tuple[Tensor, ...]:
    """Return the gradients of the sum of scores [B] with respect to leaves, in float32 at least.

    Args:
        scores: In float32 at least.
        leaves: A leaf that the scores do not depend on has a gradient of zeros.
        precision: That of the network; in float16 scores are scaled, so that gradients neither vanish nor overflow.
    """
    scales = SCALES if precision == torch.float16 else (1.0,)
    for scale in scales:
        found = torch.autograd.grad(
            scores.sum() * scale if scale != 1 else scores.sum(),
            leaves,
            retain_graph=scale != scales[-1],
            allow_unused=True,
            materialize_grads=True,
        )
        gradients = tuple(one.to(torch.promote_types(one.dtype, torch.float32)) for one in found)
        if scale == scales[-1] or all(bool(one.isfinite().all()) for one in gradients):
            break
    return tuple(one / scale for one in gradients) if scale != 1 else gradients


@dataclass(slots=True)
class Probe:
    """Compute the scores of a batch's targets and their gradients; precision is the caller's autocast.

    Args:
        classifier: Frozen.
        targets: [B].
        score: What is differentiated.
        cost: Counter that the passes are added to.
        chunk: Most images in one pass.
        keys: Names of the B images, which seed random draws.
        vanished: Where gradients that vanish are counted.
        convergence: Where errors that are left are reported from.
    """

    classifier: Classifier
    targets: Tensor
    score: ScoreName
    cost: Cost = field(default_factory=Cost)
    chunk: Chunk = field(default_factory=Chunk)
    keys: Sequence[str] | None = None
    vanished: Vanished = field(default_factory=Vanished)
    convergence: Convergence = field(default_factory=Convergence)

    def part(self, rows: slice) -> "Probe":
        """Return the probe of some images of the batch, with the same counters."""
        keys = None if self.keys is None else self.keys[rows]
        return replace(self, targets=self.targets[rows], keys=keys)

    @property
    def dataset_mean(self) -> Tensor:
        """Return the colour [1, C, 1, 1] that the classifier's normalisation maps to zero."""
        return self.classifier.mean

    @property
    def unit(self) -> Tensor:
        """Return the difference in colour [1, C, 1, 1] that the classifier's normalisation maps to one."""
        return self.classifier.std

    def gradient(self, images: Tensor, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the scores [B] and their gradient with respect to the pixels, [B, C, H, W].

        Args:
            images: [B, C, H, W], or fewer where `rows` says which images of the batch they are.
            rows: Places in the batch.
        """
        scores, gradients = self.chunk.map(self._gradient, images, self._targets(rows))
        return scores, gradients

    def gradients(self, stops: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield each stop [B, C, H, W] with its scores [B] and gradient [B, C, H, W], in order.

        Several stops share a pass when the batch is smaller than the chunk, so one image is as efficient as many; no
        more stops than fit into one pass are built at a time.
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
        """Return the scores [B] from forward passes alone."""
        (scores,) = self.chunk.map(self._score, images, self._targets(rows), backward=False)
        return scores

    def activations(self, images: Tensor, tap: Tap | None = None) -> Tensor:
        """Return the last feature map [B, C, h, w], or that of `tap`, as the network lays it out."""
        run = partial(self._activations, tap=tap)
        (activations,) = self.chunk.map(run, images, self.targets, backward=False)
        return activations

    def feature_map(self, images: Tensor, tap: Tap | None = None) -> Tensor:
        """Return the map [B, C, h, w] that the head reads, from forward passes alone; see `Classifier.feature_map`."""
        (maps,) = self.chunk.map(partial(self._feature_map, tap=tap), images, backward=False)
        return maps

    def leaf_gradients(
        self, images: Tensor, run: Callable[[Tensor], tuple[Sequence[Tensor], Tensor]]
    ) -> tuple[Tensor, ...]:
        """Return the scores [B] and their gradients with respect to leaves of the caller's own, [B, ...] each.

        Args:
            images: [B, ...], handed on a chunk at a time.
            run: Runs the classifier once on a chunk and gives the leaves and the logits that depend on them.
        """

        def pull(images: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
            with torch.enable_grad():
                leaves, logits = run(images)
                scores = score(logits, targets, self.score)
                gradients = differentiate(scores, leaves, logits.dtype)
            return self._counted(scores, gradients)

        return self.chunk.map(pull, images, self.targets)

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """Return the logits [B, K] of images that are already a chunk."""
        self.cost.forwards += len(images)
        logits: Tensor = self.classifier(images)
        return logits

    def activation_gradient(self, images: Tensor, tap: Tap | None = None) -> tuple[Tensor, Tensor]:
        """Return the last feature map, or that of `tap`, and the gradient of the scores with respect to it.

        Both are laid out as the network does, [B, C, h, w] or another order; `Tap.read` gives that one.
        """
        run = partial(self._head_gradient, tap=tap)
        activations, gradient = self.chunk.map(run, images, self.targets, backward=False)
        return activations, gradient

    def feature_distance(self, images: Tensor, reference: Tensor, tap: Tap | None = None) -> tuple[Tensor, Tensor]:
        """Return the squared distance [B] of the last feature map from `reference`, relative, and its gradient.

        Args:
            images: [B, C, H, W]; the gradient is with respect to them.
            reference: [B, c, h, w], the same map of other images.
            tap: Which map; by default the one that the head reads.
        """
        distances, gradients = self.chunk.map(partial(self._feature_distance, tap=tap), images, reference)
        return distances, gradients

    def generators(self, images: Tensor, seed: int) -> list[torch.Generator]:
        """Return one CPU generator per image, seeded by its key."""
        return image_generators(images, self.keys, seed)

    def settle(self, errors: Sequence[float], tolerance: float, bound: str, scale: str) -> None:
        """Count images that were explained to a tolerance, see `Convergence.count`."""
        self.cost.to_tolerance += len(errors)
        self.cost.at_bound += self.convergence.count(errors, tolerance, bound, scale)
        self.cost.largest_error = max([self.cost.largest_error, *errors])

    def _targets(self, rows: Tensor | None) -> Tensor:
        return self.targets if rows is None else self.targets[rows]

    def _gradient(self, images: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            pixels = images.detach().requires_grad_()
            logits = self.classifier(pixels)
            scores = score(logits, targets, self.score)
            gradients = differentiate(scores, [pixels], logits.dtype)
        return self._counted(scores, gradients)

    def _counted(self, scores: Tensor, gradients: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Count a forward and a backward pass and return what they gave."""
        self.cost.forwards += len(scores)
        self.cost.backwards += len(scores)
        self.vanished.count(scores.detach(), gradients[0], self.score)
        return scores.detach(), *gradients

    def _feature_distance(self, images: Tensor, reference: Tensor, tap: Tap | None) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            pixels = images.detach().requires_grad_()
            read = self.classifier.feature_map(pixels, tap)
            maps = read.to(reference.dtype)
            size = reference.square().flatten(1).sum(1)
            distances = (maps - reference).square().flatten(1).sum(1) / size.where(size > 0, 1.0)
            (gradient,) = differentiate(distances, [pixels], read.dtype)
        self.cost.forwards += len(images)
        self.cost.backwards += len(images)
        return distances.detach(), gradient

    @torch.no_grad()
    def _score(self, images: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
        scores = score(self.classifier(images), targets, self.score)
        self.cost.forwards += len(images)
        return (scores,)

    @torch.no_grad()
    def _feature_map(self, images: Tensor, tap: Tap | None) -> tuple[Tensor, ...]:
        self.cost.forwards += len(images)
        return (self.classifier.feature_map(images, tap),)

    @torch.no_grad()
    def _activations(self, images: Tensor, targets: Tensor, tap: Tap | None) -> tuple[Tensor, ...]:
        activations, _ = self.classifier.activations(images, tap)
        self.cost.forwards += len(images)
        return (activations.detach(),)

    def _head_gradient(self, images: Tensor, targets: Tensor, tap: Tap | None) -> tuple[Tensor, ...]:
        activations, logits = self.classifier.activations(images, tap)
        with torch.enable_grad():
            scores = score(logits, targets, self.score)
            (gradient,) = differentiate(scores, [activations], logits.dtype)
        self.cost.forwards += len(images)
        self.cost.head_backwards += len(images)
        self.vanished.count(scores.detach(), gradient, self.score)
        return activations.detach().to(gradient.dtype), gradient
