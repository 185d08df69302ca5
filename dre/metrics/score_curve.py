"""Insertion and deletion: area under the score while pixels are inserted, or deleted, in the order of the map."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from dre.metrics.base import ImageCurve
from dre.metrics.m_f import SMOOTHING, STEPS
from dre.renamed import accepts_old_options
from dre.types import Blur, Fill, Kept, Sweep

Integral = Literal["trapezoid", "mean"]
PresetName = Literal["shared", "idgi", "idgi_ratio", "samp", "samp_cifar10", "samp_enlarged", "samp_mnist", "rise"]


@accepts_old_options
@dataclass(frozen=True, slots=True)
class CurveSettings:
    """Set how a score is followed while pixels are inserted or deleted.

    Args:
        steps: Of equal numbers of pixels; there is one point more than steps.
        fill: What is shown where a pixel is not yet, or no longer, there.
        read: Score of the target.
        ratio: Divide each curve by the score of the whole image; images whose score is not positive are left out.
        integral: `trapezoid` with steps of 1 / steps, or the plain `mean` of all points.
        smoothing: Weight of the smoothed map in the ranking; 0 ranks the map itself.
        pixels: How many pixels each step takes, in place of `steps`; the last takes what is left. Needs `area`.
        area: Pixels of the images; of others `pixels` stands for the same share.

    Raises:
        ValueError: There is no step; `pixels` without `area`; or with `trapezoid`, whose steps are of one length.

    Example:
        >>> CurveSettings(steps=4, read="logit").sweep("top").ratios
        (0.0, 0.25, 0.5, 0.75, 1.0)
        >>> CurveSettings(integral="mean", pixels=4, area=10).sweep("top").ratios
        (0.0, 0.4, 0.8, 1.0)
    """

    steps: int = STEPS
    fill: Fill = "blur"
    read: Literal["probability", "logit", "log_probability"] = "probability"
    ratio: bool = False
    integral: Integral = "trapezoid"
    smoothing: float = SMOOTHING
    pixels: int | None = None
    area: int | None = None

    def __post_init__(self) -> None:
        """Check that there is a step."""
        if self.steps < 1:
            raise ValueError(f"`steps` must be at least 1, got {self.steps}")
        if (self.pixels is None) != (self.area is None):
            raise ValueError(f"`pixels` and `area` need each other, got {self.pixels} and {self.area}; give both")
        if self.pixels is not None and self.area is not None and not 1 <= self.pixels <= self.area:
            raise ValueError(f"`pixels` must be at least 1 and at most `area`, {self.area}, got {self.pixels}")
        if self.pixels is not None and self.integral == "trapezoid":
            raise ValueError("`pixels` may leave a shorter last step, and `trapezoid` has none; use `mean` with it")

    @property
    def ratios(self) -> tuple[float, ...]:
        """Return the shares of the pixels at the points of the curve."""
        if self.pixels is not None and self.area is not None:
            return (*(count / self.area for count in range(0, self.area, self.pixels)), 1.0)
        return tuple(step / self.steps for step in range(self.steps + 1))

    def sweep(self, kept: Kept) -> Sweep:
        """Return the perturbation sweep of this curve."""
        return Sweep(self.ratios, self.fill, kept, self.smoothing, self.read)


SHARED = CurveSettings()
"""The versions of M_F: insertion beside M_F costs no pass."""

WIDE = Blur(5.0, 15, "dataset_mean", "folded")
NARROW = Blur(5.0, 5, "dataset_mean", "folded")
"""31 taps for photographs and 11 for small images, padded with the zeros of normalised images."""


def _samp(fill: Fill, pixels: int, area: int) -> CurveSettings:
    """Zhang et al. 2024, by their code; what zeros are, in a fill and beyond a border, is up to the loader of the data.

    Photographs and CIFAR-10 are normalised there, so that zeros are the mean colour; digits are not: they are black.
    """
    return CurveSettings(fill=fill, read="logit", ratio=True, integral="mean", smoothing=0, pixels=pixels, area=area)


SAMP_INSERTION = {
    "samp": _samp(WIDE, 224 * 8, 224 * 224),
    "samp_cifar10": _samp(NARROW, 10, 32 * 32),
    "samp_enlarged": _samp(Blur(20.0, 22, "dataset_mean", "folded"), 160, 128 * 128),
    "samp_mnist": _samp(Blur(5.0, 5, "black", "folded"), 10, 28 * 28),
}
SAMP_DELETION = {
    "samp": _samp("dataset_mean", 224 * 8, 224 * 224),
    "samp_cifar10": _samp("dataset_mean", 10, 32 * 32),
    "samp_enlarged": _samp("dataset_mean", 160, 128 * 128),
    "samp_mnist": _samp("black", 10, 28 * 28),
}


def area_under_curve(scores: Tensor, integral: Integral = "trapezoid") -> Tensor:
    """Return the area under scores at equal steps from nothing to everything: [B], in the range of the scores.

    Args:
        scores: [B, P], at least two points.
        integral: `trapezoid` halves both ends, `mean` does not.

    Source: Petsiuk et al. 2018 (trapezoid); the published benchmark of Zhang et al. 2024 (mean).

    Example:
        >>> import torch
        >>> scores = torch.tensor([[0.0, 0.5, 1.0, 1.0]])
        >>> area_under_curve(scores), area_under_curve(scores, "mean")
        (tensor([0.6667]), tensor([0.6250]))
    """
    if integral == "mean":
        return scores.mean(dim=1)
    return torch.trapezoid(scores, dim=1) / (scores.shape[1] - 1)


class ScoreCurve(ImageCurve):
    """Compute the mean over images of the area under a curve of scores; `curve()` returns the mean curve.

    Equal values of a map enter in row-major order. With `ratio`, images whose own score is not positive are left out
    and counted in `dropped`.

    Args:
        settings: Your own, or the name of a preset.

    Raises:
        ValueError: There is no such preset.
        TypeError: `settings` is neither settings nor a name.
    """

    presets: ClassVar[Mapping[str, CurveSettings]]
    kept: ClassVar[Kept]
    whole: ClassVar[int]
    """Column of the image that is shown whole."""

    def __init__(self, settings: CurveSettings | PresetName = "shared") -> None:
        if isinstance(settings, str):
            if settings not in self.presets:
                known = ", ".join(self.presets)
                raise ValueError(f"{type(self).__name__} has no preset {settings!r}; choose {known}")
            settings = self.presets[settings]
        if not isinstance(settings, CurveSettings):
            raise TypeError(f"`settings` must be CurveSettings or one of {', '.join(self.presets)}, got {settings!r}")
        super().__init__(len(settings.ratios))
        self.settings = settings
        self.sweep = settings.sweep(self.kept)
        self.sweeps = {"scores": self.sweep}
        self.is_share = settings.read == "probability" or settings.ratio

    def update(self, scores: Tensor) -> None:
        """Add a batch of sweep scores, [B, steps + 1].

        Raises:
            ValueError: The shape differs.
        """
        if scores.ndim != 2 or scores.shape[1] != self.sweep.columns:
            raise ValueError(
                f"`scores` must be [B, {self.sweep.columns}], one column for each ratio of its sweep, "
                f"got {list(scores.shape)}"
            )
        keep = torch.ones(len(scores), dtype=torch.bool, device=scores.device)
        curves = scores.double()
        if self.settings.ratio:
            whole = curves[:, self.whole]
            keep = whole > 0
            curves = curves / whole.where(keep, 1.0)[:, None]
        self.accumulate(area_under_curve(curves, self.settings.integral), keep)
        self.accumulate_curves(curves[keep])

    @property
    def curve_x(self) -> tuple[float, ...]:
        """Return the shares of the pixels that are inserted, or deleted."""
        return self.sweep.ratios


class Insertion(ScoreCurve):
    """Compute the mean over images of the area under the score while the best-ranked pixels are inserted.

    In [0, 1] for probabilities; ratios to the whole image may exceed 1, logits have no bounds. Higher is better.

    Presets: `shared` (M_F's blurred background, ranking and 32 steps, trapezoid: no pass beside M_F), `idgi` and
    `idgi_ratio` (Singhi and Kumari 2024: black, 20 steps), `samp` (Zhang et al. 2024: logits over the image's, blurred
    by 31 taps, 224 x 8 pixels of 224 x 224 a step, plain mean), `samp_cifar10` and `samp_mnist` (the same by 11 taps,
    10 pixels a step of 32 x 32 and of 28 x 28), `samp_enlarged` (`samp_cifar10` at 128 x 128), `rise` (Petsiuk et al.
    2018: probability, blurred by 11 taps, 28 steps). The last five pad their blur with `dataset_mean`, on digits with
    black: the zeros of their code.

    Args:
        settings: Your own, or the name of a preset.

    Raises:
        ValueError: There is no such preset.

    Source: Petsiuk et al. 2018 (RISE).

    Example:
        >>> import torch
        >>> metric = Insertion()
        >>> metric.update(torch.arange(33)[None] / 32)
        >>> metric.compute()
        tensor(0.5000, dtype=torch.float64)
    """

    higher_is_better = True
    x_label = "share of pixels inserted"
    kept = "top"
    whole = -1
    presets: ClassVar[Mapping[str, CurveSettings]] = {
        "shared": SHARED,
        "idgi": CurveSettings(20, "black", smoothing=0),
        "idgi_ratio": CurveSettings(20, "black", ratio=True, smoothing=0),
        **SAMP_INSERTION,
        "rise": CurveSettings(28, NARROW, smoothing=0),
    }


class Deletion(ScoreCurve):
    """Compute the mean over images of the area under the score while the best-ranked pixels are deleted.

    In [0, 1] for probabilities; ratios and logits may be negative. Lower is better.

    Presets: `shared` (M_F's blurred background and ranking, 32 steps), `samp` (Zhang et al. 2024: logits over the
    image's, `dataset_mean`, 28 steps, plain mean), `samp_cifar10` (10 pixels of 32 x 32 a step), `samp_enlarged` (160
    of 128 x 128), `samp_mnist` (black, 10 pixels of 28 x 28 a step), `rise` (Petsiuk et al. 2018: probability,
    `dataset_mean`, 28 steps). Singhi and Kumari 2024 report no deletion.

    Args:
        settings: Your own, or the name of a preset.

    Raises:
        ValueError: There is no such preset.

    Source: Petsiuk et al. 2018 (RISE).

    Example:
        >>> import torch
        >>> metric = Deletion()
        >>> metric.update(1 - torch.arange(33)[None] / 32)
        >>> metric.compute()
        tensor(0.5000, dtype=torch.float64)
    """

    higher_is_better = False
    x_label = "share of pixels deleted"
    kept = "rest"
    whole = 0
    presets: ClassVar[Mapping[str, CurveSettings]] = {
        "shared": SHARED,
        **SAMP_DELETION,
        "rise": CurveSettings(28, "dataset_mean", smoothing=0),
    }
