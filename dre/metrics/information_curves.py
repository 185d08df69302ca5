"""SIC and AIC, performance information curves: area under the median score, or mean accuracy, against information."""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from dre.metrics.base import ImageMean
from dre.metrics.curve_reading import area_under_curves, in_order, mean_band, median_band
from dre.metrics.curve_reading import information_curve as information_curve
from dre.metrics.list_states import ListStates
from dre.metrics.m_f import SMOOTHING, STEPS
from dre.renamed import accepts_old_options
from dre.statistics.curves import Curve
from dre.types import Blur, Fill, InformationName, Interpolation, Readout, Sweep

PresetName = Literal["shared", "shared_grey_entropy", "pair", "idgi", "idgi_ms_ssim", "ggig"]

PUBLISHED_RATIOS = (0.0, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.07, 0.10, 0.13, 0.21, 0.34, 0.5, 0.75, 1.0)
"""Thresholds of the `saliency` package, with nothing and everything added."""


@accepts_old_options
@dataclass(frozen=True, slots=True)
class InformationSettings:
    """Set how scores are plotted against information.

    Args:
        ratios: Shares of the pixels that are shown, from 0 to 1.
        fill: What the image starts from.
        information: How much there is to see: see `dre.images.information`.
        kept: `top` shows the nearest number of pixels, `level` all that reach the quantile of the map, ties included.
        smoothing: Weight of the smoothed map in the ranking; 0 ranks the map itself.
        relative: Scale information to 0 where the curve starts and to 1 for the whole image; images in which it does
            not grow are left out.
        least: Images whose own score is below are left out.
        both: Leave an image out of both curves, SIC and AIC, where either excludes it.
        points: Of the grid from 0 to 1, its end apart, at which curves are kept and aggregated.
        aggregate: Curve of all images: the `median` or the `mean` at each point.

    Raises:
        ValueError: The ratios do not go from 0 to 1, or there is no point.

    Source: Kapishnikov et al. 2019.

    Example:
        >>> InformationSettings((0.0, 0.5, 1.0), information="png").sweep("probability").columns
        3
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
        """Check that curves go from nothing to everything."""
        if len(self.ratios) < 2 or (self.ratios[0], self.ratios[-1]) != (0, 1):
            raise ValueError(f"`ratios` must go from 0 to 1, got {self.ratios}")
        if self.points < 1:
            raise ValueError(f"`points` must be at least 1, got {self.points}")

    def sweep(self, read: Readout) -> Sweep:
        """Return the perturbation sweep that reads this of each masked version."""
        return Sweep(self.ratios, self.fill, self.kept, self.smoothing, read)

    def ends(self, read: Readout) -> Sweep:
        """Return the sweep of the first and the last version alone."""
        return replace(self.sweep(read), ratios=(0.0, 1.0))


SHARED = InformationSettings()
PAIR = InformationSettings(PUBLISHED_RATIOS, Interpolation(0.01), "webp", "level", smoothing=0, points=1000)
IDGI = InformationSettings(
    tuple(step / 24 for step in range(25)), Blur(14.0), "png", smoothing=0, both=True, points=100
)
"""Blurred by 20 pixels of a photograph whose shorter side has 375 and becomes 256."""

IDGI_MS_SSIM = replace(IDGI, information="ms_ssim", relative=False)
GGIG = InformationSettings(PUBLISHED_RATIOS, "blur", "grey_entropy", smoothing=0, least=0.0, points=1000)


class InformationCurve(ListStates, ImageMean):
    """Compute the area under the aggregated curve of all images; `latest` has the area of each image's own curve.

    A median is no sum, so the state keeps every curve, float32: 4 (points + 1) bytes an image, 404 by default and 4,004
    for `pair`; 50,000 images are 20 and 200 megabytes for each explainer. Merging only puts curves together.

    Left out, and counted in `dropped`: images whose own score is below `least`, or not above the score of the
    fill, or that do not show more than the fill.

    Args:
        settings: Your own, or the name of a preset.

    Raises:
        ValueError: There is no such preset.
        TypeError: `settings` is neither settings nor a name.
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
        if not isinstance(settings, InformationSettings):
            raise TypeError(
                f"`settings` must be InformationSettings or one of {', '.join(self.presets)}, got {settings!r}"
            )
        self.settings = settings
        self.sweeps = {
            "scores": settings.sweep(self.read),
            "amounts": settings.sweep(settings.information),
            "other_scores": settings.ends(self.other),
        }
        self.add_state("curves", [], dist_reduce_fx="cat")

    def update(self, scores: Tensor, amounts: Tensor, other_scores: Tensor) -> None:
        """Add a batch: scores and information [B, R] of all versions, and the other score [B, 2] of both ends.

        Raises:
            ValueError: A shape differs.
        """
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
        self.add_rows("curves", curves[keep].float())

    def compute(self) -> Tensor:
        """Return the area under the aggregated curve as a float64 scalar; NaN without images."""
        if self.count == 0:
            return super().compute()
        return area_under_curves(self._aggregate())

    def curve(self) -> Curve:
        """Return the aggregated curve of all images: the score at each amount of information, with a 95 % band.

        The band of a median is the usual one of order statistics, that of a mean has 1.96 standard errors to each side.
        """
        points, curves = self.settings.points, self.rows("curves")
        if len(curves) == 0:
            return Curve((), (), (), (), images=0)
        band = median_band(curves) if self.settings.aggregate == "median" else mean_band(curves)
        curve = Curve.through((place / points for place in range(points + 1)), self._aggregate(), band, len(curves))
        return replace(curve, aggregate=self.settings.aggregate, x_label="information", y_label=self.y_label)

    def empty_rows(self) -> dict[str, Tensor]:
        """Return no curves, float32 [0, points + 1]."""
        return {"curves": torch.empty(0, self.settings.points + 1, device=self.device)}

    def _aggregate(self) -> Tensor:
        """Return the median, or the mean, of the curves of all images, float64 [points + 1]; at least one image."""
        curves = self.rows("curves")
        if self.settings.aggregate == "mean":
            return curves.mean(dim=0, dtype=torch.float64)
        return in_order(curves, [(len(curves) - 1) // 2, len(curves) // 2]).mean(dim=0)


def _is_explained(scores: Tensor, least: float) -> Tensor:
    """Return whether the whole image has a score, and a higher one than the background: bool [B]."""
    return (scores[:, -1] >= least) & (scores[:, -1] > scores[:, 0])


class SoftmaxInformationCurve(InformationCurve):
    """Compute SIC, the area under the median of relative probability against information: in [0, 1], higher is better.

    The relative probability of the target is 0 for the background and 1 for the whole image.

    Presets: `shared` (M_F's 33 versions, MS-SSIM, median: no pass beside M_F), `shared_grey_entropy` (the same by
    entropy of grey levels, for images below 161 pixels too), `pair` (the `saliency` package: linear interpolation,
    WebP), `idgi` (Singhi and Kumari 2024: blur, PNG, median), `idgi_ms_ssim` (the same, raw MS-SSIM), `ggig` (Rahman et
    al. 2022: blur, grey entropy).

    Args:
        settings: Your own, or the name of a preset.

    Raises:
        ValueError: There is no such preset.

    Source: Kapishnikov et al. 2019.

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
    """Compute AIC, the area under the share of images classified as the target against information: in [0, 1].

    Higher is better.

    Presets as for `SoftmaxInformationCurve`, but `idgi`, `idgi_ms_ssim` and `ggig` take the mean, as published. Images
    that the classifier gets right before any pixel is shown are left out and counted in `dropped`.

    Args:
        settings: Your own, or the name of a preset.

    Raises:
        ValueError: There is no such preset.

    Source: Kapishnikov et al. 2019.

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
