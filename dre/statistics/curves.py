"""Curves of sweep metrics over all images, with a 95 % band at each point, and their table."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal, Protocol, Self, runtime_checkable

import pandas as pd
from torch import Tensor

if TYPE_CHECKING:
    from torchmetrics import Metric

NORMAL_QUANTILE = 1.959963984540054
"""Standard errors to each side of the mean in a 95 % band."""

COLUMNS = ("metric", "explainer", "x_label", "y_label", "aggregate", "images", "x", "y", "low", "high")
"""Columns of curves.parquet, one row for each point."""


@dataclass(frozen=True, slots=True)
class Curve:
    """Hold one curve over all images.

    Args:
        x: Where it was measured, ascending, such as the share of pixels kept.
        y: Aggregate over the images at each point.
        low: Lower end of the 95 % band of that aggregate.
        high: Upper end.
        images: How many images entered.
        aggregate: What `y` is over the images.
        x_label: What `x` is.
        y_label: What `y` is.

    Raises:
        ValueError: The columns differ in length.

    Example:
        >>> Curve(x=(0.0, 1.0), y=(0.1, 0.9), low=(0.0, 0.8), high=(0.2, 1.0), images=30).aggregate
        'mean'
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
        """Build a curve of means over the images from y [T] and the ends of its band [2, T]."""
        low, high = band.tolist()
        return cls(tuple(x), tuple(y.tolist()), tuple(low), tuple(high), images)

    def __post_init__(self) -> None:
        """Check that the columns are equally long."""
        lengths = [len(column) for column in (self.x, self.y, self.low, self.high)]
        if len(set(lengths)) > 1:
            raise ValueError(f"x, y, low and high of a curve must be equally long, got {lengths}")


@runtime_checkable
class CurveSource(Protocol):
    """Describe a metric that has a curve of the images in its state, and their number."""

    count: Tensor

    def curve(self) -> Curve:
        """Return the curve."""


def merged_curve(metric: "Metric") -> Curve | None:
    """Return a metric's curve over the images of all ranks; None when it has no curve or no images.

    Every rank must call it, since it merges.
    """
    if not isinstance(metric, CurveSource):
        return None
    with metric.sync_context():
        return metric.curve() if int(metric.count) else None


def curves_frame(curves: Iterable[tuple[str, str, Curve]]) -> pd.DataFrame:
    """Return curves as a table with one row for each point and the columns `COLUMNS`.

    Args:
        curves: (explainer, metric, curve).

    Example:
        >>> curve = Curve((0.0, 1.0), (0.1, 0.9), (0.0, 0.8), (0.2, 1.0), images=30)
        >>> curves_frame([("random", "faithfulness", curve)])[["metric", "x", "y"]]
                 metric    x    y
        0  faithfulness  0.0  0.1
        1  faithfulness  1.0  0.9
    """
    parts = [
        pd.DataFrame(asdict(curve) | {"explainer": explainer, "metric": metric})[list(COLUMNS)]
        for explainer, metric, curve in curves
    ]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(COLUMNS))
