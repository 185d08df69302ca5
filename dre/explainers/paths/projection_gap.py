"""Projection gap: score difference between the point projected along the gradient and the next waypoint of a path."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from dre.explainers.paths.integration import PathExplainer
from dre.types import Waypoint


class StepGaps(PathExplainer):
    """Walk as a path explainer does and measure its steps instead of adding up attributions: the map is zero.

    After each call `gap` holds the mean over the steps of |f(x_jp) - f(x_j+1)| and `moved` that of |f(x_j+1) - f(x_j)|,
    float64 [B], see `projected`. Waypoints without a gradient lead nowhere and are left out; an image with no others
    gets NaN. Where a path is several walks, the means are over the steps of all of them, each step weighted by the
    magnitude of its walk's weight in the map.

    Args:
        walker: Whose path is walked; passes are counted as its own.

    Source: Singhi and Kumari 2024, sections 3 and 4.5.1.
    """

    moved: Tensor

    def __init__(self, walker: PathExplainer) -> None:
        super().__init__(walker.classifier, walker.path, walker.rule, score=walker.score)
        self.cost, self.chunk = walker.cost, walker.chunk

    def measure(self, images: Tensor, targets: Tensor, keys: Sequence[str] | None = None) -> tuple[Tensor, Tensor]:
        """Walk, and return `gap` and `moved`, [B] both; arguments as of `Explainer.forward`."""
        self(images, targets, keys)
        return self.gap, self.moved

    def explain(self, images: Tensor, targets: Tensor) -> Tensor:
        """See `Explainer.forward`."""
        images = images.contiguous(memory_format=torch.channels_last)
        probe = self.probe(targets)
        weights, gaps, moves = (images.new_zeros(len(images), dtype=torch.float64) for _ in range(3))
        for weight, path in self.walks():
            for here, there in pairwise(path.walk(images, probe)):
                counts = abs(weight) * has_gradient(here).double()
                weights += counts
                gaps += counts * (probe.scores(projected(here, there)) - there.score).abs()
                moves += counts * (there.score - here.score).abs()
        self.gap, self.moved = gaps / weights, moves / weights  # NaN where nothing counts
        return torch.zeros_like(images[:, :1])


def has_gradient(here: Waypoint) -> Tensor:
    """Return whether IDGI's step leads anywhere, bool [B]."""
    return _energy(here) > 0


def projected(here: Waypoint, there: Waypoint) -> Tensor:
    """Return the point to which IDGI projects, [B, C, H, W]; the waypoint itself where there is no gradient.

    It moves along the gradient as far as a linear score would need to reach that of the next waypoint:
    x_jp = x_j + g (f(x_j+1) - f(x_j)) / |g|^2.
    """
    energy = _energy(here)
    reach = (there.score - here.score).double() / energy.where(energy > 0, torch.inf)
    return here.image + (here.grad.double() * reach[:, None, None, None]).to(here.image.dtype)


def _energy(here: Waypoint) -> Tensor:
    """Compute the squared length of the gradient in float64, [B]: no float32 underflows."""
    return here.grad.double().square().flatten(1).sum(1)
