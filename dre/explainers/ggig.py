"""GGIG: the largest gradient that points between a baseline and the image see while they climb the score."""

from typing import Literal, get_args

import torch
from torch import Tensor

from dre.checks import check_choice, check_count
from dre.engine.chunks import chunk_slices
from dre.explainers.base import Explainer
from dre.explainers.gradient import Reduction, reduce_channels
from dre.models import Classifier
from dre.types import ScoreName

Units = Literal["normalised", "pixels"]
"""In which units a step is taken: of the classifier's normalised images, or of pixels in [0, 1]."""


class GGIG(Explainer):
    """Return the largest gradient that points between black and the image see while they climb the score.

    Every point of the line takes `ascents` steps of gradient ascent on the score. The map is the elementwise largest
    gradient over all points and steps, before each step; it is not multiplied by the image. Points are not clipped to
    [0, 1]. The cost is `points` x `ascents` passes; memory grows with neither.

    Args:
        classifier: What is explained.
        score: Which output is raised.
        reduce: How the channels become one value.
        points: Points on the straight line from black to the image, ends included.
        ascents: Gradients taken at each point.
        lr: Step of the ascent.
        units: What `lr` acts on: `normalised` images, where a pixel moves by `lr` times the gradient times the square
            of its channel's standard deviation, or `pixels` in [0, 1]. Gradients are of pixels in either.
        magnitude: Keep the largest magnitude instead of the largest signed value.
        chunk: Most points in one pass; chosen by device when not given.

    Raises:
        ValueError: `points` is below 2, `ascents` below 1, `lr` negative, or `units` is none of these.

    Source: Rahman et al. 2022, Algorithm 1, which does not say how many points it uses, if magnitudes are meant, or
    how channels are reduced. Its `lr` acts in the units of its networks, which are normalised. Compare a signed maximum
    with signed gradients (`reduce="max"`), and `magnitude` with magnitudes (`max_abs`).

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from dre.models import Classifier
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
        >>> classifier = Classifier.wrap(network, size=(8, 8))
        >>> images, targets = torch.rand(1, 3, 8, 8), torch.tensor([1])
        >>> GGIG(classifier, points=3, ascents=2)(images, targets).shape
        torch.Size([1, 1, 8, 8])
    """

    def __init__(
        self,
        classifier: Classifier,
        *,
        score: ScoreName = "logit",
        reduce: Reduction = "max",
        points: int = 25,
        ascents: int = 200,
        lr: float = 1e-4,
        units: Units = "normalised",
        magnitude: bool = False,
        chunk: int | None = None,
    ) -> None:
        super().__init__(classifier, score=score, chunk=chunk)
        check_count("points", points, least=2)
        check_count("ascents", ascents)
        if lr < 0:
            raise ValueError(f"`lr` must not be negative, got {lr}: it would descend")
        check_choice("units", units, get_args(Units))
        self.reduce: Reduction = reduce
        self.units: Units = units
        self.points, self.ascents, self.lr, self.magnitude = points, ascents, lr, magnitude

    def explain(self, images: Tensor, targets: Tensor) -> Tensor:
        """See `Explainer.forward`."""
        shares = torch.linspace(0, 1, self.points, dtype=torch.float64).to(images)[:, None, None, None]
        largest = torch.full_like(images, -torch.inf, dtype=torch.promote_types(images.dtype, torch.float32))
        for rows, columns in chunk_slices(len(images), self.points, self.chunk, images.device):
            points = columns.stop - columns.start
            climbers = (images[rows].detach()[:, None] * shares[columns]).flatten(0, 1)
            peak = self._climb(climbers, targets[rows].repeat_interleave(points))
            largest[rows] = torch.maximum(largest[rows], peak.view(-1, points, *images.shape[1:]).amax(dim=1))
        return reduce_channels(largest, self.reduce)

    def _climb(self, climbers: Tensor, targets: Tensor) -> Tensor:
        """Return the largest gradient [N, C, H, W] of each of N points on its way; the points move in place."""
        probe = self.probe(targets)
        peak = torch.full_like(climbers, -torch.inf)
        pace = self.lr * (probe.unit.square() if self.units == "normalised" else torch.ones_like(probe.unit))
        for _ in range(self.ascents):
            _, gradient = probe.gradient(climbers)
            torch.maximum(peak, gradient.abs() if self.magnitude else gradient, out=peak)
            climbers += pace.to(gradient) * gradient
        return peak
