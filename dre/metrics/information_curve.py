"""Performance information curves: the score, or the accuracy, against how much of the image is there to see."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from dre.metrics.base import ImageMean
from dre.metrics.curve_reading import area_under_curves, in_order, mean_band, median_band
from dre.metrics.curve_reading import information_curve as information_curve
from dre.metrics.faithfulness import SMOOTHING, STEPS
from dre.renamed import accepts_old_options
from dre.statistics.curves import Curve
from dre.types import Blur, Fill, InformationName, Interpolation, Readout, Sweep

PresetName = Literal["shared", "shared_grey_entropy", "pair", "idgi", "idgi_ms_ssim", "ggig"]

PUBLISHED_RATIOS = (0.0, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.07, 0.10, 0.13, 0.21, 0.34, 0.5, 0.75, 1.0)
"""Thresholds of the `saliency` package, with nothing and everything added."""


@accepts_old_options
@dataclass(frozen=True, slots=True)
class InformationSettings:
    """How scores are set against information.

    Args:
        ratios: Shares of the pixels that are shown, from 0 to 1.
        fill: What the image starts from.
        information: How much there is to see: see `dre.images.information`.
        kept: `top` shows the nearest number of pixels, `level` all that reach the quantile of the map, ties included.
        smoothing: Weight of the smoothed map in the ranking; 0 ranks the map itself.
        relative: Scale information to 0 where the curve starts and to 1 for the whole image; images in which it does
            not grow are left out.
        least: Images whose own score is below are left out.
        both: Leave an image out of both curves where the accuracy or the score excludes it.
        points: Of the grid from 0 to 1, its end apart, at which curves are kept and aggregated.
        aggregate: Curve of all images: the `median` or the `mean` at each point.
    """

    ratios: tuple[float, ...] = tuple(step / STEPS for step in range(STEPS + 1))
    fill: Fill = "blur"
    information: InformationName = "ms_ssim"
    kept: Literal["top", "level"] = "top"
    smoothing: float = SMOOTHING
    relative: bool = True
    least: float = 0.8
    both: bool = False
    points: int = 100
    aggregate: Literal["median", "mean"] = "median"

    def __post_init__(self) -> None:
        """Refuse curves that do not go from nothing to everything."""
        if len(self.ratios) < 2 or (self.ratios[0], self.ratios[-1]) != (0, 1):
            raise ValueError(f"`ratios` must go from 0 to 1, got {self.ratios}")
        if self.points < 1:
            raise ValueError(f"`points` must be at least 1, got {self.points}")

    def sweep(self, read: Readout) -> Sweep:
        """Name the masked versions and what is read of them."""
        return Sweep(self.ratios, self.fill, self.kept, self.smoothing, read)

    def ends(self, read: Readout) -> Sweep:
        """Name the first and the last version, and what is read of them."""
        return replace(self.sweep(read), ratios=(0.0, 1.0))


SHARED = InformationSettings()
PAIR = InformationSettings(PUBLISHED_RATIOS, Interpolation(0.01), "webp", "level", smoothing=0, points=1000)
IDGI = InformationSettings(
    tuple(step / 24 for step in range(25)), Blur(14.0), "png", smoothing=0, both=True, points=100
)
"""Blurred by 20 pixels of a photograph whose shorter side has 375 and becomes 256."""

IDGI_MS_SSIM = replace(IDGI, information="ms_ssim", relative=False)
GGIG = InformationSettings(PUBLISHED_RATIOS, "blur", "grey_entropy", smoothing=0, least=0.0, points=1000)


class InformationCurve(ImageMean):
    """Area under the curve that aggregates the curves of all images; one value for each image beside it.

    A median is no sum, so the state keeps every curve, float32: 4 (points + 1) bytes an image, 404 by default and 4,004
    for `pair`; 50,000 images are 20 and 200 megabytes for each explainer. Merging only puts curves together.

    Left out, and counted in `dropped`: images whose own score is below `least`, or not above the score of the
    fill, or that do not show more than the fill.

    Args:
        settings: Your own, or the name of a preset.
    """

    higher_is_better = True

    y_label: ClassVar[str]
    presets: ClassVar[dict[str, InformationSettings]]
    read: ClassVar[Readout]
    other: ClassVar[Readout]

    curves: list[Tensor]

    def __init__(self, settings: InformationSettings | PresetName = "shared") -> None:
        super().__init__()
        if isinstance(settings, str):
            if settings not in self.presets:
                raise ValueError(f"no preset {settings!r} of information curves; choose {', '.join(self.presets)}")
            settings = self.presets[settings]
        self.settings = settings
        self.sweeps = {
            "scores": settings.sweep(self.read),
            "amounts": settings.sweep(settings.information),
            "other_scores": settings.ends(self.other),
        }
        self.add_state("curves", [], dist_reduce_fx="cat")

    def update(self, scores: Tensor, amounts: Tensor, other_scores: Tensor) -> None:
        """Add a batch: scores and information [B, R] of all versions, and the other score [B, 2] of both ends."""
        settings = self.settings
        for name, values, columns in (
            ("scores", scores, len(settings.ratios)),
            ("amounts", amounts, len(settings.ratios)),
            ("other_scores", other_scores, 2),
        ):
            if values.shape != (len(scores), columns):
                raise ValueError(f"`{name}` must be [{len(scores)}, {columns}], got {list(values.shape)}")
        keep = _is_explained(scores, settings.least)
        if settings.both:
            keep &= _is_explained(other_scores, settings.least)
        if settings.relative:
            keep &= amounts[:, -1] > amounts[:, 0]
        curves = information_curve(scores, amounts, settings.points, settings.relative)
        broken = ~(scores.isfinite().all(dim=1) & amounts.isfinite().all(dim=1) & other_scores.isfinite().all(dim=1))
        areas = area_under_curves(curves)
        self.accumulate(areas.masked_fill(broken, torch.nan), keep | broken)
        self.curves.append(curves[keep].float())

    def compute(self) -> Tensor:
        """Give the area under the aggregated curve as a float64 scalar; NaN without images."""
        if self.count == 0:
            return super().compute()
        return area_under_curves(self._aggregate())

    def curve(self) -> Curve:
        """Information, and the score of all images there.

        The band of a median is the usual one of order statistics, that of a mean has 1.96 standard errors to each side.
        """
        points, curves = self.settings.points, self._stacked()
        if len(curves) == 0:
            return Curve((), (), (), (), images=0)
        band = median_band(curves) if self.settings.aggregate == "median" else mean_band(curves)
        curve = Curve.through((place / points for place in range(points + 1)), self._aggregate(), band, len(curves))
        return replace(curve, aggregate=self.settings.aggregate, x_label="information", y_label=self.y_label)

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Merge ranks; one without images takes part with an empty table of the right shape."""
        if isinstance(self.curves, list) and not self.curves:
            self.curves.append(torch.empty(0, self.settings.points + 1, device=self.device))
        super().sync(*args, **kwargs)

    def _aggregate(self) -> Tensor:
        """Give the median, or the mean, of the curves of all images, float64 [points + 1]; at least one image."""
        curves = self._stacked()
        if self.settings.aggregate == "mean":
            return curves.mean(dim=0, dtype=torch.float64)
        return in_order(curves, [(len(curves) - 1) // 2, len(curves) // 2]).mean(dim=0)

    def _stacked(self) -> Tensor:
        """Give the curves of all images, float32 [N, points + 1]."""
        empty = torch.empty(0, self.settings.points + 1, device=self.device)
        return self.curves if isinstance(self.curves, Tensor) else torch.cat(self.curves or [empty])


def _is_explained(scores: Tensor, least: float) -> Tensor:
    """Whether the whole image has a score, and a higher one than the fill: bool [B]."""
    return (scores[:, -1] >= least) & (scores[:, -1] > scores[:, 0])


class SoftmaxInformationCurve(InformationCurve):
    """SIC: area under the probability of the target, relative to the image's, against information: in [0, 1].

    Presets: `shared` (M_F's 33 versions, MS-SSIM, median: no pass beside M_F), `shared_grey_entropy` (the same by
    entropy of grey levels, for images below 161 pixels too), `pair` (the `saliency` package: linear interpolation,
    WebP), `idgi` (paper 002: blur, PNG, median), `idgi_ms_ssim` (the same, raw MS-SSIM), `ggig` (paper 004: blur, grey
    entropy).

    Args:
        settings: Your own, or the name of a preset.

    Example:
        >>> import torch
        >>> metric = SoftmaxInformationCurve(InformationSettings((0.0, 0.5, 1.0), information="png"))
        >>> scores, amounts = torch.tensor([[0.0, 0.9, 0.9]]), torch.tensor([[10.0, 15.0, 20.0]])
        >>> metric.update(scores, amounts, torch.tensor([[0.0, 1.0]]))
        >>> metric.compute()
        tensor(0.7500, dtype=torch.float64)
    """

    higher_is_better = True
    y_label = "relative probability"
    read = "probability"
    other = "correct"
    presets: ClassVar[dict[str, InformationSettings]] = {
        "shared": SHARED,
        "shared_grey_entropy": replace(SHARED, information="grey_entropy"),
        "pair": PAIR,
        "idgi": IDGI,
        "idgi_ms_ssim": IDGI_MS_SSIM,
        "ggig": GGIG,
    }


class AccuracyInformationCurve(InformationCurve):
    """AIC: area under the share of images that are seen as the target, against information: in [0, 1].

    Presets as for `SoftmaxInformationCurve`, but `idgi`, `idgi_ms_ssim` and `ggig` take the mean, as published. Images
    that the classifier gets right before any pixel is shown are left out and counted in `dropped`.

    Args:
        settings: Your own, or the name of a preset.

    Example:
        >>> import torch
        >>> metric = AccuracyInformationCurve(InformationSettings((0.0, 0.5, 1.0), information="png"))
        >>> scores, amounts = torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[10.0, 15.0, 20.0]])
        >>> metric.update(scores, amounts, torch.tensor([[0.1, 0.9]]))
        >>> metric.compute()
        tensor(0.2500, dtype=torch.float64)
    """

    higher_is_better = True
    y_label = "accuracy"
    read = "correct"
    other = "probability"
    presets: ClassVar[dict[str, InformationSettings]] = {
        "shared": SHARED,
        "shared_grey_entropy": replace(SHARED, information="grey_entropy"),
        "pair": PAIR,
        "idgi": replace(IDGI, aggregate="mean"),
        "idgi_ms_ssim": replace(IDGI_MS_SSIM, aggregate="mean"),
        "ggig": replace(GGIG, aggregate="mean"),
    }
