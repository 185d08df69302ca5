"""Path attribution: the sum over the steps of a path of what a rule, Riemann or IDGI, gives for each."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from dre.engine.chunks import slices
from dre.engine.gradients import Probe, is_flat
from dre.explainers.base import Explainer
from dre.explainers.gradient import Reduction, reduce_channels
from dre.explainers.paths.bisection import BISECTED
from dre.models import Classifier
from dre.types import IntegrationPath, IntegrationRule, ScoreName, Waypoint


def riemann(here: Waypoint, there: Waypoint) -> Tensor:
    """Multiply the gradient by the displacement it stands for, [B, C, H, W]; the path chose the quadrature.

    Example:
        >>> import torch
        >>> from dre.types import Waypoint
        >>> image = torch.zeros(1, 1, 1, 2)
        >>> gradient, step = torch.tensor([[[[3.0, 4.0]]]]), torch.tensor([[[[0.5, 0.0]]]])
        >>> here = Waypoint(image, torch.tensor([0.2]), gradient, step)
        >>> riemann(here, here)
        tensor([[[[1.5000, 0.0000]]]])
    """
    return here.grad * here.step


def bare_gradient(here: Waypoint, there: Waypoint) -> Tensor:
    """Return the gradient alone, [B, C, H, W], whatever was moved.

    The map ranks pixels as the mean gradient of the nodes does (`quadrature="pair"` takes all of them); it is not
    complete. With `steps: auto` it is refused: most nodes then lie where the score bends.

    Source: Rahman et al. 2022, who compare with integrated gradients in this form.

    Example:
        >>> import torch
        >>> from dre.types import Waypoint
        >>> image = torch.zeros(1, 1, 1, 2)
        >>> gradient, step = torch.tensor([[[[3.0, 4.0]]]]), torch.tensor([[[[0.5, 0.0]]]])
        >>> here = Waypoint(image, torch.tensor([0.2]), gradient, step)
        >>> bare_gradient(here, here)
        tensor([[[[3., 4.]]]])
    """
    return here.grad


def idgi(here: Waypoint, there: Waypoint) -> Tensor:
    """Share the change in score among pixels in proportion to their squared gradient, [B, C, H, W].

    Departs from the published code in two places: gradients are scaled first, so that tiny ones do not underflow when
    squared, and a waypoint without any gradient explains nothing instead of giving NaN (`PathExplainer.dropped_mass`
    says how much that drops).

    Source: Yang et al. 2023, Algorithm 1; Singhi and Kumari 2024, section 3.

    Example:
        >>> import torch
        >>> from dre.types import Waypoint
        >>> image = torch.zeros(1, 1, 1, 2)
        >>> gradient, step = torch.tensor([[[[3.0, 4.0]]]]), torch.tensor([[[[0.5, 0.0]]]])
        >>> here = Waypoint(image, torch.tensor([0.2]), gradient, step)
        >>> there = Waypoint(image, torch.tensor([1.2]), torch.zeros_like(image), torch.zeros_like(image))
        >>> idgi(here, there)
        tensor([[[[0.3600, 0.6400]]]])
    """
    scale = here.grad.abs().amax(dim=(1, 2, 3), keepdim=True)
    energy = (here.grad / scale.where(scale > 0, 1.0)).square_()
    total = energy.sum(dim=(1, 2, 3), keepdim=True)
    return energy.mul_((there.score - here.score)[:, None, None, None] / total.where(total > 0, 1.0))


def idgi_tmlr(here: Waypoint, there: Waypoint) -> Tensor:
    """Compute IDGI without the step into a path's end, which the published code of Singhi and Kumari 2024 leaves out.

    The end is the waypoint at which nothing is left to move. For the numbers of that paper: take it on the path of
    GuidedIG, on a BlurIG that walks `from_sharp` with the `left` quadrature, and on IntegratedGradients with the
    `right` one and, for fewer than 128 steps, `tmlr_stride`. What the missing step would explain is part of the `gap`.

    Source: the published code of Singhi and Kumari 2024; the steepest features move in the step that is missing.

    Example:
        >>> import torch
        >>> from dre.types import Waypoint
        >>> image = torch.zeros(1, 1, 1, 2)
        >>> gradient, step = torch.tensor([[[[3.0, 4.0]]]]), torch.tensor([[[[0.5, 0.0]]]])
        >>> here = Waypoint(image, torch.tensor([0.2]), gradient, step)
        >>> there = Waypoint(image, torch.tensor([1.2]), torch.zeros_like(image), torch.zeros_like(image))
        >>> idgi_tmlr(here, there)
        tensor([[[[0., 0.]]]])
    """
    moves = (there.step != 0).flatten(1).any(1)
    return idgi(here, there) * moves[:, None, None, None]


def completeness(attribution: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Return how far a map [B, C, H, W] is from summing to the change in score along its path, [B], never negative.

    Source: Sundararajan et al. 2017, the axiom of completeness.

    Example:
        >>> import torch
        >>> completeness(torch.tensor([[[[0.25, 0.5]]]]), torch.tensor([0.0]), torch.tensor([1.0]))
        tensor([0.2500], dtype=torch.float64)
    """
    return (attribution.double().flatten(1).sum(1) - (end.double() - start.double())).abs()


