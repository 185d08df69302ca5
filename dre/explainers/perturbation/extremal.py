"""Extremal perturbations: smooth masks of a given area that keep the score as high as they can."""

from collections.abc import Callable, Sequence
from typing import get_args

import torch
from torch import Tensor

from dre.checks import check_choice, check_count, check_not_negative
from dre.explainers.perturbation.optimised import Game, OptimisedExplainer, descend
from dre.explainers.perturbation.smooth_max import SmoothMax, area_term
from dre.images.blur import gaussian_blur
from dre.images.fill import FILLS, DrawnFill, FillDraws, blend
from dre.models import Classifier
from dre.renamed import accepts_old_options
from dre.types import ScoreName

MOMENTUM = 0.9
DAMPENING = 0.9
FIRST_AREA_WEIGHT = 300.0
AREA_WEIGHT_GROWTH = 1.0035
"""Factor of the weight of the area after each iteration."""


class BlurPyramid:
    """Blur each pixel of some images by as much as a mask says.

    Args:
        images: [N, C, H, W].
        levels: Blurs that are computed; between them, images are mixed linearly.
        sigma: Of the strongest blur, where a mask is 0, in pixels.
    """

    def __init__(self, images: Tensor, levels: int, sigma: float) -> None:
        blurs = [gaussian_blur(images, sigma * (1 - level / (levels - 1))) for level in range(levels)]
        self.pyramid = torch.stack(blurs, dim=1).flatten(3)
        self.levels = levels

    def show(self, masks: Tensor) -> Tensor:
        """Blur the images [N, C, H, W] under masks [N, 1, H, W] in [0, 1], differentiable in the masks."""
        count, _, channels, _ = self.pyramid.shape
        position = masks * (self.levels - 1)
        below = position.detach().floor().clamp(0, self.levels - 2)
        index = below.long().view(count, 1, 1, -1).expand(-1, 1, channels, -1)
        shape = (count, channels, *masks.shape[-2:])
        stronger, weaker = (self.pyramid.gather(1, places).view(shape) for places in (index, index + 1))
        return torch.lerp(stronger, weaker, (position - below).expand(shape))


