"""How far IDGI's assumption is from the truth: whether the point it steps to has the score of the next stop."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from dre.explainers.paths.integration import PathExplainer
from dre.types import Waypoint


class StepGaps(PathExplainer):
    """Walk as a path explainer does and measure the steps instead of adding up what they explain: its map is empty.

    After each call `gap` holds the mean over the steps of |f(x_jp) - f(x_j+1)| and `moved` that of |f(x_j+1) - f(x_j)|,
    float64 [B], see `projected`. Stops without a gradient lead nowhere and are left out; an image that has no others
    gets NaN. Of a path that is several walks, the means are over the steps of all of them, each step weighted by the
    magnitude with which its walk counts in the map.

    Args:
        walker: Whose path is walked; passes are counted as its own.

    Source: paper 002, sections 3 and 4.5.1.
    """

    moved: Tensor

    def __init__(self, walker: PathExplainer) -> None:
        super().__init__(walker.classifier, walker.path, walker.rule, score=walker.score)
        self.cost, self.chunk = walker.cost, walker.chunk

    def measure(self, images: Tensor, targets: Tensor, keys: Sequence[str] | None = None) -> tuple[Tensor, Tensor]:
        """Walk, and give `gap` and `moved`, [B] both; arguments as of `Explainer.forward`."""
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
    """Whether IDGI's step leads anywhere, [B]."""
    return _energy(here) > 0


def projected(here: Waypoint, there: Waypoint) -> Tensor:
    """Where IDGI steps to, [B, C, H, W]; the stop itself where there is no gradient.

    It moves along the gradient as far as a straight score would need to reach that of the next stop:
    x_jp = x_j + g (f(x_j+1) - f(x_j)) / |g|^2.
    """
    energy = _energy(here)
    reach = (there.score - here.score).double() / energy.where(energy > 0, torch.inf)
    return here.image + (here.grad.double() * reach[:, None, None, None]).to(here.image.dtype)


def _energy(here: Waypoint) -> Tensor:
    """Squared length of the gradient, float64 [B]: no float32 underflows."""
    return here.grad.double().square().flatten(1).sum(1)
