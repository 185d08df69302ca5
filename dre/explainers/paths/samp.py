"""SAMP and SAMP++: paths that move the most relevant pixels first, under a constraint on the length of a step.

It has more than 300 lines: the path and its two explainers list the same options.
"""

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from dre.checks import check_choice
from dre.explainers.gradient import Reduction
from dre.explainers.paths.integration import PathExplainer, riemann
from dre.images.fill import Baseline, fill_images
from dre.models import Classifier
from dre.renamed import accepts_old_options
from dre.types import Blur, IntegrationPath, IntegrationRule, Probe, ScoreName, Waypoint

Direction = Literal["deletion", "insertion", "both"]
Momentum = Literal["select", "both"]


def top_pixels(gains: Tensor, count: int) -> Tensor:
    """Mark the `count` highest values of each row, bool [B, N]; ties go to those that come first."""
    count = min(count, gains.shape[1])
    bar = gains.kthvalue(gains.shape[1] - count + 1, dim=1, keepdim=True).values
    above, ties = gains > bar, gains == bar
    left = count - above.sum(1, keepdim=True)
    return above | (ties & (ties.cumsum(1) <= left))


def pixels_beyond(gains: Tensor, count: int, margin: float = 1e-6) -> Tensor:
    """Mark the values above the `count`-th highest of each row minus `margin`: bool [B, N].

    Ties are marked together. Where the margin is lost in the rounding of large values, the `count`-th is not marked.
    """
    count = min(count, gains.shape[1])
    bar = gains.kthvalue(gains.shape[1] - count + 1, dim=1, keepdim=True).values
    return gains > bar - margin


