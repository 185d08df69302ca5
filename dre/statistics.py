"""Honest statistics of a table of scores: bootstrap intervals, paired tests, min-max across explainers.

A table has one row per image, explainer and metric, with columns key, explainer, metric and value. SciPy does the
tests and draws the resamples; here is decided which images enter them.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

DRAWS_IN_MEMORY = 2_000_000
"""Resampled values held at once: 32 MB with their indices, whatever the number of images."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over images with its bootstrap interval.

    Args:
        mean: None without images.
        low: Lower end; None when there are too few images for a bootstrap.
        high: Upper end; None like `low`.
        standard_error: Standard deviation of the resampled means; None like `low`.
        count: Images that entered.
        reason: Why there is no interval; None when there is one.
    """

    mean: float | None
    low: float | None
    high: float | None
    standard_error: float | None
    count: int
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Normalised:
    """What the min-max across explainers gave.

    Args:
        frame: The rows, named `<metric>_normalised`.
        explainers: The set that the values depend on.
        degenerate: Images left out because all explainers have the same value.
        incomplete: Images left out because an explainer has no finite value.
    """

    frame: pd.DataFrame
    explainers: tuple[str, ...]
    degenerate: int
    incomplete: int


def bootstrap_mean(values: ArrayLike, resamples: int = 10_000, seed: int = 0, level: float = 0.95) -> Interval:
    """Mean of one value per image with its percentile bootstrap interval.

    NaN values are left out. The same seed and number of values draw the same images, so intervals of several
    explainers are made of the same resamples.

    Args:
        values: [N].
        resamples: Number of bootstrap samples.
        seed: Of the draws.
        level: Share of the resampled means inside the interval.
    """
    finite = np.asarray(values, dtype=np.float64)
    finite = finite[np.isfinite(finite)]
    count = len(finite)
    if count < 2:
        mean = float(finite[0]) if count else None
        return Interval(mean, None, None, None, count, f"a bootstrap needs at least 2 images, got {count}")
    result = stats.bootstrap(
        (finite,),
        np.mean,
        n_resamples=resamples,
        batch=max(1, DRAWS_IN_MEMORY // count),
        confidence_level=level,
        method="percentile",
        random_state=np.random.default_rng(seed),
    )
    low, high = result.confidence_interval
    return Interval(float(finite.mean()), float(low), float(high), float(result.standard_error), count)


def paired_difference(
    first: ArrayLike, second: ArrayLike, resamples: int = 10_000, seed: int = 0, level: float = 0.95
) -> Interval:
    """Mean over the common images of first - second, with its bootstrap interval.

    Args:
        first: [N], NaN where an image has no value.
        second: [N], the same images in the same order.
        resamples: Number of bootstrap samples.
        seed: Of the draws.
        level: Share of the resampled means inside the interval.
    """
    return bootstrap_mean(_differences(first, second), resamples, seed, level)


def wilcoxon_p(first: ArrayLike, second: ArrayLike) -> float | None:
    """Two-sided p-value of Wilcoxon's signed-rank test on the common images; None with fewer than 2.

    Images without a difference carry no rank; when there is no other, the p-value is 1.
    """
    differences = _differences(first, second)
    if len(differences) < 2:
        return None
    if not differences.any():
        return 1.0
    return float(stats.wilcoxon(differences).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for testing several hypotheses at once, in their own order (Holm's step-down)."""
    order = np.argsort(p_values, kind="stable")
    factors = len(p_values) - np.arange(len(p_values))
    corrected = np.empty(len(p_values))
    corrected[order] = np.maximum.accumulate(np.minimum(1, factors * np.asarray(p_values, dtype=np.float64)[order]))
    return [float(p) for p in corrected]


