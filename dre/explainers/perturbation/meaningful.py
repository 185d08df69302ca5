"""Meaningful perturbations: a coarse mask, found by gradient descent, that lowers the score or keeps it."""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from dre.checks import check_choice, check_count, check_not_negative
from dre.engine.gradients import Probe
from dre.engine.objectives import total_variation
from dre.explainers.perturbation.optimised import Game, OptimisedExplainer, descend
from dre.images.blur import gaussian_blur
from dre.images.fill import FILLS, DrawnFill, FillDraws, blend
from dre.models import Classifier
from dre.renamed import accepts_old_options
from dre.types import ScoreName

Start = Literal["random", "circle"]

CIRCLE_STEP = 5.0
"""Pixels between the radii of the circles among which the first mask is chosen."""

CIRCLE_SIGMA = 10.0
"""Blur of these circles, in pixels."""

CIRCLE_SHARE = 0.01
"""Share of the score, between all and none of the image, at which a circle covers enough."""

FLAT = 1e-10
"""Squared slope below which total variation has no gradient: powers below 2 would give an infinite one."""


@accepts_old_options
class MeaningfulPerturbation(OptimisedExplainer):
    """Find the smallest region that must be hidden to lower the score, or shown to keep it; `iterations` passes.

    A mask of one value for each cell is enlarged and blurred, and the image is blended with a fill under it.
    Adam lowers the score (or raises it) plus a price for the area that the mask deletes (or keeps) and for its slopes.
    Where hiding any region lowers the score, only the price of area limits the size of the map.

    Args:
        classifier: What is explained.
        game: `deletion` looks for the smallest region to delete, and the map is 1 - mask; `preservation` for the
            smallest region to keep, and the map is the mask.
        score: Which output is lowered or raised.
        iterations: Steps of Adam.
        lr: Of Adam.
        area_weight: Price of each cell that is deleted (kept), summed over the cells.
        variation_weight: Price of the total variation, summed over the cells.
        variation_power: Of the slopes in it.
        cell: Pixels along the side of a cell: 8 makes a mask of 28 x 28 for 224 x 224 pixels.
        mask_sigma: Blur of the enlarged mask, in pixels; 0 for none.
        jitter: The image moves under its mask by up to this many pixels in all, at random at each iteration.
        fill: What is shown where the mask hides the image, see `dre.types.FillName`; or the `mixture` of blur and
            noise that Fu et al. 2021 give to all methods that perturb.
        blur_sigma: Of `blur`, in pixels.
        blur_radius: Half width of its kernel, in pixels; four standard deviations when not given.
        start: First mask: `random` values, or the smallest `circle` whose deletion takes the score, which costs one
            forward pass for every five pixels of the image's half diagonal (35 for 224 x 224).
        seed: Of all draws.
        chunk: Most images in one pass.

    Raises:
        ValueError: `iterations` or `cell` is below 1, `lr` is not positive, a weight, a width or `jitter` is negative,
            `variation_power` is below 1, or `fill`, `game` or `start` is unknown.

    Source: Fong and Vedaldi 2017, Eq. 3 to 5; the values are those of its published code. The mask's blur is
    differentiated, which that code leaves out; images are moved with repeated borders, where it enlarges them.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from dre.models import Classifier
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
        >>> classifier = Classifier.wrap(network, size=(8, 8))
        >>> images, targets = torch.rand(1, 3, 8, 8), torch.tensor([1])
        >>> MeaningfulPerturbation(classifier, iterations=2)(images, targets).shape
        torch.Size([1, 1, 8, 8])
    """

    def __init__(
        self,
        classifier: Classifier,
        *,
        game: Game = "deletion",
        score: ScoreName = "probability",
        iterations: int = 300,
        lr: float = 0.1,
        area_weight: float = 1e-4,
        variation_weight: float = 1e-2,
        variation_power: float = 3.0,
        cell: int = 8,
        mask_sigma: float = 5.0,
        jitter: int = 4,
        fill: DrawnFill = "blur",
        blur_sigma: float = 10.0,
        blur_radius: int | None = None,
        start: Start = "random",
        seed: int = 0,
        chunk: int | None = None,
    ) -> None:
        super().__init__(classifier, iterations=iterations, lr=lr, score=score, seed=seed, chunk=chunk)
        check_choice("game", game, get_args(Game))
        check_choice("fill", fill, FILLS)
        check_choice("start", start, get_args(Start))
        check_count("cell", cell)
        check_not_negative(area_weight=area_weight, variation_weight=variation_weight, mask_sigma=mask_sigma)
        check_not_negative(jitter=jitter, blur_sigma=blur_sigma)
        if variation_power < 1:
            raise ValueError(f"`variation_power` must be at least 1, got {variation_power}: edges would cost less")
        self.game: Game = game
        self.area_weight, self.variation_weight, self.variation_power = area_weight, variation_weight, variation_power
        self.cell, self.mask_sigma, self.jitter = cell, mask_sigma, jitter
        self.fill: DrawnFill = fill
        self.blur_sigma, self.blur_radius = blur_sigma, blur_radius
        self.start: Start = start

    def search(
        self, images: Tensor, targets: Tensor, columns: slice, generators: Sequence[torch.Generator]
    ) -> tuple[Tensor, Tensor]:
        """See `OptimisedExplainer.search`."""
        size, probe = (images.shape[-2], images.shape[-1]), self.probe(targets)
        values = self._begin(images, probe, generators).requires_grad_()
        jitter = Jitter(self.jitter, self.iterations, generators)
        padded = jitter.pad(images)
        fills = FillDraws(padded, self.fill, self.classifier.mean, generators, self.blur_sigma, self.blur_radius)

        def losses(step: int) -> Tensor:
            shown, hidden = jitter.move(padded, step), jitter.move(fills.draw(), step)
            seen = blend(shown, self.enlarge(values, size), hidden)
            scores = self.attach(seen, *probe.gradient(seen.detach()))
            return self.price(values) + (scores if self.game == "deletion" else -scores)

        objective = descend(values, torch.optim.Adam([values], lr=self.lr), losses, self.iterations)
        masks = self.enlarge(values.detach(), size)
        return (1 - masks if self.game == "deletion" else masks), objective

    def enlarge(self, values: Tensor, size: tuple[int, int]) -> Tensor:
        """Enlarge values of the cells [N, 1, h, w] to masks [N, 1, H, W]: each cell repeated, then blurred."""
        wide = values.repeat_interleave(self.cell, dim=2)[:, :, : size[0]]
        wide = wide.repeat_interleave(self.cell, dim=3)[..., : size[1]]
        return gaussian_blur(wide, self.mask_sigma)

    def price(self, values: Tensor) -> Tensor:
        """Add up what area and slopes cost, [N]."""
        area = (1 - values if self.game == "deletion" else values).abs().flatten(1).sum(1)
        variation = total_variation(values, self.variation_power, floor=FLAT, per_image=True)
        return self.area_weight * area + self.variation_weight * variation

    def _begin(self, images: Tensor, probe: Probe, generators: Sequence[torch.Generator]) -> Tensor:
        """Return the values [N, 1, h, w] before the first step."""
        grid = math.ceil(images.shape[-2] / self.cell), math.ceil(images.shape[-1] / self.cell)
        if self.start == "random":
            draws = [torch.rand(1, *grid, generator=generator) for generator in generators]
            return torch.stack(draws).to(images)
        circles = smallest_circles(images, gaussian_blur(images, self.blur_sigma, self.blur_radius), probe)
        cells = F.adaptive_avg_pool2d(circles, grid)
        return 1 - cells if self.game == "deletion" else cells


