"""Integration to a tolerance: the trapezoids of a path are bisected where they miss the change in score most."""

import bisect
from collections.abc import Callable, Iterator, Sequence
from numbers import Integral
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from dre.types import Probe, Waypoint

Steps = int | Literal["auto"]
Placing = Callable[[float], tuple[Tensor, Tensor]]
"""From t in [0, 1] to a point of a path and its tangent there, [1, C, H, W] both."""

FIRST_INTERVALS = 8
"""Intervals of equal length that each image begins with."""
BISECTED = 8
"""Intervals of an image that are bisected in one round: as many as fit into a pass on a CPU."""
ROUNDING = 4.0
"""Units in the last place of a score below which a gap is rounding."""


def is_auto(steps: Steps, quadrature: str, tolerance: float, max_steps: int) -> bool:
    """Return whether the number of steps follows from a tolerance.

    Raises:
        TypeError: `steps` is neither `auto` nor a whole number.
        ValueError: The tolerance or its bound is none, or `auto` is asked of another quadrature than the trapezoid.
    """
    if not 0 < tolerance < 1:
        raise ValueError(f"`tolerance` is a share of the change in score, in (0, 1), got {tolerance}")
    if max_steps <= FIRST_INTERVALS:
        raise ValueError(f"`max_steps` must be at least {FIRST_INTERVALS + 1}, the first points, got {max_steps}")
    if steps != "auto":
        if isinstance(steps, bool) or not isinstance(steps, Integral):
            raise TypeError(f"`steps` must be an integer or auto, got {steps!r}")
        return False
    if quadrature != "trapezoid":
        raise ValueError(f"`steps: auto` bisects the intervals of the trapezoid, got the quadrature {quadrature!r}")
    return True


class Trapezoids:
    """Hold the points of one image's path in ascending order, with their scores and gradients.

    Args:
        place: From t to the point and its tangent.
    """

    def __init__(self, place: Placing) -> None:
        self.place = place
        self.times: list[float] = []
        self.scores: list[float] = []
        self.slopes: list[float] = []
        self.gradients: list[Tensor] = []

    def add(self, time: float, score: float, slope: float, gradient: Tensor) -> None:
        """Add a point: its score, the derivative of the score along the path, and the gradient [C, H, W]."""
        at = bisect.bisect(self.times, time)
        self.times.insert(at, time)
        self.scores.insert(at, score)
        self.slopes.insert(at, slope)
        self.gradients.insert(at, gradient)

    def errors(self) -> np.ndarray:
        """Return what each trapezoid gives beyond the change in score across it."""
        slopes = np.asarray(self.slopes)
        found: np.ndarray = np.diff(self.times) * (slopes[1:] + slopes[:-1]) / 2 - np.diff(self.scores)
        return found

    def error(self, eps: float) -> float:
        """Return the gap of completeness as a share of the change in score; 0 where it is rounding.

        Args:
            eps: Of the scores' precision.
        """
        rounding = ROUNDING * eps * float(np.abs(self.scores).max())
        gap = abs(float(self.errors().sum()))
        return gap / max(abs(self.scores[-1] - self.scores[0]), rounding) if gap > rounding else 0.0

    def midpoints(self, most: int) -> list[float]:
        """Return the middles of the `BISECTED` intervals with the largest errors, or of fewer: at most `most`."""
        worst = np.argsort(-np.abs(self.errors()), kind="stable")[: min(BISECTED, most)]
        return [(self.times[at] + self.times[at + 1]) / 2 for at in sorted(worst.tolist())]

    def waypoint(self, number: int, dtype: torch.dtype) -> Waypoint:
        """Return a point with its score in the given precision; beyond the last point the end, without gradient."""
        if number >= len(self.times):
            image, _ = self.place(1.0)
            end = torch.tensor(self.scores[-1:], dtype=dtype, device=image.device)
            return Waypoint(image, end, torch.zeros_like(image), torch.zeros_like(image))
        before, after = self.times[max(0, number - 1)], self.times[min(len(self.times) - 1, number + 1)]
        image, tangent = self.place(self.times[number])
        score = torch.tensor([self.scores[number]], dtype=dtype, device=image.device)
        return Waypoint(image, score, self.gradients[number][None], (after - before) / 2 * tangent)


def walk_to_tolerance(places: Sequence[Placing], probe: Probe, tolerance: float, max_steps: int) -> Iterator[Waypoint]:
    """Yield the waypoints of paths whose steps are chosen image by image, until each image's gap is small.

    Each image begins with 8 equal intervals. In every round the 8 of them are bisected whose trapezoid is farthest from
    the change in score across it, which the scores of the points tell without another pass. An image stops alone, when
    the sum of these errors is at most `tolerance` of the change in score along the path. The points of all images that
    go on are taken in the same passes. Their gradients are kept until the end of the walk. An image with fewer points
    than another stays at its end.

    Args:
        places: Of each image of the batch.
        probe: Of the batch.
        tolerance: Share of the change in score.
        max_steps: Most points of an image.

    Source: our choice; bisection by a local error is that of adaptive quadrature.
    """
    found = [Trapezoids(place) for place in places]
    times = [number / FIRST_INTERVALS for number in range(FIRST_INTERVALS + 1)]
    asked = [(row, time) for row in range(len(found)) for time in times]
    while True:
        images, tangents = (torch.cat(column) for column in zip(*(places[row](t) for row, t in asked), strict=True))
        rows = torch.tensor([row for row, _ in asked], device=images.device)
        scores, gradients = probe.gradient(images, rows)
        slopes = (gradients.double() * tangents.double()).flatten(1).sum(1)
        taken = zip(asked, scores.tolist(), slopes.tolist(), gradients, strict=True)
        for (row, time), score, slope, gradient in taken:
            found[row].add(time, score, slope, gradient)
        eps = torch.finfo(scores.dtype).eps
        going = [row for row in sorted({row for row, _ in asked}) if found[row].error(eps) > tolerance]
        asked = [(row, t) for row in going for t in found[row].midpoints(max_steps - len(found[row].times))]
        if not asked:
            break
    probe.settle([one.error(eps) for one in found], tolerance, f"max_steps={max_steps}", "the change in score")
    for number in range(max(len(one.times) for one in found) + 1):
        stops = [one.waypoint(number, scores.dtype) for one in found]
        parts = [(stop.image, stop.score, stop.grad, stop.step) for stop in stops]
        yield Waypoint(*(torch.cat(column) for column in zip(*parts, strict=True)))
