"""Percentile bootstrap intervals of means over images; numbers of images share their resamples."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t as student

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
    return bootstrap_tables([values], drawing, pairs=False)[0][0]


def bootstrap_tables(
    tables: Sequence[NDArray[np.float64]], drawing: Drawing = DRAWING, pairs: bool = True
) -> list[tuple[list[Interval], list[Interval]]]:
    """Return for each table [N, K] the intervals of its columns, and of the differences of each pair of columns.

    The rows of a number of images are drawn once for all tables. Where two columns have values for the same images,
    the resampled means of their difference are the differences of theirs.

    Args:
        tables: One row per image and one column per explainer, each; values that are not finite are left out.
        drawing: How resamples are drawn.
        pairs: Compute the differences, in the order of `itertools.combinations`.
    """
    found: list[tuple[dict[int, Interval], dict[int, Interval]]] = [({}, {}) for _ in tables]
    by_count: dict[int, list[_Group]] = {}
    for place, values in enumerate(tables):
        for group in _groups(place, values, pairs):
            by_count.setdefault(int(group.rows.sum()), []).append(group)
    for count, groups in by_count.items():
        columns = [group.values(tables[group.table]) for group in groups]
        means = resampled_means(np.concatenate(columns, axis=1), drawing.resamples, drawing.seed) if count > 1 else None
        start = 0
        for group, values in zip(groups, columns, strict=True):
            own = None if means is None else means[:, start : start + values.shape[1]]
            group.settle(values, own, drawing, *found[group.table])
            start += values.shape[1]
    return [([one[at] for at in sorted(one)], [other[at] for at in sorted(other)]) for one, other in found]


def bootstrap_mean(values: ArrayLike, drawing: Drawing = DRAWING) -> Interval:
    """Return the mean of one value per image, [N], with its interval; values that are not finite are left out.

    Raises:
        ValueError: `values` is not [N].

    Example:
        >>> interval = bootstrap_mean([0.0, 1.0, 1.0, 2.0])
        >>> interval.mean, interval.count, interval.low < 1 < interval.high
        (1.0, 4, True)
    """
    return bootstrap_means(np.asarray(values, dtype=np.float64)[:, None], drawing)[0]


def crossed_mean(values: ArrayLike, drawing: Drawing = DRAWING) -> Interval:
    """Return the mean of one value per image and draw, [N, D], with an interval over images and draws.

    Images and draws are two random samples, crossed. The variance of the mean is that of two-way random effects, and
    the interval is Student's t with Satterthwaite's degrees of freedom: a bootstrap of a few draws would be too narrow.
    With one draw it is that of `bootstrap_mean`, over the images. Images that lack a finite value are left out.

    Args:
        values: Draws are columns.
        drawing: Its level; resamples are drawn where there is one draw.

    Raises:
        ValueError: `values` is not [N, D].

    Source: Satterthwaite 1946.

    Example:
        >>> interval = crossed_mean([[0.0, 0.3], [0.2, 0.5], [0.1, 0.4]])
        >>> round(interval.mean, 3), interval.count, interval.low < 0 < interval.high
        (0.25, 3, True)
    """
    table = np.asarray(values, dtype=np.float64)
    if table.ndim != 2:
        raise ValueError(f"`values` must be [N, D], one row per image and one column per draw, got {list(table.shape)}")
    table = table[np.isfinite(table).all(axis=1)]
    images, draws = table.shape
    if images < 2 or draws < 2:
        return bootstrap_mean(table.mean(axis=1), drawing)
    mean, by_image, by_draw = table.mean(), table.mean(axis=1), table.mean(axis=0)
    freedom = np.array([images - 1, draws - 1, (images - 1) * (draws - 1)])
    rest = table - by_image[:, None] - by_draw + mean
    sums = [draws * np.square(by_image - mean).sum(), images * np.square(by_draw - mean).sum(), np.square(rest).sum()]
    of_images, of_draws, of_rest = squares = np.array(sums) / freedom
    weights = np.array([1.0, 1.0, -1.0]) if of_draws > of_rest else np.array([1.0, 0.0, 0.0])
    spread = float(max(weights @ squares, of_images))
    error = float(np.sqrt(spread / table.size))
    terms = float((np.square(weights * squares) / freedom).sum())
    margin = float(student.ppf((1 + drawing.level) / 2, spread**2 / terms)) * error if terms > 0 else 0.0
    return Interval(float(mean), float(mean - margin), float(mean + margin), error, images)


def resampled_means(values: NDArray[np.float64], resamples: int, seed: int) -> NDArray[np.float64]:
    """Return the means of resampled images, [resamples, K], of finite values [N, K]; all columns share the resamples.

    A resample is the number of times that each image was drawn, so all columns take one matrix product.
    """
    count = len(values)
    centre: NDArray[np.float64] = values.mean(axis=0)
    draw = np.random.default_rng(seed)
    centred, means = values - centre, np.empty((resamples, values.shape[1]))
    step = max(1, DRAWS_IN_MEMORY // count)
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        times = np.empty((size, count))
        for row, drawn in enumerate(draw.integers(0, count, (size, count))):
            times[row] = np.bincount(drawn, minlength=count)
        means[start : start + size] = times @ centred / count
    return means + centre


@dataclass(frozen=True, slots=True)
class _Group:
    """Hold what has values for the same images of one table.

    Args:
        table: Its place.
        rows: Which images, bool [N].
        columns: Of the table.
        pairs: Number of a pair -> its columns; the difference of two that are both in `columns` is not resampled.
    """

    table: int
    rows: NDArray[np.bool_]
    columns: list[int]
    pairs: dict[int, tuple[int, int]]

    def apart(self) -> list[tuple[int, int]]:
        """Return the pairs whose difference is resampled by itself."""
        own = set(self.columns)
        return [pair for pair in self.pairs.values() if not own.issuperset(pair)]

    def values(self, table: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the finite columns, then the differences that are resampled by themselves."""
        held = table[self.rows]
        gaps = [held[:, first] - held[:, second] for first, second in self.apart()]
        return np.column_stack([held[:, self.columns], *gaps])

    def settle(
        self,
        values: NDArray[np.float64],
        means: NDArray[np.float64] | None,
        drawing: Drawing,
        of_columns: dict[int, Interval],
        of_pairs: dict[int, Interval],
    ) -> None:
        """Add the intervals of the columns and of the pairs; without resampled means they have no ends."""
        own = len(self.columns)
        intervals = _intervals(values[:, :own], None if means is None else means[:, :own], drawing)
        of_columns |= dict(zip(self.columns, intervals, strict=True))
        gaps, resampled = self.differences(values), None if means is None else self.differences(means)
        if resampled is not None:  # rounding must not turn a difference that is the same everywhere into a spread
            same = (gaps == gaps[0]).all(axis=0)
            resampled[:, same] = gaps[0, same]
        of_pairs |= dict(zip(self.pairs, _intervals(gaps, resampled, drawing), strict=True))

    def differences(self, columns: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the differences of the pairs, of what `values` returns or of its resampled means."""
        places = {column: place for place, column in enumerate(self.columns)}
        apart = iter(range(len(self.columns), columns.shape[1]))
        found = np.empty((len(columns), len(self.pairs)))
        for number, (first, second) in enumerate(self.pairs.values()):
            is_derived = first in places and second in places
            found[:, number] = (
                columns[:, places[first]] - columns[:, places[second]] if is_derived else columns[:, next(apart)]
            )
        return found


def _intervals(values: NDArray[np.float64], means: NDArray[np.float64] | None, drawing: Drawing) -> list[Interval]:
    """Return the intervals of finite columns [N, K] from their resampled means, None with fewer than 2 images."""
    count = len(values)
    if means is None:
        reason = f"a bootstrap needs at least 2 images, got {count}"
        centres = values[0].tolist() if count else [None] * values.shape[1]
        return [Interval(centre, None, None, None, count, reason) for centre in centres]
    tail = (1 - drawing.level) / 2
    low, high = np.quantile(means, [tail, 1 - tail], axis=0).tolist()
    errors = means.std(axis=0, ddof=1).tolist() if drawing.resamples > 1 else [0.0] * values.shape[1]
    columns = zip(values.mean(axis=0).tolist(), low, high, errors, strict=True)
    return [Interval(*column, count) for column in columns]


def _groups(place: int, values: NDArray[np.float64], pairs: bool) -> list[_Group]:
    """Group the columns of a table, and the differences of its pairs, by the images for which they have values."""
    finite = np.isfinite(values)
    groups: dict[bytes, _Group] = {}

    def group(rows: NDArray[np.bool_]) -> _Group:
        return groups.setdefault(np.packbits(rows).tobytes(), _Group(place, rows, [], {}))

    for column in range(values.shape[1]):
        group(finite[:, column]).columns.append(column)
    for number, (first, second) in enumerate(combinations(range(values.shape[1]), 2) if pairs else ()):
        group(finite[:, first] & finite[:, second]).pairs[number] = first, second
    return list(groups.values())
