"""LIME: the coefficients of a linear model of the score in which superpixels are shown."""

from typing import Literal, get_args

import torch
from torch import Tensor

from dre.checks import check_choice, check_count
from dre.engine.chunks import slices
from dre.explainers.perturbation.rise import SampledExplainer
from dre.images.segments import Cutter, Labels, Quickshift, Slic, cut
from dre.models import Classifier
from dre.renamed import accepts_old_options
from dre.types import FillName, ScoreName

Segmentation = Literal["quickshift", "slic"]

ROWS_AT_ONCE = 256
"""Samples whose rows of the regression are held in float64 at once."""


def proximity(shown: Tensor, segments: Tensor, width: float) -> Tensor:
    """Return the weight of each sample by its cosine distance from the whole image, float64 [B, N].

    The cosine between a pattern of zeros and ones and the pattern of ones is the root of the share of ones; with
    nothing shown, the distance is 1.

    Args:
        shown: bool [B, N, S].
        segments: How many of the S belong to each image, [B].
        width: Of the Gaussian kernel.

    Source: Ribeiro et al. 2016; the kernel of its published code, exp(-distance^2 / (2 width^2)).
    """
    distance = 1 - (shown.sum(2).double() / segments[:, None]).sqrt()
    return torch.exp(-0.5 * (distance / width).square())


