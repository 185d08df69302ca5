"""What a metric that sweeps an image delivers beside its number: a curve over images with a band."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal, Protocol, runtime_checkable

import pandas as pd
from torch import Tensor
from torchmetrics import Metric

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

    def __post_init__(self) -> None:
        """Refuse columns that differ in length."""
        lengths = [len(column) for column in (self.x, self.y, self.low, self.high)]
        if len(set(lengths)) > 1:
            raise ValueError(f"x, y, low and high of a curve must be equally long, got {lengths}")


class CurvePoints(Protocol):
    """The least that a metric's curve has; what else a `Curve` holds is read where it is there."""

    @property
    def x(self) -> Tensor | Sequence[float]:
        """Where it was measured, [T]."""

    @property
    def y(self) -> Tensor | Sequence[float]:
        """Aggregate over the images, [T]."""


@runtime_checkable
class CurveSource(Protocol):
    """A metric that delivers a curve of the images in its state: a mean over images with its count of them."""

    count: Tensor

    def curve(self) -> CurvePoints:
        """Give the curve."""


def merged_curve(metric: Metric) -> Curve | None:
    """Ask a metric for its curve over the images of all ranks; None when it delivers none or has no images.

    Every rank must call it, since it merges. A curve without a band gets one of NaN, which is not drawn.
    """
    if not isinstance(metric, CurveSource):
        return None
    with metric.sync_context():
        images, found = int(metric.count), metric.curve() if int(metric.count) else None
    if found is None or not all(map(math.isfinite, _numbers(found.y))):
        return None
    if isinstance(found, Curve):
        return found
    x, y = _numbers(found.x), _numbers(found.y)
    return Curve(x, y, (math.nan,) * len(y), (math.nan,) * len(y), images)


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


def _numbers(values: Tensor | Sequence[float]) -> tuple[float, ...]:
    return tuple(values.tolist() if isinstance(values, Tensor) else values)
