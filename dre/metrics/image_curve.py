"""The base of metrics that are the mean of one number per image and also draw the mean of a curve per image."""

import torch
from torch import Tensor

from dre.curves import Curve
from dre.metrics.image_mean import ImageMean

NORMAL_QUANTILE = 1.959963984540054
"""Of the 95 % band: at every point, the mean plus and minus this many standard errors."""


class ImageCurve(ImageMean):
    """Mean over images of one number and of one curve [T] per image; the curve is kept as sums, so merging is exact.

    A subclass hands numbers to `accumulate` and curves to `accumulate_curves` in its `update`, and gives what the axes
    are in `curve_from`.

    Args:
        points: Points of a curve, T.
    """

    curve_total: Tensor
    curve_squares: Tensor
    curve_count: Tensor

    def __init__(self, points: int) -> None:
        super().__init__()
        for name in ("curve_total", "curve_squares"):
            self.add_state(name, torch.zeros(points, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("curve_count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def accumulate_curves(self, curves: Tensor) -> None:
        """Add one curve per image, [B, T]."""
        exact = curves.double()
        self.curve_total += exact.sum(dim=0)
        self.curve_squares += exact.square().sum(dim=0)
        self.curve_count += len(curves)

    def curve(self) -> Curve:
        """Give the mean curve of the images in the state; `dre.curves.merged_curve` asks for that of all ranks."""
        count = int(self.curve_count)
        mean = self.curve_total / count
        spread = (self.curve_squares / count - mean.square()).clamp_min(0) * count / max(1, count - 1)
        return self.curve_from(mean, NORMAL_QUANTILE * (spread / count).sqrt(), count)

    def curve_from(self, mean: Tensor, margin: Tensor, images: int) -> Curve:
        """Put mean [T] and half the width of the band [T] on axes."""
        raise NotImplementedError
