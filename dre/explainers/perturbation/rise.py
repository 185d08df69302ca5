"""RISE: the mean of random masks, weighted by the score of the image under each; base class of sampled explainers."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Self, get_args

import torch
from torch import Tensor

from dre.checks import check_choice, check_count
from dre.engine.chunks import slices
from dre.engine.perturbation import SweepEngine
from dre.explainers.base import Explainer
from dre.images.fill import blend, fill_images
from dre.models import Classifier
from dre.renamed import accepts_old_options
from dre.types import FillName, ScoreName

Divisor = Literal["expected", "drawn"]
CellBorder = Literal["repeat", "reflect"]
"""What lies beyond the centres of the outermost cells: their own value, or the cells mirrored at these centres."""

MASKS_AT_ONCE = 64
"""Masks that are held while scores are added up."""


@dataclass(frozen=True, slots=True)
class CellMasks:
    """Build smooth random masks a few at a time: coarse cells, enlarged bilinearly and shifted.

    Args:
        cells: [N, s, s], 1 where a cell is kept.
        shifts: [N, 2], rows and columns by which the enlarged cells are shifted.
        enlarge: [H', s] and [W', s], how each row and column of the enlarged cells mixes the cells.
        size: (height, width) of the masks.

    Source: Petsiuk et al. 2018: s x s cells are enlarged to (s + 1) times the size of a cell, and a window of the
    size of the image is cut out at random.
    """

    cells: Tensor
    shifts: Tensor
    enlarge: tuple[Tensor, Tensor]
    size: tuple[int, int]

    @classmethod
    def draw(
        cls,
        masks: int,
        cells: int,
        keep: float,
        size: tuple[int, int],
        seed: int,
        like: Tensor,
        border: CellBorder = "repeat",
    ) -> Self:
        """Draw masks for images of `size`; the draws depend on the seed and on these numbers alone."""
        generator = torch.Generator().manual_seed(seed)
        kept = torch.rand(masks, cells, cells, generator=generator) < keep
        sides = [math.ceil(side / cells) for side in size]
        shifts = torch.stack([torch.randint(side, (masks,), generator=generator) for side in sides], dim=1)
        rows, columns = (enlarging(cells, (cells + 1) * side, border).to(like) for side in sides)
        return cls(kept.to(like), shifts.to(like.device), (rows, columns), size)

    def build(self, part: slice) -> Tensor:
        """Build the masks [n, 1, H, W] in [0, 1] of a slice of all; the same in any slicing."""
        rows, columns = (
            matrix[self.shifts[part, axis, None] + torch.arange(side, device=matrix.device)]
            for axis, (matrix, side) in enumerate(zip(self.enlarge, self.size, strict=True))
        )
        with torch.autocast(self.cells.device.type, enabled=False):
            return (rows @ self.cells[part] @ columns.mT)[:, None]


def enlarging(cells: int, length: int, border: CellBorder = "repeat") -> Tensor:
    """Return how each of `length` places mixes the cells linearly, float64 [length, cells]; the rows sum to one.

    Example:
        >>> enlarging(2, 4)[0], enlarging(2, 4, "reflect")[0]
        (tensor([1., 0.], dtype=torch.float64), tensor([0.7500, 0.2500], dtype=torch.float64))
    """
    places = (torch.arange(length, dtype=torch.float64) + 0.5) * cells / length - 0.5
    places = places.abs() if border == "reflect" else places.clamp_min(0)
    beyond = places - (cells - 1)
    places = torch.where(beyond > 0, cells - 1 - (beyond if border == "reflect" else 0.0), places).clamp_min(0)
    return (1 - (places[:, None] - torch.arange(cells)).abs()).clamp_min(0)


def weighted_masks(masks: CellMasks, scores: Tensor, keep: float) -> tuple[Tensor, Tensor]:
    """Return the mean over the masks of score x mask / keep, and its standard error: [B, 1, H, W] each.

    Args:
        masks: N of them.
        scores: [B, N].
        keep: Mean value of each mask.
    """
    count = scores.shape[1]
    first, _, second = _moments(masks, scores)
    mean = first / (count * keep)
    variance = (second / (count * keep**2) - mean.square()).clamp_min(0)
    return _maps(mean, masks), _maps((variance / (count - 1)).sqrt(), masks)


def covered_masks(masks: CellMasks, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sum of score x mask over the sum of the masks, and its standard error: [B, 1, H, W] each.

    A score that is always the same gives a flat map. A pixel that no mask shows gets 0.

    Args:
        masks: N of them.
        scores: [B, N].
    """
    count, level = scores.shape[1], scores.mean(dim=1, keepdim=True)
    rows = torch.cat([scores - level, torch.ones_like(level[:1].expand(1, count))])  # the last sums the masks up
    first, mixed, second = _moments(masks, rows)
    cover = first[-1:]
    whole = cover.where(cover > 0, 1.0)
    mean = first[:-1] / whole
    residues = (second[:-1] - 2 * mean * mixed[:-1] + mean.square() * second[-1:]).clamp_min(0)
    error = (residues * count / (count - 1)).sqrt() / whole  # of a ratio of two sums, to first order
    return _maps((mean + level).where(cover > 0, 0.0), masks), _maps(error, masks)


