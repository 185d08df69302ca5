"""The base of metrics that are the mean of one number per image and also draw the mean of a curve per image."""

from abc import abstractmethod
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from dre.curves import NORMAL_QUANTILE, Curve
from dre.metrics.image_mean import ImageMean


class ImageCurve(ImageMean):
    """Mean over images of one number and of one curve [T] per image; the curve is kept as sums, so merging is exact.

    A subclass hands numbers to `accumulate` and curves to `accumulate_curves` in its `update`, and says in `curve_x`
    where the points lie.

    Args:
        points: Points of a curve, T.
    """

    x_label: ClassVar[str] = "share of pixels"
    y_label: ClassVar[str] = "target score"

    curve_total: Tensor
    curve_squares: Tensor
    curve_count: Tensor

    def __init__(self, points: int) -> None:
        super().__init__()
        for name in ("curve_total", "curve_squares"):
            self.add_state(name, torch.zeros(points, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("curve_count", torch.zeros(points, dtype=torch.int64), dist_reduce_fx="sum")

    @property
    @abstractmethod
    def curve_x(self) -> tuple[float, ...]:
        """Where the points lie, T ascending numbers."""

    def accumulate_curves(self, curves: Tensor) -> None:
        """Add one curve per image, [B, T]; a point that is NaN is left out of the mean of that point."""
        defined = ~curves.isnan()
        exact = curves.double().where(defined, 0.0)
        self.curve_total += exact.sum(dim=0)
        self.curve_squares += exact.square().sum(dim=0)
        self.curve_count += defined.sum(dim=0)

    def curve(self) -> Curve:
        """Give the mean curve of the images in the state, without points that no image has.

        `dre.curves.merged_curve` asks for that of all ranks.
        """
        known = self.curve_count > 0
        count = self.curve_count[known]
        mean = self.curve_total[known] / count
        spread = (self.curve_squares[known] / count - mean.square()).clamp_min(0) * count / (count - 1).clamp_min(1)
        margin = NORMAL_QUANTILE * (spread / count).sqrt()
        x = torch.tensor(self.curve_x, dtype=torch.float64)[known.cpu()]
        curve = Curve.through(x.tolist(), mean, mean + torch.stack([-margin, margin]), int(self.count))
        return replace(curve, x_label=self.x_label, y_label=self.y_label)
