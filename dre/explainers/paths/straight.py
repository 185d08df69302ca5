"""Integrated gradients: quadrature rules, and the straight path from a baseline to the image."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from dre.checks import check_choice
from dre.explainers.gradient import Reduction
from dre.explainers.paths.bisection import Placing, Steps, is_auto, walk_to_tolerance
from dre.explainers.paths.integration import PathExplainer, riemann
from dre.images.fill import Baseline, fill_images
from dre.models import Classifier
from dre.renamed import accepts_old_options
from dre.types import IntegrationPath, IntegrationRule, Probe, ScoreName, Waypoint

Quadrature = Literal["left", "right", "midpoint", "trapezoid", "gauss_legendre", "pair"]
OPEN = ("midpoint", "gauss_legendre")
"""Quadratures whose gradients all lie inside the path; its two ends are then scored by forward passes alone."""
STRIDE_POINTS = 128
"""Points of which the published code of Singhi and Kumari 2024 takes every second, fourth, ..."""


def quadrature(name: Quadrature, steps: Steps) -> tuple[list[float], list[float]]:
    """Return ascending nodes in [0, 1] and their weights, which sum to 1.

    Args:
        name: `left`, `right`, `trapezoid` and `pair` take `steps` equally spaced nodes, both ends included; `left`
            leaves the last out and `right` the first, `pair` is the plain mean over all (as in PAIR's saliency
            package, with an error of order 1 / steps). `midpoint` and `gauss_legendre` have `steps` inner nodes.
        steps: Number of gradient evaluations.

    Raises:
        ValueError: There is no such quadrature, or it needs more `steps`: 1 for the last two, 2 for the others.
    """
    check_choice("quadrature", name, get_args(Quadrature))
    least = 1 if name in OPEN else 2
    if steps == "auto":
        raise ValueError("`steps: auto` has no nodes in advance; give a number")
    if steps < least:
        raise ValueError(f"`steps` must be at least {least} for the {name} quadrature, got {steps}")
    if name == "gauss_legendre":
        nodes, weights = np.polynomial.legendre.leggauss(steps)
        return ((nodes + 1) / 2).tolist(), (weights / 2).tolist()
    if name == "midpoint":
        return [(step + 0.5) / steps for step in range(steps)], [1 / steps] * steps
    pieces = steps - 1
    left = [1 / pieces] * pieces + [0.0]
    weights_of = {
        "left": left,
        "right": left[::-1],
        "trapezoid": [(a + b) / 2 for a, b in zip(left, left[::-1], strict=True)],
        "pair": [1 / steps] * steps,
    }
    return [step / pieces for step in range(steps)], weights_of[name]


def walk_nodes(
    place: Callable[[float], tuple[Tensor, Tensor]], nodes: Sequence[float], weights: Sequence[float], probe: Probe
) -> Iterator[Waypoint]:
    """Yield the waypoints of a path that is known in advance, several in one pass.

    The end is visited once more for its score alone, so that the gradient at a last node of weight counts as well. A
    path whose first node is not its start begins with a waypoint of the start's score and the first node's gradient.

    Args:
        place: From t in [0, 1] to image and tangent, both [B, C, H, W].
        nodes: Ascending in [0, 1].
        weights: Of the nodes.
        probe: Of the batch.
    """
    tangents: deque[Tensor] = deque()

    def stops() -> Iterator[Tensor]:
        for node in nodes:
            image, tangent = place(node)
            tangents.append(tangent)
            yield image

    is_first = True
    for weight, (image, scores, gradient) in zip(weights, probe.gradients(stops()), strict=True):
        if is_first and nodes[0] > 0:
            start, _ = place(0.0)
            yield Waypoint(start, probe.scores(start), gradient, torch.zeros_like(image))
        is_first = False
        yield Waypoint(image, scores, gradient, weight * tangents.popleft())
    if nodes[-1] < 1:
        image, _ = place(1.0)
        scores = probe.scores(image)
    yield Waypoint(image, scores, torch.zeros_like(image), torch.zeros_like(image))


@accepts_old_options
@dataclass(frozen=True, eq=False)
class StraightPath:
    """Walk the straight line from a baseline to the image.

    Args:
        steps: Number of gradient evaluations, ends included; `auto` takes as many as each image needs, and places them
            where the score bends, see `dre.explainers.paths.bisection.walk_to_tolerance`.
        baseline: Where to start, see `dre.images.fill.fill_images`; of several, the maps are averaged.
        quadrature: Where the gradients are taken and what they weigh.
        blur_sigma: Of the baseline `blur`, in pixels.
        blur_radius: Half width of its kernel, in pixels; four standard deviations when not given.
        seed: Of the baseline `random`.
        tolerance: Of `steps: auto`: gap of completeness at which an image stops, as a share of the change in score.
        max_steps: Of `steps: auto`: most steps of an image, which then stops with a larger gap.
        tmlr_stride: Take every (128 / steps)-th of 128 points, as the code of Singhi and Kumari 2024 does for fewer
            steps. Its gradients stop before the image, at 96/127 of the way for 4 steps, and completeness is lost.

    Raises:
        ValueError: There is no such quadrature, `steps` are too few for it or do not divide 128 with `tmlr_stride`, or
            there is no baseline.

    Source: Sundararajan et al. 2017, Eq. 1.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from dre.models import Classifier
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
        >>> classifier = Classifier.wrap(network, size=(8, 8))
        >>> images, targets = torch.rand(1, 3, 8, 8), torch.tensor([1])
        >>> PathExplainer(classifier, StraightPath(steps=4))(images, targets).shape
        torch.Size([1, 1, 8, 8])
    """

    steps: Steps = 64
    baseline: Baseline | Sequence[Baseline] = "black"
    quadrature: Quadrature = "trapezoid"
    blur_sigma: float = 10.0
    seed: int = 0
    tmlr_stride: bool = False
    blur_radius: int | None = None
    tolerance: float = 0.01
    max_steps: int = 256

    def __post_init__(self) -> None:
        """Raise ValueError for a path without steps or without a baseline."""
        if not is_auto(self.steps, self.quadrature, self.tolerance, self.max_steps):
            quadrature(self.quadrature, self.steps)
        if self.tmlr_stride and (self.steps == "auto" or STRIDE_POINTS % self.steps):
            raise ValueError(f"`tmlr_stride` needs `steps` that divide {STRIDE_POINTS}, got {self.steps}")
        if not self.baselines:
            raise ValueError("`baseline` is empty; name at least one")

    @property
    def baselines(self) -> list[Baseline]:
        """Return the baselines as a list, also if there is one."""
        return [self.baseline] if isinstance(self.baseline, str | Tensor) else list(self.baseline)

    @property
    def keeps_gradients(self) -> bool:
        """See `KeepsGradients`; with baselines of their own, the images of a batch are walked together."""
        own = any(isinstance(one, Tensor) and one.ndim == 4 for one in self.baselines)
        return self.steps == "auto" and not own

    def walks(self) -> list[tuple[float, IntegrationPath]]:
        """Return one walk for each baseline, equally weighted."""
        share = 1 / len(self.baselines)
        return [
            (share, replace(self, baseline=baseline, seed=self.seed + number))
            for number, baseline in enumerate(self.baselines)
        ]

    def walk(self, images: Tensor, probe: Probe) -> Iterator[Waypoint]:
        """Yield the waypoints from the baseline to images [B, C, H, W] in [0, 1].

        Raises:
            ValueError: There are several baselines, which are as many walks.
        """
        if len(self.baselines) > 1:
            raise ValueError(f"{len(self.baselines)} baselines are as many walks; take them from walks()")

        def draws() -> list[torch.Generator]:
            return probe.generators(images, self.seed)

        start = fill_images(images, self.baselines[0], probe.dataset_mean, draws, self.blur_sigma, self.blur_radius)
        tangent = images - start
        if self.steps == "auto":
            rows = zip(*(one[:, None] for one in (start, images, tangent)), strict=True)
            return walk_to_tolerance([_line(*row) for row in rows], probe, self.tolerance, self.max_steps)
        nodes, weights = quadrature(self.quadrature, self.steps)
        if self.tmlr_stride and self.steps < STRIDE_POINTS:
            reach = (STRIDE_POINTS - STRIDE_POINTS // self.steps) / (STRIDE_POINTS - 1)
            nodes, weights = [reach * node for node in nodes], [reach * weight for weight in weights]
        return walk_nodes(lambda t: (torch.lerp(start, images, t), tangent), nodes, weights, probe)


def _line(start: Tensor, end: Tensor, tangent: Tensor) -> Placing:
    return lambda t: (torch.lerp(start, end, t), tangent)


@accepts_old_options
class IntegratedGradients(PathExplainer):
    """Integrate gradients along the straight line from a baseline; `steps` passes.

    Args:
        classifier: What is explained.
        steps: Number of gradient evaluations, ends included; `auto` takes as many as each image needs.
        baseline: Where to start, see `dre.images.fill.fill_images`; of several, the maps are averaged.
        quadrature: Where the gradients are taken and what they weigh.
        blur_sigma: Of the baseline `blur`, in pixels.
        blur_radius: Half width of its kernel, in pixels; four standard deviations when not given.
        seed: Of the baseline `random`.
        tolerance: Of `steps: auto`: gap of completeness at which an image stops, as a share of the change in score.
        max_steps: Of `steps: auto`: most steps of an image; a warning and `cost.json` count those that stop there.
        tmlr_stride: Take every (128 / steps)-th of 128 points and stop before the image, as in the code of Singhi and
            Kumari 2024.
        rule: `riemann`, `idgi` or `idgi_tmlr`.
        score: Which output is explained.
        reduce: How the channels become one value.
        chunk: Most images in one pass.

    Raises:
        ValueError: There is no such quadrature, `steps` are too few for it, or there is no baseline.
        TypeError: `rule` is a class, or cannot be called.

    Source: Sundararajan et al. 2017.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from dre.models import Classifier
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
        >>> classifier = Classifier.wrap(network, size=(8, 8))
        >>> images, targets = torch.rand(1, 3, 8, 8), torch.tensor([1])
        >>> explainer = IntegratedGradients(classifier, steps=64, score="logit")
        >>> saliency = explainer(images, targets)
        >>> change = (classifier(images) - classifier(torch.zeros_like(images)))[0, 1]
        >>> torch.allclose(saliency.sum(), change, atol=1e-4)
        True
    """

    def __init__(
        self,
        classifier: Classifier,
        *,
        steps: Steps = 64,
        baseline: Baseline | Sequence[Baseline] = "black",
        quadrature: Quadrature = "trapezoid",
        blur_sigma: float = 10.0,
        blur_radius: int | None = None,
        seed: int = 0,
        tolerance: float = 0.01,
        max_steps: int = 256,
        tmlr_stride: bool = False,
        rule: IntegrationRule = riemann,
        score: ScoreName = "probability",
        reduce: Reduction = "sum",
        chunk: int | None = None,
    ) -> None:
        line = (steps, baseline, quadrature, blur_sigma, seed, tmlr_stride, blur_radius)
        path = StraightPath(*line, tolerance=tolerance, max_steps=max_steps)
        super().__init__(classifier, path, rule, score=score, reduce=reduce, chunk=chunk)