def smallest_circles(images: Tensor, hidden: Tensor, probe: Probe) -> Tensor:
    """Return the smallest blurred circle [N, 1, H, W] around each image's middle whose deletion takes its score.

    Args:
        images: [N, C, H, W].
        hidden: What is shown inside the circle.
        probe: Scores the images.

    Source: the published code of Fong and Vedaldi 2017.
    """
    circles = _circles(images)
    with torch.no_grad():
        scores = torch.stack(
            [probe.scores(blend(hidden, circle.expand_as(images[:, :1]), images)) for circle in circles]
        )
    scores = scores - scores[-1]
    whole = scores[0]
    shares = (scores / whole.where(whole != 0, 1.0)).where(whole != 0, 0.0)
    first = (shares < CIRCLE_SHARE).int().argmax(0).where(whole != 0, len(circles) - 1)
    return circles[first]


def _circles(images: Tensor) -> Tensor:
    """Return blurred circles [R, 1, H, W] around the middle, from nothing to the whole image."""
    height, width = images.shape[-2:]
    down = torch.arange(height, dtype=images.dtype, device=images.device) - (height - 1) / 2
    right = torch.arange(width, dtype=images.dtype, device=images.device) - (width - 1) / 2
    distance = (down[:, None].square() + right[None, :].square()).sqrt()
    radii = torch.arange(0, math.hypot(height, width) / 2 + CIRCLE_SIGMA + CIRCLE_STEP, CIRCLE_STEP)
    return gaussian_blur((distance <= radii.to(distance)[:, None, None]).to(distance)[:, None], CIRCLE_SIGMA)


class Jitter:
    """Moves images by whole pixels, each in its own way at each iteration; borders are repeated.

    Args:
        reach: Pixels between the leftmost and the rightmost place.
        iterations: How many moves there are.
        generators: One for each image.
    """

    def __init__(self, reach: int, iterations: int, generators: Sequence[torch.Generator]) -> None:
        self.reach = reach
        draws = [torch.randint(reach + 1, (iterations, 2), generator=generator) for generator in generators]
        self.moves: list[list[tuple[int, int]]] = torch.stack(draws, dim=1).tolist()

    def pad(self, images: Tensor) -> Tensor:
        """Make room for the moves: [N, C, H + reach, W + reach]."""
        before = self.reach // 2
        after = self.reach - before
        return F.pad(images, (before, after, before, after), mode="replicate") if self.reach else images

    def move(self, padded: Tensor, step: int) -> Tensor:
        """Windows [N, C, H, W] of this step."""
        if not self.reach:
            return padded
        height, width = padded.shape[-2] - self.reach, padded.shape[-1] - self.reach
        return torch.stack(
            [
                image[:, down : down + height, right : right + width]
                for image, (down, right) in zip(padded, self.moves[step], strict=True)
            ]
        )