@accepts_old_options
@dataclass(frozen=True, eq=False)
class SampPath:
    """Walk greedily: each step moves the pixels with the largest projected gradient all the way to the end.

    The deletion walk starts at the image and takes the pixels that lower the score most; its map is negated. The
    insertion walk ends at the image and takes those that raise it most. All images of a batch step together; one that
    has arrived is scored once more and then left alone.

    Args:
        direction: One of them, or `both`, whose maps are added.
        steps: Steps that the walk takes where each pixel moves at once.
        pixels: How many pixels move at each step, in place of `steps` (the published runs: 3584 of 224 x 224).
        fragments: Infinitesimal constraint: no step is longer (L1) than the walk divided by this; none by default.
        momentum: Weight of the new gradient in a running average with those before; none by default.
        momentum_for: The averaged gradient is used to `select` pixels only, or for the map as well (`both`, as
            published, which gives completeness up).
        deletion_baseline: What deletion leaves; `dataset_mean` is the zero of normalised images, as published.
        insertion_baseline: What insertion starts from; the published `Blur` is padded with zeros, see `dre.types.Blur`.
        blur_sigma: Of the fill named `blur`, in pixels.
        blur_radius: Half width of its kernel, in pixels; four standard deviations when not given.
        seed: Of a baseline of `noise`.
        max_steps: Takes all the rest in one step when it is reached; by default the most that can be needed.
        ea_quantile: Take what exceeds a quantile, as published code does: more pixels where gains tie, for parity.

    Raises:
        ValueError: `steps`, `pixels`, `fragments` or `max_steps` is below 1, `momentum` is outside (0, 1], or
            `direction` or `momentum_for` is unknown.

    Source: Zhang et al. 2024, Eq. 11 and the greedy algorithm. Selection is exact by default; values for `fragments`
    and `momentum` are from the published code.

    Example:
        >>> [(weight, path.direction) for weight, path in SampPath(direction="both").walks()]
        [(-1.0, 'deletion'), (1.0, 'insertion')]
    """

    direction: Direction = "both"
    steps: int = 14
    pixels: int | None = None
    fragments: int | None = None
    momentum: float | None = None
    momentum_for: Momentum = "both"
    deletion_baseline: Baseline | Blur = "black"
    insertion_baseline: Baseline | Blur = "blur"
    blur_sigma: float = 5.0
    seed: int = 0
    max_steps: int | None = None
    ea_quantile: bool = False
    blur_radius: int | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for settings that describe no walk."""
        check_choice("direction", self.direction, get_args(Direction))
        check_choice("momentum_for", self.momentum_for, get_args(Momentum))
        counts = {"steps": self.steps, "pixels": self.pixels, "fragments": self.fragments, "max_steps": self.max_steps}
        for name, count in counts.items():
            if count is not None and count < 1:
                raise ValueError(f"`{name}` must be at least 1, got {count}")
        if self.momentum is not None and not 0 < self.momentum <= 1:
            raise ValueError(f"`momentum` is the weight of the new gradient, in (0, 1], got {self.momentum}")

    def walks(self) -> Sequence[tuple[float, IntegrationPath]]:
        """Return one walk for each direction; that of deletion, which runs away from the image, counts negative."""
        deletion = (-1.0, replace(self, direction="deletion"))
        insertion = (1.0, replace(self, direction="insertion"))
        return {"deletion": [deletion], "insertion": [insertion], "both": [deletion, insertion]}[self.direction]

    def ends(self, images: Tensor, probe: Probe) -> tuple[Tensor, Tensor]:
        """Return the images where the walk starts and ends, [B, C, H, W] each."""
        baseline = self.deletion_baseline if self.direction == "deletion" else self.insertion_baseline

        def draws() -> list[torch.Generator]:
            return probe.generators(images, self.seed)

        other = fill_images(images, baseline, probe.dataset_mean, draws, self.blur_sigma, self.blur_radius)
        return (images, other) if self.direction == "deletion" else (other, images)

    def walk(self, images: Tensor, probe: Probe) -> Iterator[Waypoint]:
        """Yield the waypoints, from images [B, C, H, W] in [0, 1] for deletion, to them for insertion.

        Raises:
            ValueError: The direction is `both`, which is two walks.
        """
        if self.direction == "both":
            raise ValueError("direction 'both' is two walks; take them from walks()")
        here, end = self.ends(images, probe)
        bound = (end - here).abs().sum((1, 2, 3)) / self.fragments if self.fragments else None
        limit = self.step_limit(images.shape[-2] * images.shape[-1])
        score, gradient = probe.gradient(here)
        average = gradient
        for step in range(1, limit + 1):
            share = self.choose(here, end, average, bound)
            if step == limit:
                share = _finish(share, here, end, limit)
            there = torch.lerp(here, end, share.expand_as(here))
            yield Waypoint(here, score, average if self.momentum_for == "both" else gradient, there - here)
            was_open, is_open, here = _is_open(here, end), _is_open(there, end), there
            score = _arrive(probe, here, was_open & ~is_open, score)
            if not is_open.any():
                break
            score, gradient = _look(probe, here, is_open, score, gradient)
            average = gradient if self.momentum is None else torch.lerp(average, gradient, self.momentum)
        yield Waypoint(here, score, torch.zeros_like(here), torch.zeros_like(here))

    def pixels_of(self, area: int) -> int:
        """Return how many pixels move at each step."""
        return self.pixels or math.ceil(area / self.steps)

    def step_limit(self, area: int) -> int:
        """Return the most steps of a walk: each finishes its pixels or moves by the bound; two more for rounding."""
        return self.max_steps or math.ceil(area / self.pixels_of(area)) + (self.fragments or 0) + 2

    def choose(self, here: Tensor, end: Tensor, gradient: Tensor, bound: Tensor | None) -> Tensor:
        """Return how far each pixel moves towards the end, [B, 1, H, W] in [0, 1] (Zhang et al. 2024, Eq. 11)."""
        way = end - here
        gains = (gradient * way).sum(1).flatten(1)
        if self.direction == "deletion":
            gains = -gains
        is_left = (way != 0).any(1).flatten(1)
        gains = gains.where(is_left, -torch.inf)
        select = pixels_beyond if self.ea_quantile else top_pixels
        chosen = (select(gains, self.pixels_of(gains.shape[1])) & is_left).view(len(way), 1, *way.shape[-2:])
        share = chosen.to(way.dtype)
        if bound is None:
            return share
        length = (way.abs() * share).sum((1, 2, 3))
        return share * (bound / length.where(length > 0, 1.0)).clamp(max=1.0)[:, None, None, None]


def _is_open(here: Tensor, end: Tensor) -> Tensor:
    """Return which images have not arrived, bool [B]."""
    return (here != end).flatten(1).any(1)


def _finish(share: Tensor, here: Tensor, end: Tensor, limit: int) -> Tensor:
    """Take all the rest of the way in one step, and warn if that is more than was chosen."""
    cut = ((here != end) & (share < 1)).flatten(1).any(1)
    if cut.any():
        warnings.warn(
            f"{int(cut.sum())} of {len(cut)} walks were not done after {limit} steps and took the rest in the last; "
            "raise `max_steps`",
            stacklevel=2,
        )
    return torch.ones_like(share)


def _look(probe: Probe, here: Tensor, wanted: Tensor, score: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Return scores and gradients, new for the wanted images ([B], bool), as they were for the others."""
    if wanted.all():
        return probe.gradient(here)
    rows = wanted.nonzero()[:, 0]
    new_score, new_gradient = probe.gradient(here[rows], rows)
    return score.index_copy(0, rows, new_score), gradient.index_copy(0, rows, new_gradient)


def _arrive(probe: Probe, here: Tensor, wanted: Tensor, score: Tensor) -> Tensor:
    """Return scores, new for the wanted images of the batch ([B], bool)."""
    rows = wanted.nonzero()[:, 0]
    return score.index_copy(0, rows, probe.scores(here[rows], rows)) if len(rows) else score


