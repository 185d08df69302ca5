"""Paired comparison of explainers: mean difference, Wilcoxon's test with Holm's correction, rank-biserial effect."""

from collections.abc import Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from dre.statistics.intervals import DRAWING, Drawing, Interval, bootstrap_mean

MOST_EXACT = 50
"""Images up to which SciPy computes Wilcoxon's p-value by other means than the normal distribution."""


class SignedRanks(NamedTuple):
    """Hold sums of the ranks of absolute differences, of those that are not 0; equal ones share their mean rank.

    Args:
        ranked: How many there are.
        positive: Sum of the ranks of the positive ones.
        ties: Sum of t^3 - t over the groups of t equal ones.
    """

    ranked: int
    positive: float
    ties: float


def paired_difference(first: ArrayLike, second: ArrayLike, drawing: Drawing = DRAWING) -> Interval:
    """Return the mean over the common images of first - second, with its bootstrap interval.

    Args:
        first: [N], NaN where an image has no value.
        second: [N], the same images in the same order.
        drawing: How resamples are drawn.

    Raises:
        ValueError: The shapes differ.

    Example:
        >>> paired_difference([3.0, 2.0, 4.0], [1.0, 1.0, float("nan")]).mean
        1.5
    """
    return bootstrap_mean(differences(first, second), drawing)


def median_difference(first: ArrayLike, second: ArrayLike, drawing: Drawing = DRAWING) -> Interval:
    """Return the median of first minus the median of second over the common images, with its bootstrap interval.

    Args:
        first: [N], NaN where an image has no value.
        second: [N], the same images in the same order.
        drawing: How resamples are drawn; both medians are taken of the same images.

    Raises:
        ValueError: The shapes differ.

    Example:
        >>> median_difference([3.0, 2.0, 9.0], [1.0, 1.0, 1.0]).mean
        2.0
    """
    count = len(differences(first, second))
    if count < 2:
        return paired_difference(first, second, drawing)
    values = np.stack([np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)])
    values = values[:, np.isfinite(values[0] - values[1])]
    places = np.random.default_rng(drawing.seed).integers(0, count, (drawing.resamples, count))
    one, other = np.median(values[:, places], axis=2)
    low, high = np.quantile(one - other, [(1 - drawing.level) / 2, (1 + drawing.level) / 2])
    middle = float(np.median(values[0]) - np.median(values[1]))
    return Interval(middle, float(low), float(high), float(np.std(one - other, ddof=1)), count)


def wilcoxon_p(first: ArrayLike, second: ArrayLike) -> float | None:
    """Return the two-sided p-value of Wilcoxon's signed-rank test on the common images; None with fewer than 2.

    Images without a difference carry no rank; when there is no other, the p-value is 1.

    Args:
        first: [N], NaN where an image has no value.
        second: [N], the same images in the same order.

    Raises:
        ValueError: The shapes differ.

    Source: Wilcoxon 1945, as `scipy.stats.wilcoxon` computes it.

    Example:
        >>> wilcoxon_p([1.0, 2.0, 3.0, 4.0, 5.0], [0.0, 0.0, 0.0, 0.0, 0.0])
        0.0625
    """
    found = differences(first, second)
    return _wilcoxon_p(found, signed_ranks(found))


def rank_biserial(first: ArrayLike, second: ArrayLike) -> float | None:
    """Return the rank-biserial effect size of first against second on the common images: in [-1, 1]; None without any.

    It is the share of the rank sum of absolute differences that favours the first minus the share that favours the
    second: 1 when the first is higher on every image. Images without a difference carry no rank, as in Wilcoxon's
    test; when there is no other, the effect is 0.

    Args:
        first: [N], NaN where an image has no value.
        second: [N], the same images in the same order.

    Raises:
        ValueError: The shapes differ.

    Source: Kerby 2014, the matched-pairs rank-biserial correlation.

    Example:
        >>> rank_biserial([3.0, 2.0, 0.0], [1.0, 1.0, 3.0])
        0.0
    """
    found = differences(first, second)
    return _rank_biserial(found, signed_ranks(found))


