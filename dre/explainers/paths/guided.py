"""Guided IG: a path that moves the features with the smallest gradients first, within max_dist of the straight line."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dre.explainers.gradient import Reduction
from dre.explainers.paths.integration import PathExplainer, riemann
from dre.images.fill import Baseline, fill_images
from dre.models import Classifier
from dre.renamed import accepts_old_options
from dre.types import IntegrationRule, Probe, ScoreName, Waypoint

CLOSE = 1e-9
"""Relative and absolute distance from a step's goal that counts as there; the state is float64 for it."""


@accepts_old_options
@dataclass(frozen=True, eq=False)
class GuidedPath:
    """Walk from a baseline to the image in steps of equal length (L1), each spent on the smallest gradients.

    A feature is one channel of one pixel. All images of a batch take their steps together; within a step each stops
    moving when its own goal is reached. The last step goes to the image, which is scored without a gradient.

    Args:
        steps: Number of gradient evaluations.
        fraction: Share of features, those with the smallest gradients, that may move at once.
        max_distance: max_dist of the paper: how far a feature may be ahead of the straight line or behind it, as a
            share of the line; 1 sets no bound.
        baseline: Where to start, see `dre.images.fill.fill_images`.
        blur_sigma: Of the baseline `blur`, in pixels.
        blur_radius: Half width of its kernel, in pixels; four standard deviations when not given.
        seed: Of the baseline `random`.
        tmlr_grad_space: Take the gradient in the classifier's normalised units while features move in pixels, as the
            code of Singhi and Kumari 2024 does: channels whose standard deviation is small then seem less steep.

    Raises:
        ValueError: `steps` is below 1, `fraction` outside (0, 1], or `max_distance` outside [0, 1].

    Source: Kapishnikov et al. 2021, Algorithm 1, with the values of their experiments (fraction 0.5, distance 1).

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from dre.models import Classifier
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
        >>> classifier = Classifier.wrap(network, size=(8, 8))
        >>> images, targets = torch.rand(1, 3, 8, 8), torch.tensor([1])
        >>> PathExplainer(classifier, GuidedPath(steps=4))(images, targets).shape
        torch.Size([1, 1, 8, 8])
    """

    steps: int = 64
    fraction: float = 0.5
    max_distance: float = 1.0
    baseline: Baseline = "black"
    blur_sigma: float = 10.0
    seed: int = 0
    tmlr_grad_space: bool = False
    blur_radius: int | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for settings that describe no path."""
        if self.steps < 1:
            raise ValueError(f"`steps` must be at least 1, got {self.steps}")
        if not 0 < self.fraction <= 1:
            raise ValueError(f"`fraction` must lie in (0, 1], got {self.fraction}")
        if not 0 <= self.max_distance <= 1:
            raise ValueError(f"`max_distance` must lie in [0, 1], got {self.max_distance}")

    def walk(self, images: Tensor, probe: Probe) -> Iterator[Waypoint]:
        """Yield the waypoints from the baseline to images [B, C, H, W] in [0, 1]."""

        def draws() -> list[torch.Generator]:
            return probe.generators(images, self.seed)

        place = fill_images(images, self.baseline, probe.dataset_mean, draws, self.blur_sigma, self.blur_radius)
        start, end = _features(place).double(), _features(images).double()
        length = (end - start).abs().sum(1)
        here = start
        for step in range(1, self.steps + 1):
            score, gradient = probe.gradient(place)
            if self.tmlr_grad_space:
                gradient = gradient * probe.unit
            share = step / self.steps
            steepness = _features(gradient).abs()
            there = self.advance(here, start, end, steepness, share, length) if step < self.steps else end
            yield Waypoint(place, score, gradient, _images(there - here, like=images))
            here, place = there, _images(there, like=images)
        yield Waypoint(place, probe.scores(place), torch.zeros_like(place), torch.zeros_like(place))

    def advance(
        self, here: Tensor, start: Tensor, end: Tensor, steepness: Tensor, share: float, length: Tensor
    ) -> Tensor:
        """Move features [B, N] until what is left of the way to `end` is what the straight line would have left.

        Args:
            here: Where the features are.
            start: Where they began.
            end: Where they go.
            steepness: Magnitude of their gradients.
            share: Of the way that should be done after this step, below 1.
            length: Of the whole way, L1, [B].
        """
        ahead, behind = min(share + self.max_distance, 1.0), max(share - self.max_distance, 0.0)
        furthest = torch.lerp(start, end, ahead) if ahead < 1 else end
        if behind > 0:
            nearest = torch.lerp(start, end, behind)
            here = torch.where((here - start).abs() < (nearest - start).abs(), nearest, here)
        rank = math.floor(self.fraction * (here.shape[1] - 1)) + 1
        goal = length * (1 - share)
        is_moving = torch.ones_like(length, dtype=torch.bool)
        while True:
            distance = (furthest - here).abs()
            left = distance.sum(1) if furthest is end else (end - here).abs().sum(1)
            is_moving = is_moving & (left - goal > (CLOSE * left).clamp(min=CLOSE))
            if not is_moving.any():
                return here
            waiting = distance > 0
            bar = steepness.where(waiting, torch.inf).kthvalue(rank, dim=1, keepdim=True).values
            chosen = waiting & (steepness <= bar) & is_moving[:, None]
            reach = distance.where(chosen, 0.0).sum(1)
            pace = ((left - goal) / reach.where(reach > 0, 1.0)).clamp(max=1.0)
            here = torch.where(chosen, torch.lerp(here, furthest, pace[:, None]), here)
            is_moving = is_moving & (reach > 0) & (pace == 1)


def _features(images: Tensor) -> Tensor:
    """Lay [B, C, H, W] out as [B, N], without a copy where memory is channels last."""
    return images.permute(0, 2, 3, 1).flatten(1)


def _images(features: Tensor, like: Tensor) -> Tensor:
    batch, channels, height, width = like.shape
    return features.view(batch, height, width, channels).permute(0, 3, 1, 2).to(like.dtype)


@accepts_old_options
class GuidedIG(PathExplainer):
    """Integrate gradients along a path that avoids large ones; `steps` passes and a forward pass. It is not complete.

    Args:
        classifier: What is explained.
        steps: Number of gradient evaluations.
        fraction: Share of features, those with the smallest gradients, that may move at once.
        max_distance: How far a feature may be from the straight line, as a share of the line; 1 sets no bound.
        baseline: Where to start, see `dre.images.fill.fill_images`.
        blur_sigma: Of the baseline `blur`, in pixels.
        blur_radius: Half width of its kernel, in pixels; four standard deviations when not given.
        seed: Of the baseline `random`.
        tmlr_grad_space: Take gradients in normalised units while features move in pixels, as in the code of Singhi and
            Kumari 2024.
        rule: `riemann`, `idgi` or `idgi_tmlr`.
        score: Which output is explained.
        reduce: How the channels become one value.
        chunk: Most images in one pass.

    Raises:
        ValueError: `steps` is below 1, `fraction` outside (0, 1], or `max_distance` outside [0, 1].
        TypeError: `rule` is a class, or cannot be called.

    Source: Kapishnikov et al. 2021.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from dre.models import Classifier
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
        >>> classifier = Classifier.wrap(network, size=(8, 8))
        >>> images, targets = torch.rand(1, 3, 8, 8), torch.tensor([1])
        >>> GuidedIG(classifier, steps=4)(images, targets).shape
        torch.Size([1, 1, 8, 8])
    """

    def __init__(
        self,
        classifier: Classifier,
        *,
        steps: int = 64,
        fraction: float = 0.5,
        max_distance: float = 1.0,
        baseline: Baseline = "black",
        blur_sigma: float = 10.0,
        blur_radius: int | None = None,
        seed: int = 0,
        tmlr_grad_space: bool = False,
        rule: IntegrationRule = riemann,
        score: ScoreName = "probability",
        reduce: Reduction = "sum",
        chunk: int | None = None,
    ) -> None:
        path = GuidedPath(steps, fraction, max_distance, baseline, blur_sigma, seed, tmlr_grad_space, blur_radius)
        super().__init__(classifier, path, rule, score=score, reduce=reduce, chunk=chunk)