@runtime_checkable
class SeveralWalks(Protocol):
    """Declare a path that may stand for several walks, whose maps are weighted and added."""

    def walks(self) -> Sequence[tuple[float, IntegrationPath]]:
        """Return weight and path of each walk."""


@runtime_checkable
class KeepsGradients(Protocol):
    """Declare a path that may keep all gradients of an image until its walk ends."""

    @property
    def keeps_gradients(self) -> bool:
        """Return whether it does, so that few images should be walked at a time."""


@dataclass(frozen=True, slots=True)
class Integral:
    """Hold what one walk, or the weighted sum of several, has explained.

    Args:
        attribution: [B, C, H, W], signed.
        gap: Distance of each walk's sum from its change in score, [B]; distances of several walks add up.
        dropped: Change in score after waypoints that had no gradient to share it by, [B], signed.
    """

    attribution: Tensor
    gap: Tensor
    dropped: Tensor

    @classmethod
    def joined(cls, parts: Sequence["Integral"]) -> "Integral":
        """Return the integral of a batch from those of its parts."""
        if len(parts) == 1:
            return parts[0]
        columns = [(one.attribution, one.gap, one.dropped) for one in parts]
        return cls(*(torch.cat(column) for column in zip(*columns, strict=True)))

    def __add__(self, other: "Integral") -> "Integral":
        """Add another walk of the same images."""
        return Integral(self.attribution + other.attribution, self.gap + other.gap, self.dropped + other.dropped)

    def __mul__(self, weight: float) -> "Integral":
        """Multiply the walk by a weight; a gap has no sign."""
        attribution = self.attribution * weight if weight != 1 else self.attribution
        return Integral(attribution, self.gap * abs(weight), self.dropped * weight)


def integrate(path: IntegrationPath, rules: Sequence[IntegrationRule], images: Tensor, probe: Probe) -> list[Integral]:
    """Walk one path and add up what each rule gives for its steps; an image whose walk stays in place gets zeros."""
    walk = path.walk(images, probe)
    first = last = next(walk)
    attributions = [torch.zeros_like(first.image) for _ in rules]
    dropped = torch.zeros_like(first.score)
    for here, there in pairwise(chain([first], walk)):
        for attribution, rule in zip(attributions, rules, strict=True):
            attribution += rule(here, there)
        dropped += (there.score - here.score).where(is_flat(here.grad), 0.0)
        last = there
    moved = (first.image != last.image).flatten(1).any(1)  # in place, two scores may still differ by their rounding
    for attribution in attributions:
        attribution *= moved[:, None, None, None]
    gaps = [completeness(attribution, first.score, last.score) * moved for attribution in attributions]
    return [Integral(found, gap, dropped * moved) for found, gap in zip(attributions, gaps, strict=True)]


