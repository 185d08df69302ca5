"""Refined DRE: a few steps of Adam on one image's raw scores, under the objective that DRE is trained with."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor

from dre.checks import WIDEST, check_choice, check_count, check_not_negative
from dre.engine.areas import mask_of_area, stratified_shares
from dre.engine.chunks import Chunk, slices
from dre.engine.gradients import Probe
from dre.engine.objectives import bounded_loss
from dre.explainers.learned import DRE
from dre.explainers.perturbation.meaningful import Jitter
from dre.explainers.perturbation.optimised import OptimisedExplainer, descend
from dre.images.fill import blend, fill_images
from dre.images.maps import upsample
from dre.models import Classifier, MaskEstimator
from dre.types import Blur, FillName, ScoreName

RefinementStart = Literal["dre", "cam", "zeros"]
"""Raw scores before the first step: DRE's own, the class evidence of its spatial filter, or none."""

RefinementFill = FillName | float
"""A fill by name; a number is a blur of that standard deviation, in pixels."""

REFINEMENT_FILLS: tuple[RefinementFill, ...] = ("blur", 25.0, "image_mean", "black", "noise")
"""What is shown where a mask hides the image: one of these for each mask, drawn with equal chance."""

UNBOUNDED = (-math.inf, math.inf)


@dataclass(frozen=True, slots=True)
class RefinementSettings:
    """Hold the options of a refinement; `DRERefined` explains them.

    Raises:
        ValueError: An option is out of its range.
    """

    steps: int = 10
    areas: int = 3
    lr: float = 0.1
    betas: tuple[float, float] = (0.9, 0.99)
    softness: float = 0.2
    fills: Sequence[RefinementFill] = REFINEMENT_FILLS
    jitter: int = 4
    start: RefinementStart = "dre"
    resolution: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the options."""
        check_not_negative(steps=self.steps, jitter=self.jitter)
        check_count("areas", self.areas)
        check_choice("start", self.start, get_args(RefinementStart))
        if not (self.lr > 0 and self.softness > 0):
            raise ValueError(f"`lr` and `softness` must be positive, got {self.lr} and {self.softness}")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"`betas` must be two numbers in [0, 1), those of Adam, got {self.betas}")
        if self.resolution is not None:
            check_count("resolution", self.resolution)
        if not self.fills or isinstance(self.fills, str):
            raise ValueError(f"`fills` must name at least one fill in a list, got {self.fills!r}")
        object.__setattr__(self, "fills", tuple(self.fills))  # run files give lists
        object.__setattr__(self, "betas", tuple(self.betas))
        for fill in self.fills:
            if isinstance(fill, str):
                check_choice("fills", fill, get_args(FillName))
            elif isinstance(fill, bool) or not isinstance(fill, int | float) or not 0 < fill <= WIDEST:
                raise ValueError(
                    f"`fills` are names or numbers, a blur's sigma in pixels above 0 and finite, got {fill!r}"
                )


class DRERefined(DRE):
    """Refine the raw scores of DRE for one image by a few steps of Adam; 1 + `steps` x `areas` passes forward.

    Each step keeps the highest scores of `areas` random shares of the image, one from each of as many parts of the
    range that M_F asks for, with a soft edge and over a fill drawn for each mask. It lowers the mean of the training
    objective over these masks; as many passes backward as forward give its gradient. DRE's controller makes the map.

    This is an explainer of its own and not another DRE: it optimises, on the image that it explains, nearly what M_F
    measures. A high M_F is what it was asked for and shows nothing about it; see `docs/refinement.md` for what else was
    measured. Where every mask keeps a probability of one there is nothing to gain, and the map stays as it started.

    Args:
        classifier: The classifier that the checkpoint was trained to explain.
        checkpoint: Of DRE, written by train.py.
        steps: Of Adam; 0 gives DRE's own map.
        areas: Masks in a step.
        lr: Step size of Adam, in standard deviations of the image's raw scores at the start.
        betas: Of Adam.
        softness: Width of a mask's edge in standard deviations of the raw scores.
        fills: What is shown where a mask hides the image, one of them for each mask, by equal chance; a number is a
            blur of that standard deviation in pixels.
        jitter: The masked image moves by up to this many pixels in all, at random for each mask; borders are repeated.
        start: Raw scores before the first step: those of `dre`; `cam`, the class evidence of its spatial filter; or
            `zeros`.
        resolution: Cells along the shorter side of the change that is learnt, which is enlarged bilinearly; by default
            as many as the raw scores have, a quarter of the pixels.
        score: Not used: the objective is that of training.
        seed: Of all draws, which depend on it and on the image's key alone.
        chunk: Most masked images in one pass; chosen by device when not given.

    Raises:
        ValueError: No checkpoint is given and none ships, one explains another classifier or was trained with
            `monotone: false`, or an option is out of its range.
        FileNotFoundError: There is no checkpoint at the path.
        UnsupportedError: The classifier has no taps.

    Source: our choice; masks of random areas and objective are those of training, Adam is that of PyTorch.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from dre.models import Classifier, EstimatorSettings, MaskEstimator
        >>> maps = [nn.Conv2d(3, 4, 4, stride=4), *(nn.Conv2d(4, 4, 2, stride=2) for _ in range(3))]
        >>> network = nn.Sequential(*maps, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> classifier = Classifier.wrap(network, size=(64, 64))
        >>> settings = EstimatorSettings(classes=2, tap_channels=(4, 4, 4, 4), widths=(4, 4, 4))
        >>> estimator = MaskEstimator(settings).eval()
        >>> explainer = DRERefined.from_estimator(classifier, estimator, steps=2)  # or by DRERefined(...)
        >>> explainer(torch.rand(1, 3, 64, 64), torch.tensor([1])).shape, explainer.cost.backwards
        (torch.Size([1, 1, 64, 64]), 6)
    """

    def __init__(
        self,
        classifier: Classifier,
        checkpoint: str | None = None,
        *,
        steps: int = 10,
        areas: int = 3,
        lr: float = 0.1,
        betas: tuple[float, float] = (0.9, 0.99),
        softness: float = 0.2,
        fills: Sequence[RefinementFill] = REFINEMENT_FILLS,
        jitter: int = 4,
        start: RefinementStart = "dre",
        resolution: int | None = None,
        score: ScoreName = "probability",
        seed: int = 0,
        chunk: int | None = None,
    ) -> None:
        shared = Chunk(chunk)  # checked first, because a checkpoint takes long to load
        settings = RefinementSettings(steps, areas, lr, betas, softness, fills, jitter, start, resolution, seed)
        super().__init__(classifier, checkpoint, score=score)
        self.chunk = shared
        self._refine_by(settings)

    @classmethod
    def from_estimator(
        cls, classifier: Classifier, estimator: MaskEstimator, *, chunk: int | None = None, **options: Any
    ) -> Self:
        """Build the explainer from an estimator in memory; options are those of `RefinementSettings`."""
        self = super().from_estimator(classifier, estimator)
        self.chunk = Chunk(chunk)
        self._refine_by(RefinementSettings(**options))
        return self

    def _refine_by(self, settings: RefinementSettings) -> None:
        if not self.estimator.settings.monotone:
            raise ValueError(
                "the checkpoint was trained with `monotone: false`: its masks do not follow the order of its raw "
                "scores, which the refinement changes; explain it by `dre`"
            )
        self.settings = settings

    def explain(self, images: Tensor, targets: Tensor) -> Tensor:
        """See `Explainer.forward`."""
        images = images.detach()
        (raw,) = self.chunk.map(self._begin, images, targets, backward=False)
        if self.settings.steps:
            generators = self.generators(images, self.settings.seed)
            together = max(1, self.chunk.limit(images.device) // self.settings.areas)
            parts = slices(len(images), together)
            raw = torch.cat([self._refine(images[at], targets[at], raw[at], generators[at]) for at in parts])
        return upsample(self.estimator.to_scores(raw), (images.shape[-2], images.shape[-1]))

    @torch.no_grad()
    def _begin(self, images: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
        """Return the raw scores [N, 1, h, w] of one chunk of images before the first step."""
        features, _ = self.classifier.features(images, self.estimator.taps)
        self.cost.forwards += len(images)
        filtered = self.estimator.filter(features[-1], targets)
        if self.settings.start == "cam":
            return (upsample(filtered.evidence.float(), (features[0].shape[-2], features[0].shape[-1])),)
        raw = self.estimator.raw(features, filtered)
        return (torch.zeros_like(raw) if self.settings.start == "zeros" else raw,)

    def _refine(self, images: Tensor, targets: Tensor, raw: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Return the raw scores [N, 1, h, w] of a few images after the last step."""
        settings, size = self.settings, (images.shape[-2], images.shape[-1])
        grid = (raw.shape[-2], raw.shape[-1])
        masked = MaskedImages(images, settings, self.classifier.mean, generators)
        probe = Probe(self.classifier, targets.repeat(settings.areas), "log_probability", self.cost, self.chunk)
        spread = raw.std(dim=(1, 2, 3), keepdim=True, correction=0)
        spread = spread.where(spread > 0, 1.0)
        change = raw.new_zeros(len(raw), 1, *change_grid(grid, settings.resolution)).requires_grad_()

        def losses(step: int) -> Tensor:
            scores = raw + spread * upsample(change, grid)
            shares = masked.shares[step].to(raw)
            masks = mask_of_area(scores.repeat(len(shares), 1, 1, 1), shares.flatten(), settings.softness)
            seen = masked.show(upsample(masks, size).to(images), step)
            values = OptimisedExplainer.attach(seen, *probe.gradient(seen.detach()))
            return bounded_loss(values).view(len(shares), -1).mean(dim=0)

        adam = torch.optim.Adam([change], lr=settings.lr, betas=settings.betas)
        descend(change, adam, losses, settings.steps, UNBOUNDED)
        return raw + spread * upsample(change.detach(), grid)


def change_grid(grid: tuple[int, int], resolution: int | None) -> tuple[int, int]:
    """Return how many cells, down and across, a change of raw scores on a grid has.

    Raises:
        ValueError: They are more than those of the grid.

    Example:
        >>> change_grid((56, 84), 14), change_grid((56, 84), None)
        ((14, 21), (56, 84))
    """
    if resolution is None:
        return grid
    if resolution > min(grid):
        raise ValueError(
            f"`resolution` must be at most {min(grid)}, the cells along the shorter side of the raw scores of these "
            f"images, got {resolution}; none takes all of them"
        )
    return round(grid[0] * resolution / min(grid)), round(grid[1] * resolution / min(grid))


class MaskedImages:
    """A few images under masks: draws of all steps, from one generator for each image.

    For each image are drawn, in this order: the shares of all steps, the places of the fills, the moves; and while the
    steps are taken, the noise of each mask that shows it. `shares` is [steps, areas, N].

    Args:
        images: [N, C, H, W].
        settings: Of the refinement.
        dataset_mean: Colour [1, C, 1, 1] of the classifier.
        generators: One for each image.
    """

    def __init__(
        self,
        images: Tensor,
        settings: RefinementSettings,
        dataset_mean: Tensor,
        generators: Sequence[torch.Generator],
    ) -> None:
        self.images, self.generators = images, generators
        self.fills, self.areas = tuple(settings.fills), settings.areas
        rounds = (settings.steps, settings.areas)
        self.shares = torch.stack([stratified_shares(*rounds, generator) for generator in generators], dim=-1)
        places = [torch.randint(len(self.fills), rounds, generator=generator) for generator in generators]
        self.places: list[list[list[int]]] = torch.stack(places, dim=-1).tolist()
        self.jitter = Jitter(settings.jitter, settings.steps * settings.areas, generators)
        self.constant = {
            fill: fill_images(images, fill if isinstance(fill, str) else Blur(fill), dataset_mean)
            for fill in self.fills
            if fill != "noise"
        }

    def show(self, masks: Tensor, step: int) -> Tensor:
        """Blend and move the images of a step: [areas * N, C, H, W] for masks [areas * N, 1, H, W]."""
        shown = []
        for area, mask in enumerate(masks.chunk(self.areas)):
            hidden = [self._fill(row, self.fills[place]) for row, place in enumerate(self.places[step][area])]
            picture = blend(self.images, mask, torch.stack(hidden))
            shown.append(self.jitter.move(self.jitter.pad(picture), step * self.areas + area))
        return torch.cat(shown)

    def _fill(self, row: int, fill: RefinementFill) -> Tensor:
        """Return a fill [C, H, W] of one image; noise is drawn anew."""
        if fill != "noise":
            return self.constant[fill][row]
        return fill_images(self.images[row : row + 1], fill, generators=lambda: [self.generators[row]])[0]
