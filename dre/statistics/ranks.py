"""Average ranks of explainers, with Friedman's test and Nemenyi's critical difference."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats


@dataclass(frozen=True, slots=True)
class Ranking:
    """Hold explainers by their average rank over the images; rank 1 is the best.

    Args:
        average: Average rank by explainer, best first.
        images: Images on which every explainer has a value.
        left_out: Images on which one has none.
        alpha: Level of the critical difference.
        statistic: Friedman's chi-squared; None with fewer than 3 explainers or 2 images.
        p_value: Friedman's: are there any differences at all; None like `statistic`.
        critical_difference: Nemenyi's: average ranks that differ by less are not told apart; None like `statistic`.
        groups: Largest runs of explainers, best first, whose ranks differ by less; empty like `statistic`.

    Example:
        >>> Ranking({"a": 1.0, "b": 2.0}, 10, 0, 0.05, None, None, None, []).average["a"]
        1.0
    """

    average: dict[str, float]
    images: int
    left_out: int
    alpha: float
    statistic: float | None
    p_value: float | None
    critical_difference: float | None
    groups: list[list[str]]


def rank_explainers(wide: pd.DataFrame, higher_is_better: bool, alpha: float = 0.05) -> Ranking | None:
    """Rank the explainers on each image and return their average ranks; equal values share the mean of their ranks.

    Return None with one explainer, or without an image on which all have a value.

    Args:
        wide: Images x explainers of one metric, NaN where an image has no value.
        higher_is_better: Which end gets rank 1.
        alpha: Level of the critical difference.

    Source: Demsar 2006, with images in the place of data sets.

    Example:
        >>> import pandas as pd
        >>> wide = pd.DataFrame({"a": [0.9, 0.8], "b": [0.5, 0.6]}, index=["cat", "dog"])
        >>> rank_explainers(wide, higher_is_better=True).average
        {'a': 1.0, 'b': 2.0}
    """
    complete = wide.dropna()
    if wide.shape[1] < 2 or complete.empty:
        return None
    values = complete.to_numpy(dtype=np.float64)
    ranks = stats.rankdata(-values if higher_is_better else values, axis=1).mean(axis=0)
    order = np.argsort(ranks, kind="stable")
    average = {str(wide.columns[place]): float(ranks[place]) for place in order}
    statistic = p_value = distance = None
    if values.shape[1] > 2 and len(values) > 1:
        statistic, p_value = _friedman(values)
        distance = critical_difference(values.shape[1], len(values), alpha)
    groups = [] if distance is None else indistinguishable(average, distance)
    left_out = len(wide) - len(complete)
    return Ranking(average, len(values), left_out, alpha, statistic, p_value, distance, groups)


def critical_difference(explainers: int, images: int, alpha: float = 0.05) -> float:
    """Return the least difference of two average ranks that Nemenyi's test calls significant.

    Args:
        explainers: Their number k, at least 2.
        images: Their number N.
        alpha: Level of the test.

    Source: Demsar 2006, q sqrt(k (k + 1) / (6 N)) with q the studentised range over sqrt(2).

    Example:
        >>> round(critical_difference(explainers=5, images=30), 3)
        1.114
    """
    quantile = float(stats.studentized_range.ppf(1 - alpha, explainers, np.inf)) / np.sqrt(2)
    return float(quantile * np.sqrt(explainers * (explainers + 1) / (6 * images)))


def indistinguishable(average: dict[str, float], distance: float) -> list[list[str]]:
    """Return the largest runs of explainers, best first, within which ranks differ by less than `distance`."""
    names, runs, reached = list(average), list[list[str]](), 0
    for first in range(len(names)):
        run = [name for name in names[first:] if average[name] - average[names[first]] < distance]
        if len(run) > 1 and first + len(run) > reached:  # not a part of the run before
            runs.append(run)
            reached = first + len(run)
    return runs


def _friedman(values: np.ndarray) -> tuple[float, float]:
    """Run Friedman's test on [images, explainers]; without any difference, the statistic is 0 and p is 1."""
    if (values == values[:, :1]).all():
        return 0.0, 1.0
    result = stats.friedmanchisquare(*values.T)
    return float(result.statistic), float(result.pvalue)