@accepts_old_options
class ExtremalPerturbation(OptimisedExplainer):
    """Find smooth masks of given areas that keep the score highest, and sum them; `iterations` passes for each area.

    Gradient descent raises the score of what a mask shows and pulls its area to the wanted one, more strongly at each
    iteration. The area is a share of the mask with a margin of `sigma` pixels around the image, as published. At the
    published `lr` a mask takes hundreds of iterations to shrink to its area: stopped early, it is wide and faint.

    Args:
        classifier: What is explained.
        areas: Shares of the mask that are 1; one mask is searched for each, and the map is their sum.
        fill: What a mask of 0 leaves: a strong `blur` (values between 0 and 1 blur less), another fill of
            `dre.types.FillName`, or the `mixture` of blur and noise of Fu et al. 2021.
        game: `preservation` keeps the score with the region that is 1, `deletion` destroys it without that region.
        score: Which output is raised or lowered.
        iterations: Steps of gradient descent.
        lr: Of the descent, which has a momentum and a dampening of 0.9 each.
        step: Pixels between the parameters of a mask.
        sigma: Width of the bump that each raises, in pixels.
        levels: Strengths of blur that are computed.
        blur_sigma: Of the strongest, in pixels.
        flip: Mirror the images at every other iteration.
        smooth: Blur of the map, as a share of the image's shorter side; 0 for none.
        seed: Of the mixture.
        chunk: Most masks in one pass.

    Raises:
        ValueError: `iterations` or `step` is below 1, `levels` below 2, `lr` or `sigma` is not positive, `blur_sigma`
            or `smooth` negative, an area is outside (0, 1], or `fill` or `game` is unknown.

    Source: Fong, Patrick and Vedaldi 2019 and the published code, which explains one image at a time, leaves the step
    after its last evaluation out, and works on normalised images, where a blur has a border of zeros instead of a
    reflected one.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from dre.models import Classifier
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
        >>> classifier = Classifier.wrap(network, size=(8, 8))
        >>> images, targets = torch.rand(1, 3, 8, 8), torch.tensor([1])
        >>> ExtremalPerturbation(classifier, iterations=2, step=4, sigma=4.0)(images, targets).shape
        torch.Size([1, 1, 8, 8])
    """

    def __init__(
        self,
        classifier: Classifier,
        *,
        areas: Sequence[float] = (0.1,),
        fill: DrawnFill = "blur",
        game: Game = "preservation",
        score: ScoreName = "logit",
        iterations: int = 800,
        lr: float = 0.01,
        step: int = 7,
        sigma: float = 21.0,
        levels: int = 8,
        blur_sigma: float = 20.0,
        flip: bool = True,
        smooth: float = 0.0,
        seed: int = 0,
        chunk: int | None = None,
    ) -> None:
        super().__init__(classifier, iterations=iterations, lr=lr, score=score, seed=seed, chunk=chunk)
        check_choice("game", game, get_args(Game))
        check_choice("fill", fill, FILLS)
        check_count("step", step)
        check_count("levels", levels, least=2)
        check_not_negative(blur_sigma=blur_sigma, smooth=smooth)
        if not areas or not all(0 < area <= 1 for area in areas):
            raise ValueError(f"`areas` must be shares of the mask in (0, 1], at least one, got {list(areas)}")
        if sigma <= 0:
            raise ValueError(f"`sigma` must be positive, got {sigma}: it is the width of a bump")
        self.areas = tuple(areas)
        self.masks_each = len(self.areas)
        self.fill: DrawnFill = fill
        self.game: Game = game
        self.step, self.sigma, self.flip, self.smooth = step, sigma, flip, smooth
        self.levels, self.blur_sigma = levels, blur_sigma

    def explain(self, images: Tensor, targets: Tensor) -> Tensor:
        """See `Explainer.forward`."""
        return gaussian_blur(super().explain(images, targets), self.smooth * min(images.shape[-2:]))

    def search(
        self, images: Tensor, targets: Tensor, columns: slice, generators: Sequence[torch.Generator]
    ) -> tuple[Tensor, Tensor]:
        """See `OptimisedExplainer.search`."""
        areas = torch.tensor(self.areas[columns], dtype=torch.float64).repeat(len(images))
        repeats = columns.stop - columns.start
        own = [_own(generator, column) for generator in generators for column in range(columns.start, columns.stop)]
        show = self._perturbation(images.repeat_interleave(repeats, dim=0), own)
        probe = self.probe(targets.repeat_interleave(repeats))
        shape = SmoothMax((images.shape[-2], images.shape[-1]), self.step, self.sigma)
        values = torch.ones(len(areas), 1, *shape.grid, dtype=images.dtype, device=images.device, requires_grad=True)
        seen: list[Tensor] = []

        def losses(step: int) -> Tensor:
            masks = shape.build(values)
            shown = show(shape.crop(masks if self.game == "preservation" else 1 - masks))
            shown = shown.flip(3) if self.flip and step % 2 == 0 else shown
            scores = self.attach(shown, *probe.gradient(shown.detach()))
            rewards, distances = (scores if self.game == "preservation" else -scores), area_term(masks, areas)
            if step in (0, self.iterations - 1):
                seen.append((FIRST_AREA_WEIGHT * distances - rewards).detach())
            return FIRST_AREA_WEIGHT * AREA_WEIGHT_GROWTH**step * distances - rewards

        optimiser = torch.optim.SGD([values], lr=self.lr, momentum=MOMENTUM, dampening=DAMPENING)
        descend(values, optimiser, losses, self.iterations)
        masks = shape.crop(shape.build(values.detach()))
        both = torch.stack([seen[0], seen[-1]]).view(2, len(images), repeats)
        return masks.view(len(images), repeats, *masks.shape[-2:]).sum(1, keepdim=True), both.sum(2)

    def _perturbation(self, images: Tensor, generators: Sequence[torch.Generator]) -> Callable[[Tensor], Tensor]:
        """Return the function from masks to the images under them."""
        if self.fill == "blur":
            return BlurPyramid(images, self.levels, self.blur_sigma).show
        fills = FillDraws(images, self.fill, self.classifier.mean, generators, self.blur_sigma)
        return lambda masks: blend(images, masks, fills.draw())


def _own(generator: torch.Generator, column: int) -> torch.Generator:
    """Derive a generator for one of several masks of an image."""
    return torch.Generator().manual_seed(generator.initial_seed() + column)