def _moments(masks: CellMasks, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the sums over the masks of score x mask, score x mask^2 and score^2 x mask^2, float64 [B, H*W] each."""
    shape = len(scores), masks.size[0] * masks.size[1]
    first, mixed, second = (torch.zeros(shape, dtype=torch.float64, device=scores.device) for _ in range(3))
    with torch.autocast(scores.device.type, enabled=False):
        for part in slices(scores.shape[1], MASKS_AT_ONCE):
            block = masks.build(part).flatten(1)
            squares = block.square()
            first += scores[:, part] @ block
            mixed += scores[:, part] @ squares
            second += scores[:, part].square() @ squares
    return first, mixed, second


def _maps(values: Tensor, masks: CellMasks) -> Tensor:
    return values.view(len(values), 1, *masks.size)


class SampledExplainer(Explainer):
    """Explain from the scores of an image under random masks; the base class of these explainers.

    After a call, `standard_error` [B, 1, H, W] holds the Monte-Carlo standard error of each value of the maps.

    Args:
        classifier: What is explained.
        score: Which output is read.
        chunk: Most masked images in one pass; chosen by device when not given.
    """

    asks_outputs_alone = True

    def __init__(self, classifier: Classifier, *, score: ScoreName = "probability", chunk: int | None = None) -> None:
        super().__init__(classifier, score=score, chunk=chunk)
        self.engine = SweepEngine(classifier, score=score, chunk=self.chunk)
        self.standard_error: Tensor | None = None

    def score_masked(
        self, images: Tensor, targets: Tensor, fill: Tensor, build: Callable[[slice, slice], Tensor], masks: int
    ) -> Tensor:
        """Score each image under `masks` masks, [B, masks], holding no more than a chunk of them at a time.

        Args:
            images: [B, C, H, W].
            targets: int64 [B].
            fill: What is shown where a mask is 0; [B, C, H, W] or [1, C, 1, 1].
            build: Gives the masks [b or 1, n, 1, H, W] for a slice of the batch and a slice of the masks.
            masks: How many there are for each image.
        """

        def show(rows: slice, columns: slice) -> Tensor:
            mask = build(rows, columns)
            shown = images[rows].detach()[:, None].expand(-1, mask.shape[1], -1, -1, -1)
            hidden = fill[rows] if len(fill) == len(images) else fill
            return blend(shown, mask, hidden[:, None]).flatten(0, 1)

        before = self.engine.forwards
        scores = self.engine.score_copies(show, targets, masks)
        self.cost.forwards += self.engine.forwards - before
        return scores

    def filled(self, images: Tensor, fill: FillName, seed: int) -> Tensor:
        """Return what a fill shows for each image, [B, C, H, W]."""
        return fill_images(images, fill, self.classifier.mean, lambda: self.generators(images, seed))


@accepts_old_options
class RISE(SampledExplainer):
    """Average random masks, each weighted by the score of the image under it; `masks` forward passes.

    All images see the same masks, which depend on the seed and the image's size alone. A map estimates, for each
    pixel, the expected score given that the pixel is shown; `standard_error` says how well.

    Args:
        classifier: What is explained.
        score: Which output is averaged.
        masks: Random masks; the error falls with the square root of their number.
        cells: Cells of a mask along each side before it is enlarged.
        keep: Probability that a cell is kept.
        fill: What is shown where a mask is 0, see `dre.types.FillName`; the default is that of the published code,
            which masks normalised images.
        divide_by: How often a pixel is shown: as `expected`, which is published, or as counted in the masks that were
            `drawn`. Where the score is high under most masks, the first map mainly shows how often each pixel was
            drawn, the same for all images, until there are very many masks; the second leaves that out.
        border: What lies beyond the centres of the outermost cells: they `repeat`; the published code, which resizes by
            scikit-image, has them mirrored there (`reflect`).
        seed: Of the masks.
        chunk: Most masked images in one pass; chosen by device when not given.

    Raises:
        ValueError: `masks` is below 2, `cells` below 1, `keep` outside (0, 1], or `fill`, `divide_by` or `border` is
            unknown.

    Source: Petsiuk et al. 2018, Eq. 6.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from dre.models import Classifier
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
        >>> classifier = Classifier.wrap(network, size=(8, 8))
        >>> images, targets = torch.rand(1, 3, 8, 8), torch.tensor([1])
        >>> RISE(classifier, masks=20, cells=4)(images, targets).shape
        torch.Size([1, 1, 8, 8])
    """

    def __init__(
        self,
        classifier: Classifier,
        *,
        score: ScoreName = "probability",
        masks: int = 4000,
        cells: int = 7,
        keep: float = 0.5,
        fill: FillName = "dataset_mean",
        divide_by: Divisor = "expected",
        border: CellBorder = "repeat",
        seed: int = 0,
        chunk: int | None = None,
    ) -> None:
        super().__init__(classifier, score=score, chunk=chunk)
        check_count("masks", masks, least=2)  # one mask has no standard error
        check_count("cells", cells)
        if not 0 < keep <= 1:
            raise ValueError(f"`keep` must be a probability above 0, got {keep}")
        check_choice("fill", fill, get_args(FillName))
        check_choice("divide_by", divide_by, get_args(Divisor))
        check_choice("border", border, get_args(CellBorder))
        self.masks, self.cells, self.keep, self.seed = masks, cells, keep, seed
        self.fill: FillName = fill
        self.divide_by: Divisor = divide_by
        self.border: CellBorder = border

    def explain(self, images: Tensor, targets: Tensor) -> Tensor:
        """See `Explainer.forward`."""
        size = (images.shape[-2], images.shape[-1])
        masks = CellMasks.draw(self.masks, self.cells, self.keep, size, self.seed, images, self.border)
        fill = self.filled(images, self.fill, self.seed)
        scores = self.score_masked(images, targets, fill, lambda _, part: masks.build(part)[None], self.masks)
        scores = scores.to(images)
        drawn = self.divide_by == "drawn"
        saliency, self.standard_error = (
            covered_masks(masks, scores) if drawn else weighted_masks(masks, scores, self.keep)
        )
        return saliency