class PathExplainer(Explainer):
    """Sum what `rule` gives for each step of `path`; every path works with every rule.

    After each call `gap` holds the distance of each image's map from completeness and `dropped_mass` the change in
    score, [B] both, after waypoints without any gradient, which IDGI cannot share among pixels.

    Args:
        classifier: What is explained.
        path: Walked from its start to its end.
        rule: What a step contributes: a function, `dre.explainers.riemann` or `dre.explainers.idgi`.
        score: Which output is explained.
        reduce: How the channels become one value.
        chunk: Most images in one pass; by default what suits the device.

    Raises:
        TypeError: `rule` is a class, or cannot be called.

    Source: Sundararajan et al. 2017, section 4, for any path; rules and paths name their own sources.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from dre.explainers import StraightPath, idgi
        >>> from dre.models import Classifier
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
        >>> classifier = Classifier.wrap(network, size=(8, 8))
        >>> images, targets = torch.rand(1, 3, 8, 8), torch.tensor([1])
        >>> PathExplainer(classifier, StraightPath(steps=8), idgi)(images, targets).shape
        torch.Size([1, 1, 8, 8])
    """

    gap: Tensor
    dropped_mass: Tensor

    def __init__(
        self,
        classifier: Classifier,
        path: IntegrationPath,
        rule: IntegrationRule = riemann,
        *,
        score: ScoreName = "probability",
        reduce: Reduction = "sum",
        chunk: int | None = None,
    ) -> None:
        super().__init__(classifier, score=score, chunk=chunk)
        if not callable(rule) or any(isinstance(part, type) for part in (rule, *getattr(rule, "args", ()))):
            raise TypeError(f"`rule` is a function such as dre.explainers.riemann or dre.explainers.idgi, got {rule!r}")
        if rule is bare_gradient and getattr(path, "steps", None) == "auto":
            raise ValueError(
                "the rule bare_gradient counts all nodes alike, and `steps: auto` places them unevenly; give a number "
                "of steps"
            )
        self.path = path
        self.rule = rule
        self.reduce: Reduction = reduce

    def explain(self, images: Tensor, targets: Tensor) -> Tensor:
        """See `Explainer.forward`."""
        return self.read(self.integrate(images, targets))

    def integrate(self, images: Tensor, targets: Tensor) -> Integral:
        """Return the attribution [B, C, H, W] of checked images and its gap [B]; of several walks the weighted sum."""
        (integral,) = self.integrals(images, targets, [self.rule])
        return integral

    def integrals(self, images: Tensor, targets: Tensor, rules: Sequence[IntegrationRule]) -> list[Integral]:
        """Walk once, for checked images [B, C, H, W] and targets [B], and return one integral for each rule."""
        images = images.contiguous(memory_format=torch.channels_last)
        probe, walks = self.probe(targets), self.walks()
        together = len(images)
        if isinstance(self.path, KeepsGradients) and self.path.keeps_gradients:
            together = max(1, self.chunk.limit(images.device) // BISECTED)
        found = [self._walked(walks, images[rows], probe.part(rows), rules) for rows in slices(len(images), together)]
        return [Integral.joined(parts) for parts in zip(*found, strict=True)]

    @staticmethod
    def _walked(
        walks: Sequence[tuple[float, IntegrationPath]],
        images: Tensor,
        probe: Probe,
        rules: Sequence[IntegrationRule],
    ) -> list[Integral]:
        """Return one integral for each rule, of all walks of some images."""
        weighted = [[one * weight for one in integrate(path, rules, images, probe)] for weight, path in walks]
        return [sum(of_rule[1:], start=of_rule[0]) for of_rule in zip(*weighted, strict=True)]

    def walks(self) -> Sequence[tuple[float, IntegrationPath]]:
        """Return weight and path of each walk that the path stands for; a single walk has weight 1."""
        return self.path.walks() if isinstance(self.path, SeveralWalks) else [(1.0, self.path)]

    def read(self, integral: Integral) -> Tensor:
        """Keep the gap and the dropped mass, and return the saliency [B, 1, H, W]."""
        self.gap, self.dropped_mass = integral.gap, integral.dropped
        return reduce_channels(integral.attribution, self.reduce)

    def completeness_gap(self, images: Tensor, targets: Tensor, keys: Sequence[str] | None = None) -> Tensor:
        """Explain, and return |sum of the map - change in score| of each image, [B], summed over the path's walks."""
        self(images, targets, keys)
        return self.gap
