"""Percentile bootstrap intervals of means over images; columns with the same images share their resamples."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

DRAWS_IN_MEMORY = 2_000_000
"""Draws held at once, which with their counts take 48 MB whatever the number of images."""


@dataclass(frozen=True, slots=True)
class Interval:
    """Hold a mean over images with its bootstrap interval.

    Args:
        mean: None without images.
        low: Lower end; None when there are too few images for a bootstrap.
        high: Upper end; None like `low`.
        standard_error: Standard deviation of the resampled means; None like `low`.
        count: Images that entered.
        reason: Why there is no interval; None when there is one.

    Example:
        >>> Interval(mean=0.5, low=0.4, high=0.6, standard_error=0.05, count=30).reason is None
        True
    """

    mean: float | None
    low: float | None
    high: float | None
    standard_error: float | None
    count: int
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Drawing:
    """Set how resamples are drawn.

    Args:
        resamples: Number of bootstrap samples.
        seed: Of the draws.
        level: Share of the resampled means inside an interval.

    Raises:
        ValueError: There is no resample, or `level` is outside (0, 1).

    Example:
        >>> Drawing(resamples=1000).level
        0.95
    """

    resamples: int = 10_000
    seed: int = 0
    level: float = 0.95

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.resamples < 1:
            raise ValueError(f"`resamples` must be at least 1, got {self.resamples}")
        if not 0 < self.level < 1:
            raise ValueError(f"`level` must lie between 0 and 1, got {self.level}; 0.95 is usual")


DRAWING = Drawing()


def bootstrap_means(columns: ArrayLike, drawing: Drawing = DRAWING) -> list[Interval]:
    """Return the mean of each column with its percentile bootstrap interval, K of them.

    Values that are not finite are left out.

    Columns with values for the same images are resampled together, so their means can be compared. The same seed and
    number of images draw the same rows.

    Args:
        columns: [N, K], one row per image.
        drawing: How resamples are drawn.

    Raises:
        ValueError: `columns` is not [N, K].

    Source: Efron and Tibshirani 1993, the percentile interval.

    Example:
        >>> [interval.mean for interval in bootstrap_means([[0.0, 2.0], [1.0, float("nan")], [2.0, 4.0]])]
        [1.0, 3.0]
    """
    values = np.asarray(columns, dtype=np.float64)
    if values.ndim != 2:
        raise ValueError(f"`columns` must be [N, K], one row per image, got {list(values.shape)}")
    finite = np.isfinite(values)
    intervals: list[Interval | None] = [None] * values.shape[1]
    for places in _alike(finite):
        rows = finite[:, places[0]]
        for place, interval in zip(places, _intervals(values[rows][:, places], drawing), strict=True):
            intervals[place] = interval
    return [interval for interval in intervals if interval is not None]


def bootstrap_mean(values: ArrayLike, drawing: Drawing = DRAWING) -> Interval:
    """Return the mean of one value per image, [N], with its interval; values that are not finite are left out.

    Example:
        >>> interval = bootstrap_mean([0.0, 1.0, 1.0, 2.0])
        >>> interval.mean, interval.count, interval.low < 1 < interval.high
        (1.0, 4, True)
    """
    return bootstrap_means(np.asarray(values, dtype=np.float64)[:, None], drawing)[0]


def resampled_means(values: NDArray[np.float64], resamples: int, seed: int) -> NDArray[np.float64]:
    """Return the means of resampled images, [resamples, K], of finite values [N, K]; all columns share the resamples.

    A resample is the number of times that each image was drawn, so all columns take one matrix product.
    """
    count = len(values)
    centre: NDArray[np.float64] = values.mean(axis=0)
    draw = np.random.default_rng(seed)
    means = np.empty((resamples, values.shape[1]))
    step = max(1, DRAWS_IN_MEMORY // count)
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        drawn = draw.integers(0, count, (size, count)) + count * np.arange(size)[:, None]
        times = np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count)
        means[start : start + size] = times.astype(np.float64) @ (values - centre) / count
    return means + centre


def _intervals(values: NDArray[np.float64], drawing: Drawing) -> list[Interval]:
    """Return the intervals of finite columns [N, K]."""
    count = len(values)
    if count < 2:
        reason = f"a bootstrap needs at least 2 images, got {count}"
        means = values[0].tolist() if count else [None] * values.shape[1]
        return [Interval(mean, None, None, None, count, reason) for mean in means]
    means = resampled_means(values, drawing.resamples, drawing.seed)
    tail = (1 - drawing.level) / 2
    low, high = np.quantile(means, [tail, 1 - tail], axis=0).tolist()
    errors = means.std(axis=0, ddof=1).tolist() if drawing.resamples > 1 else [0.0] * values.shape[1]
    columns = zip(values.mean(axis=0).tolist(), low, high, errors, strict=True)
    return [Interval(*column, count) for column in columns]


def _alike(finite: NDArray[np.bool_]) -> Sequence[list[int]]:
    """Group the columns that have values for the same images."""
    groups: dict[bytes, list[int]] = {}
    for place in range(finite.shape[1]):
        groups.setdefault(np.packbits(finite[:, place]).tobytes(), []).append(place)
    return list(groups.values())