def normalise_across_explainers(frame: pd.DataFrame, metric: str) -> Normalised | None:
    """Scale the values of each image so that its worst explainer has 0 and its best 1, as paper 003 reports M_F.

    The values depend on which explainers are compared. None when there is but one: then nothing can be scaled.

    Args:
        frame: A table of scores; values that are not finite count as missing.
        metric: Whose rows are scaled.
    """
    wide = pivot(frame, metric)
    if wide.shape[1] < 2:
        return None
    complete = wide.dropna()
    low, spread = complete.min(axis=1), complete.max(axis=1) - complete.min(axis=1)
    varied = spread > 0
    scaled = complete[varied].sub(low[varied], axis=0).div(spread[varied], axis=0)
    rows = scaled.rename_axis(index="key", columns="explainer").stack().rename("value").reset_index()
    rows.insert(2, "metric", f"{metric}_normalised")
    return Normalised(rows, tuple(wide.columns), int((~varied).sum()), len(wide) - len(complete))


def pivot(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Give one metric as a table of images x explainers; a value that is missing or not finite is NaN."""
    wide = frame[frame["metric"] == metric].pivot(index="key", columns="explainer", values="value")
    return wide.where(np.isfinite(wide))


def summarise(
    frame: pd.DataFrame, normalised: str = "faithfulness", resamples: int = 10_000, seed: int = 0, level: float = 0.95
) -> dict[str, Any]:
    """Summarise a table of scores as plain values that JSON can hold.

    `scores[explainer][metric]` is the interval of the mean and how many values were `nan`. `comparisons[metric]`
    lists every pair of explainers: the interval of first - second on their common images, Wilcoxon's p-value, and
    the same after Holm's correction over the pairs of that metric. `normalised[name]` says what the min-max across
    explainers depends on and what it left out; without a second explainer it is empty.

    Args:
        frame: Columns key, explainer, metric and value.
        normalised: The metric that is also reported after min-max across explainers.
        resamples: Number of bootstrap samples.
        seed: Of the draws.
        level: Of the intervals.
    """
    scaled = normalise_across_explainers(frame, normalised)
    if scaled is not None:
        frame = pd.concat([frame, scaled.frame], ignore_index=True)
    drawing = {"resamples": resamples, "seed": seed, "level": level}
    metrics = sorted(frame["metric"].unique())
    return {
        **drawing,
        "explainers": sorted(frame["explainer"].unique()),
        "metrics": metrics,
        "scores": _scores(frame, drawing),
        "comparisons": {metric: _comparisons(pivot(frame, metric), drawing) for metric in metrics},
        "normalised": {} if scaled is None else {f"{normalised}_normalised": _provenance(scaled)},
    }


def _scores(frame: pd.DataFrame, drawing: dict[str, Any]) -> dict[str, dict[str, Any]]:
    scores: dict[str, dict[str, Any]] = {}
    for (explainer, metric), rows in frame.groupby(["explainer", "metric"]):
        values = rows["value"].to_numpy(dtype=np.float64)
        entry = asdict(bootstrap_mean(values, **drawing))
        scores.setdefault(explainer, {})[metric] = entry | {"nan": int((~np.isfinite(values)).sum())}
    return scores


def _comparisons(wide: pd.DataFrame, drawing: dict[str, Any]) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = []
    for first, second in combinations(wide.columns, 2):
        interval = asdict(paired_difference(wide[first], wide[second], **drawing))
        entries.append({"first": first, "second": second, **interval, "p_value": wilcoxon_p(wide[first], wide[second])})
    tested = [entry for entry in entries if entry["p_value"] is not None]
    for entry, corrected in zip(tested, holm([entry["p_value"] for entry in tested]), strict=True):
        entry["p_holm"] = corrected
    return [{"p_holm": None} | entry for entry in entries]


def _provenance(scaled: Normalised) -> dict[str, Any]:
    return {
        "explainers": list(scaled.explainers),
        "images": scaled.frame["key"].nunique(),
        "degenerate": scaled.degenerate,
        "incomplete": scaled.incomplete,
    }


def _differences(first: ArrayLike, second: ArrayLike) -> NDArray[np.float64]:
    one, other = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if one.shape != other.shape:
        raise ValueError(f"paired values must be of the same images, got shapes {one.shape} and {other.shape}")
    differences = one - other
    kept: NDArray[np.float64] = differences[np.isfinite(differences)]
    return kept