def signed_ranks(found: NDArray[np.float64]) -> SignedRanks:
    """Rank differences [N] once for the test and for the effect size.

    Example:
        >>> signed_ranks(np.array([3.0, -1.0, 1.0, 0.0]))
        SignedRanks(ranked=3, positive=4.5, ties=6.0)
    """
    found = found[found != 0]
    sizes = np.abs(found)
    order = np.argsort(sizes)
    ordered = sizes[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])) if len(found) else order
    times = np.diff(starts, append=len(found))
    ranks = np.repeat(starts + (times + 1) / 2, times)
    tied = times.astype(np.float64)
    return SignedRanks(len(found), float(ranks[found[order] > 0].sum()), float((tied**3 - tied).sum()))


def _wilcoxon_p(found: NDArray[np.float64], ranks: SignedRanks) -> float | None:
    """Return the p-value from the ranks where the sum of many is normal, as SciPy does; its own for a few images."""
    if len(found) < 2:
        return None
    if not ranks.ranked:
        return 1.0
    if len(found) <= MOST_EXACT:
        return float(stats.wilcoxon(found).pvalue)
    count = float(ranks.ranked)
    spread = np.sqrt((count * (count + 1) * (2 * count + 1) - ranks.ties / 2) / 24)
    return float(2 * special.ndtr(-abs((ranks.positive - count * (count + 1) / 4) / spread)))


def _rank_biserial(found: NDArray[np.float64], ranks: SignedRanks) -> float | None:
    if not len(found):
        return None
    total = ranks.ranked * (ranks.ranked + 1) / 2
    return (2 * ranks.positive - total) / total if ranks.ranked else 0.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for testing several hypotheses at once, in their own order.

    Source: Holm 1979, the step-down procedure.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values, kind="stable")
    factors = len(p_values) - np.arange(len(p_values))
    corrected = np.empty(len(p_values))
    corrected[order] = np.maximum.accumulate(np.minimum(1, factors * np.asarray(p_values, dtype=np.float64)[order]))
    return [float(p) for p in corrected]


def differences(first: ArrayLike, second: ArrayLike) -> NDArray[np.float64]:
    """Return first - second of the images for which both are finite, float64 [M].

    Raises:
        ValueError: The shapes differ.
    """
    one, other = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if one.shape != other.shape:
        raise ValueError(f"paired values must be of the same images, got shapes {one.shape} and {other.shape}")
    found = one - other
    kept: NDArray[np.float64] = found[np.isfinite(found)]
    return kept


def compare(wide: pd.DataFrame, intervals: Sequence[Interval]) -> list[dict[str, Any]]:
    """Compare every pair of explainers, in the order of `itertools.combinations`.

    Args:
        wide: Images x explainers of one metric, NaN where an image has no value.
        intervals: Of first - second, one for each pair.
    """
    entries: list[dict[str, Any]] = []
    columns = {name: np.ascontiguousarray(wide[name].to_numpy(dtype=np.float64)) for name in wide.columns}
    for (first, second), interval in zip(combinations(columns, 2), intervals, strict=True):
        found = differences(columns[first], columns[second])
        ranks = signed_ranks(found)
        entries.append(
            {
                "first": first,
                "second": second,
                "mean": interval.mean,
                "low": interval.low,
                "high": interval.high,
                "standard_error": interval.standard_error,
                "count": interval.count,
                "reason": interval.reason,
                "effect_size": _rank_biserial(found, ranks),
                "p_value": _wilcoxon_p(found, ranks),
                "p_holm": None,
            }
        )
    tested = [entry for entry in entries if entry["p_value"] is not None]
    for entry, corrected in zip(tested, holm([entry["p_value"] for entry in tested]), strict=True):
        entry["p_holm"] = corrected
    return entries