@accepts_old_options
class SAMP(PathExplainer):
    """Sum gradient times displacement along greedy walks away from and towards the image; about 28 passes.

    Each direction takes `steps` gradient evaluations and one forward pass, or up to `fragments` more with the
    infinitesimal constraint. The map is complete in the limit of that constraint, without momentum, where the score is
    smooth. Without the constraint it is not. Where rectifiers make the score piecewise linear, a greedy walk expects
    gains on both sides of a kink, and the map sums to far more than the score changes; docs/metrics.md has figures.

    Args:
        classifier: What is explained.
        direction: `deletion`, `insertion`, or the sum of `both`.
        steps: Steps that the walk takes where each pixel moves at once.
        pixels: How many pixels move at each step, in place of `steps`.
        fragments: Infinitesimal constraint: no step is longer (L1) than the walk divided by this.
        momentum: Weight of the new gradient in a running average with those before.
        momentum_for: The averaged gradient is used to `select` pixels only, or for the map as well (`both`).
        deletion_baseline: What deletion leaves, see `dre.images.fill.fill_images`.
        insertion_baseline: What insertion starts from; the published `Blur` is padded with zeros, see `dre.types.Blur`.
        blur_sigma: Of the fill named `blur`, in pixels.
        blur_radius: Half width of its kernel, in pixels; four standard deviations when not given.
        seed: Of a baseline of `noise`.
        max_steps: Takes all the rest in one step when it is reached.
        ea_quantile: Take what exceeds a quantile, as published code does: more pixels where gains tie, for parity.
        rule: `riemann`, or `idgi`.
        score: Which output is explained.
        reduce: How the channels become one value.
        chunk: Most images in one pass.

    Raises:
        ValueError: `steps`, `pixels`, `fragments` or `max_steps` is below 1, `momentum` is outside (0, 1], or
            `direction` or `momentum_for` is unknown.
        TypeError: `rule` is a class, or cannot be called.

    Source: Zhang et al. 2024.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from dre.models import Classifier
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
        >>> classifier = Classifier.wrap(network, size=(8, 8))
        >>> images, targets = torch.rand(1, 3, 8, 8), torch.tensor([1])
        >>> SAMP(classifier, steps=4)(images, targets).shape
        torch.Size([1, 1, 8, 8])
    """

    def __init__(
        self,
        classifier: Classifier,
        *,
        direction: Direction = "both",
        steps: int = 14,
        pixels: int | None = None,
        fragments: int | None = None,
        momentum: float | None = None,
        momentum_for: Momentum = "both",
        deletion_baseline: Baseline | Blur = "black",
        insertion_baseline: Baseline | Blur = "blur",
        blur_sigma: float = 5.0,
        blur_radius: int | None = None,
        seed: int = 0,
        max_steps: int | None = None,
        ea_quantile: bool = False,
        rule: IntegrationRule = riemann,
        score: ScoreName = "logit",
        reduce: Reduction = "sum",
        chunk: int | None = None,
    ) -> None:
        path = SampPath(
            direction,
            steps,
            pixels,
            fragments,
            momentum,
            momentum_for,
            deletion_baseline,
            insertion_baseline,
            blur_sigma,
            seed,
            max_steps,
            ea_quantile,
            blur_radius,
        )
        super().__init__(classifier, path, rule, score=score, reduce=reduce, chunk=chunk)


@accepts_old_options
class SAMPPlusPlus(SAMP):
    """Run SAMP in small steps with averaged gradients; about 110 passes. The momentum gives completeness up.

    Args:
        classifier: What is explained.
        fragments: Infinitesimal constraint: no step is longer (L1) than the walk divided by this.
        momentum: Weight of the new gradient in a running average with those before; null for none.
        options: Those of `SAMP`.

    Raises:
        ValueError: `steps`, `pixels`, `fragments` or `max_steps` is below 1, `momentum` is outside (0, 1], or
            `direction` or `momentum_for` is unknown.
        TypeError: `SAMP` has no such option.

    Source: Zhang et al. 2024; 50 fragments and an even average are the values of the published code.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from dre.models import Classifier
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
        >>> classifier = Classifier.wrap(network, size=(8, 8))
        >>> images, targets = torch.rand(1, 3, 8, 8), torch.tensor([1])
        >>> SAMPPlusPlus(classifier, fragments=4)(images, targets).shape
        torch.Size([1, 1, 8, 8])
    """

    def __init__(
        self, classifier: Classifier, *, fragments: int | None = 50, momentum: float | None = 0.5, **options: Any
    ) -> None:
        super().__init__(classifier, fragments=fragments, momentum=momentum, **options)