def weighted_ridge(shown: Tensor, scores: Tensor, weights: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Return the ridge coefficients of the scores on what is shown and their standard errors, float64 [B, S] each.

    The normal equations of all images are solved together in float64; the intercept is not shrunk. The standard errors
    are heteroscedasticity-consistent ("sandwich" estimates): they need no model of the residuals, and fall to zero
    where the score is linear. A segment that is never shown gets 0.

    Args:
        shown: bool [B, N, S].
        scores: [B, N].
        weights: [B, N].
        alpha: Weight of the squared coefficients, above 0.

    Source: Hoerl and Kennard 1970; the errors: White 1980.
    """
    batch, count, segments = shown.shape
    penalty = shown.new_full((segments + 1,), alpha, dtype=torch.float64)
    penalty[0] = 0.0
    matrix = torch.diag(penalty).expand(batch, -1, -1).clone()
    moment = torch.zeros_like(matrix[..., :1])
    scores, weights = scores.double()[..., None], weights.double()[..., None]
    for part in slices(count, ROWS_AT_ONCE):
        rows = _with_intercept(shown[:, part])
        weighted = weights[:, part] * rows
        matrix += weighted.mT @ rows
        moment += weighted.mT @ scores[:, part]
    factor = torch.linalg.cholesky(matrix)
    solution = torch.cholesky_solve(moment, factor)
    spread = torch.zeros_like(matrix)
    for part in slices(count, ROWS_AT_ONCE):
        rows = _with_intercept(shown[:, part])
        pulls = weights[:, part] * (scores[:, part] - rows @ solution) * rows
        spread += pulls.mT @ pulls
    spread = torch.cholesky_solve(torch.cholesky_solve(spread, factor).mT, factor)
    variance = spread.diagonal(dim1=1, dim2=2).clamp_min(0) * count / max(1, count - segments - 1)
    return solution[:, 1:, 0], variance[:, 1:].sqrt()


def _with_intercept(shown: Tensor) -> Tensor:
    rows = shown.double()
    return torch.cat([torch.ones_like(rows[..., :1]), rows], dim=2)


def segment_means(images: Tensor, labels: Tensor, segments: int) -> Tensor:
    """Fill each segment with its mean colour, [B, C, H, W].

    Args:
        images: [B, C, H, W].
        labels: int64 [B, H, W], from 0.
        segments: Above all labels.
    """
    flat = labels.flatten(1)
    areas = torch.zeros(len(images), segments, dtype=torch.float64, device=images.device)
    areas.scatter_add_(1, flat, torch.ones_like(flat, dtype=torch.float64))
    places = flat[:, None].expand(-1, images.shape[1], -1)
    totals = areas.new_zeros(*images.shape[:2], segments).scatter_add_(2, places, images.flatten(2).double())
    return (totals / areas.clamp_min(1)[:, None]).gather(2, places).view_as(images).to(images)


@accepts_old_options
class LIME(SampledExplainer):
    """Fit a linear model of the score near the image, one coefficient per superpixel; `samples` forward passes.

    Each sample shows a random half of the superpixels; the first shows the image. Samples that show more weigh more.
    Pixels of a superpixel share its coefficient, positive where showing it raises the score. The ridge shrinks small
    differences: with few samples, or one superpixel, coefficients are too small. `standard_error` holds the standard
    error of each value, [B, 1, H, W].

    Args:
        classifier: What is explained.
        score: Which output is modelled.
        samples: Masked images; the error falls with the square root of their number.
        segmentation: What cuts the image, `quickshift` as published, or `slic`, whose superpixels are of like size.
        fill: What a hidden superpixel shows: its mean colour (`segment`), a fill of `dre.types.FillName`, or a grey
            level in [0, 1].
        kernel_width: Of the kernel that weighs samples by their cosine distance from the image.
        alpha: Of the ridge.
        kernel_size: Of quickshift, in pixels.
        max_distance: Of quickshift.
        ratio: Of quickshift, the weight of colour against place.
        segments: Of slic, about how many.
        compactness: Of slic, the weight of place against colour.
        seed: Of the samples, which depend on it, on the key of the image and on its number of superpixels alone.
        chunk: Most masked images in one pass; chosen by device when not given.

    Raises:
        ValueError: `samples` is below 2, `kernel_width`, `alpha` or a number of the segmentation is not positive,
            `ratio` is outside [0, 1], or `fill` or `segmentation` is unknown.

    Source: Ribeiro et al. 2016, with the values of its published code.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from dre.models import Classifier
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
        >>> classifier = Classifier.wrap(network, size=(8, 8))
        >>> images, targets = torch.rand(1, 3, 8, 8), torch.tensor([1])
        >>> LIME(classifier, samples=20, segmentation="slic", segments=4)(images, targets).shape
        torch.Size([1, 1, 8, 8])
    """

    def __init__(
        self,
        classifier: Classifier,
        *,
        score: ScoreName = "probability",
        samples: int = 1000,
        segmentation: Segmentation = "quickshift",
        fill: Literal["segment"] | FillName | float = "segment",
        kernel_width: float = 0.25,
        alpha: float = 1.0,
        kernel_size: float = 4.0,
        max_distance: float = 200.0,
        ratio: float = 0.2,
        segments: int = 50,
        compactness: float = 10.0,
        seed: int = 0,
        chunk: int | None = None,
    ) -> None:
        super().__init__(classifier, score=score, chunk=chunk)
        check_count("samples", samples, least=2)  # one sample is the image itself
        check_choice("segmentation", segmentation, get_args(Segmentation))
        is_level = isinstance(fill, int | float) and 0 <= fill <= 1
        if fill not in ("segment", *get_args(FillName)) and not is_level:
            raise ValueError(
                f"`fill` must be segment, {', '.join(get_args(FillName))} or a grey level in [0, 1], got {fill!r}"
            )
        if kernel_width <= 0:
            raise ValueError(f"`kernel_width` must be positive, got {kernel_width}")
        if alpha <= 0:
            raise ValueError(f"`alpha` must be positive, got {alpha}: without it superpixels need not be told apart")
        self.samples, self.seed = samples, seed
        self.fill: Literal["segment"] | FillName | float = fill
        self.kernel_width, self.alpha = kernel_width, alpha
        quickshift = Quickshift(kernel_size, max_distance, ratio)
        self.cutter: Cutter[Labels] = quickshift if segmentation == "quickshift" else Slic(segments, compactness)

    def explain(self, images: Tensor, targets: Tensor) -> Tensor:
        """See `Explainer.forward`."""
        labels = torch.stack([torch.from_numpy(cut(image, self.cutter)) for image in images]).to(images.device)
        counts = labels.amax(dim=(1, 2)) + 1
        shown = self._draw(images, counts)
        places = labels.flatten(1)[:, None]

        def masks(rows: slice, columns: slice) -> Tensor:
            patterns = shown[rows, columns]
            mask = patterns.gather(2, places[rows].expand(-1, patterns.shape[1], -1))
            return mask.view(*patterns.shape[:2], 1, *images.shape[-2:]).to(images)

        hidden = self._hidden(images, labels, shown.shape[2])
        scores = self.score_masked(images, targets, hidden, masks, self.samples)
        weights = proximity(shown, counts, self.kernel_width)
        maps = [
            values.gather(1, places[:, 0]).view(len(images), 1, *images.shape[-2:])
            for values in weighted_ridge(shown, scores, weights, self.alpha)
        ]
        self.standard_error = maps[1]
        return maps[0]

    def _draw(self, images: Tensor, counts: Tensor) -> Tensor:
        """Draw which superpixels each sample shows, bool [B, N, S]; beyond the count of an image, none."""
        shown = torch.zeros(len(images), self.samples, int(counts.max()), dtype=torch.bool)
        for pattern, generator, count in zip(shown, self.generators(images, self.seed), counts.tolist(), strict=True):
            pattern[:, :count] = torch.rand(self.samples, count, generator=generator) < 0.5
            pattern[0, :count] = True
        return shown.to(images.device)

    def _hidden(self, images: Tensor, labels: Tensor, segments: int) -> Tensor:
        if self.fill == "segment":
            return segment_means(images, labels, segments)
        if isinstance(self.fill, str):
            return self.filled(images, self.fill, self.seed)
        return torch.full_like(self.classifier.mean, self.fill).to(images)
