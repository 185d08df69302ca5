"""What a metric that sweeps an image delivers beside its number: a curve over images with a band."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Literal, Protocol, Self, runtime_checkable

import pandas as pd
from torch import Tensor
from torchmetrics import Metric

NORMAL_QUANTILE = 1.959963984540054
"""Of a 95 % band: at every point, the mean plus and minus this many standard errors."""

COLUMNS = ("metric", "explainer", "x_label", "y_label", "aggregate", "images", "x", "y", "low", "high")
"""Of curves.parquet, one row for each point."""


@dataclass(frozen=True, slots=True)
class Curve:
    """One curve over all images.

    Args:
        x: Where it was measured, ascending, such as the share of pixels kept.
        y: Aggregate over the images at each point.
        low: Lower end of the 95 % band of that aggregate.
        high: Upper end.
        images: How many images entered.
        aggregate: What `y` is over the images.
        x_label: What `x` is.
        y_label: What `y` is.
    """

    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    images: int
    aggregate: Literal["mean", "median"] = "mean"
    x_label: str = "share of pixels"
    y_label: str = "score"

    @classmethod
    def through(cls, x: Iterable[float], y: Tensor, band: Tensor, images: int) -> Self:
        """Make a curve of means over the images from y [T] and the ends of its band [2, T]."""
        low, high = band.tolist()
        return cls(tuple(x), tuple(y.tolist()), tuple(low), tuple(high), images)

    def __post_init__(self) -> None:
        """Refuse columns that differ in length."""
        lengths = [len(column) for column in (self.x, self.y, self.low, self.high)]
        if len(set(lengths)) > 1:
            raise ValueError(f"x, y, low and high of a curve must be equally long, got {lengths}")


@runtime_checkable
class CurveSource(Protocol):
    """A metric that delivers a curve of the images in its state: a mean over images with its count of them."""

    count: Tensor

    def curve(self) -> Curve:
        """Give the curve."""


def merged_curve(metric: Metric) -> Curve | None:
    """Ask a metric for its curve over the images of all ranks; None when it delivers none or has no images.

    Every rank must call it, since it merges.
    """
    if not isinstance(metric, CurveSource):
        return None
    with metric.sync_context():
        return metric.curve() if int(metric.count) else None


def curves_frame(curves: Iterable[tuple[str, str, Curve]]) -> pd.DataFrame:
    """Give curves as a table with one row for each point.

    Args:
        curves: (explainer, metric, curve).
    """
    parts = [
        pd.DataFrame(asdict(curve) | {"explainer": explainer, "metric": metric})[list(COLUMNS)]
        for explainer, metric, curve in curves
    ]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(COLUMNS))
