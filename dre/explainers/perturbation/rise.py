"""RISE: the mean of random masks, weighted by the score of the image under each; base class of sampled explainers."""

from collections.abc import Callable
from numbers import Integral
from typing import Literal, get_args

import torch
from torch import Tensor

from dre.checks import check_choice, check_count
from dre.engine.perturbation import SweepEngine
from dre.explainers.base import Explainer
from dre.explainers.perturbation.cell_masks import (
    CellBorder,
    CellMasks,
    covered_masks,
    error_share,
    looks,
    paired_masks,
    weighted_masks,
)
from dre.explainers.perturbation.cell_masks import enlarging as enlarging
from dre.images.fill import blend, fill_images
from dre.models import Classifier
from dre.renamed import accepts_old_options
from dre.types import FillName, ScoreName

Divisor = Literal["expected", "drawn"]
Masks = int | Literal["auto"]


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
        masks: Random masks; the error falls with the square root of their number. `auto` takes as many as each image
            needs, from 256 on.
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
        antithetic: Draw half of the masks, and show with each what it hides, too: the same expectation with less
            variance where the score grows with what is shown. Only for `keep` 0.5 and an even number of masks.
        tolerance: Of `masks: auto`: root mean square of the standard error over the pixels at which an image stops, as
            a share of its map's range, maximum - minimum.
        max_masks: Of `masks: auto`: most masks of an image; a warning and `cost.json` count those that stop there.
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
        masks: Masks = 4000,
        cells: int = 7,
        keep: float = 0.5,
        fill: FillName = "dataset_mean",
        divide_by: Divisor = "expected",
        border: CellBorder = "repeat",
        seed: int = 0,
        antithetic: bool = False,
        tolerance: float = 0.05,
        max_masks: int = 8000,
        chunk: int | None = None,
    ) -> None:
        super().__init__(classifier, score=score, chunk=chunk)
        if masks != "auto" and (isinstance(masks, bool) or not isinstance(masks, Integral)):
            raise TypeError(f"`masks` must be an integer or auto, got {masks!r}")
        count = max_masks if masks == "auto" else masks
        check_count("masks" if masks != "auto" else "max_masks", count, least=2)  # one mask has no standard error
        check_count("cells", cells)
        if not 0 < tolerance < 1:
            raise ValueError(f"`tolerance` is a share of the map's range, in (0, 1), got {tolerance}")
        if antithetic and (keep != 0.5 or count % 2):
            raise ValueError(
                f"antithetic masks are pairs at `keep` 0.5, got {count} masks at {keep}; give an even number at 0.5"
            )
        if not 0 < keep <= 1:
            raise ValueError(f"`keep` must be a probability above 0, got {keep}")
        check_choice("fill", fill, get_args(FillName))
        check_choice("divide_by", divide_by, get_args(Divisor))
        check_choice("border", border, get_args(CellBorder))
        self.masks: Masks = masks
        self.most, self.cells, self.keep, self.seed = count, cells, keep, seed
        self.antithetic, self.tolerance, self.max_masks = antithetic, tolerance, max_masks
        self.fill: FillName = fill
        self.divide_by: Divisor = divide_by
        self.border: CellBorder = border

    def explain(self, images: Tensor, targets: Tensor) -> Tensor:
        """See `Explainer.forward`."""
        size = (images.shape[-2], images.shape[-1])
        drawn = self.most, self.cells, self.keep, size, self.seed
        masks = CellMasks.draw(*drawn, like=images, border=self.border, antithetic=self.antithetic)
        fill = self.filled(images, self.fill, self.seed)
        if self.masks == "auto":
            return self._explain_to_tolerance(images, targets, fill, masks)
        scores = self._scores(images, targets, fill, masks, slice(0, self.most))
        saliency, self.standard_error = self._average(masks, scores)
        return saliency

    def _explain_to_tolerance(self, images: Tensor, targets: Tensor, fill: Tensor, masks: CellMasks) -> Tensor:
        """Take masks until the standard error of each image is small; the first ones are the same for all images."""
        saliency = torch.zeros_like(images[:, :1], dtype=torch.float64)
        errors, shares = torch.zeros_like(saliency), saliency.new_zeros(len(images))
        scores, going, done = images.new_zeros(len(images), self.most), torch.arange(len(images)), 0
        for count in looks(self.most):
            part, hidden = slice(done, count), fill[going] if len(fill) == len(images) else fill
            scores[going, part] = self._scores(images[going], targets[going], hidden, masks, part)
            found, error = self._average(masks.part(slice(0, count)), scores[going, :count])
            saliency[going], errors[going] = found, error
            shares[going] = error_share(found, error)
            going, done = going[(shares[going] > self.tolerance).cpu()], count
            if not len(going):
                break
        self.standard_error = errors
        bound = f"max_masks={self.most}", "the map's range"
        self.probe(targets).settle(shares.tolist(), self.tolerance, *bound)
        return saliency

    def _scores(self, images: Tensor, targets: Tensor, fill: Tensor, masks: CellMasks, part: slice) -> Tensor:
        """Score images under some of the masks, [B, n]."""
        some = masks.part(part)
        count = part.stop - part.start
        return self.score_masked(images, targets, fill, lambda _, columns: some.build(columns)[None], count).to(images)

    def _average(self, masks: CellMasks, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Return the maps and their standard errors, [B, 1, H, W] both."""
        if self.antithetic:
            return paired_masks(masks, scores)
        drawn = self.divide_by == "drawn"
        return covered_masks(masks, scores) if drawn else weighted_masks(masks, scores, self.keep)
