"""Summary of a table of scores as plain values: means with intervals, counts, paired comparisons and ranks."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from dre.statistics.intervals import (
    DRAWING,
    Drawing,
    Interval,
    bootstrap_means,
    bootstrap_tables,
    crossed_mean,
)
from dre.statistics.paired import compare
from dre.statistics.ranks import rank_explainers
from dre.statistics.tables import pivot, scale_across_explainers

Directions = Mapping[str, bool | None]
"""By metric: whether higher is better; None, or no entry, where neither end is better."""


def summarise(
    frame: pd.DataFrame,
    directions: Directions | None = None,
    normalised: str = "faithfulness",
    drawing: Drawing = DRAWING,
    order: Sequence[str] = (),
    explained: int | None = None,
    without_value: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Summarise a table of scores as plain values that JSON can hold.

    - `scores[explainer][metric]`: the interval of the mean, how many values were `nan` and how many images were
      `skipped`, which were explained and have no value of that metric.
    - `comparisons[metric]`: every pair of explainers on their common images: the interval of first - second, Wilcoxon's
      p-value, the same after Holm's correction over the pairs of that metric, and the effect size.
    - `ranks[metric]`: average ranks, Friedman's test and Nemenyi's critical difference, of metrics with a direction.
    - `without_value[metric]`: why a metric has no value for any image; it is among the metrics all the same.
    - `normalised[name]`: what the min-max across explainers depends on and what it left out; without a second
      explainer it is empty.

    Args:
        frame: Columns key, explainer, metric and value.
        directions: By metric, whether higher is better; without an entry explainers are not ranked by it. Their order
            is that of the tables; others follow by name.
        normalised: The metric that is also reported after min-max across explainers.
        drawing: How resamples are drawn.
        order: Of the explainers in the tables; others follow by name.
        explained: How many images were explained; by default those with a row, which leaves out images without any.
        without_value: By metric that was computed and has no row, the reason.

    Raises:
        ValueError: An explainer has two values of a metric for an image.
        KeyError: A column is missing.

    Example:
        >>> import pandas as pd
        >>> rows = [("cat", "a", 0.9), ("dog", "a", 0.7), ("cat", "b", 0.5), ("dog", "b", 0.6)]
        >>> frame = pd.DataFrame(rows, columns=["key", "explainer", "value"]).assign(metric="deletion")
        >>> summary = summarise(frame, {"deletion": False}, drawing=Drawing(resamples=100))
        >>> round(summary["scores"]["a"]["deletion"]["mean"], 3), summary["ranks"]["deletion"]["average"]
        (0.8, {'b': 1.0, 'a': 2.0})
    """
    images = int(frame["key"].nunique()) if explained is None else explained
    known = dict(directions or {})
    missing = dict(without_value or {})
    explainers = _arranged(frame["explainer"], order, order if missing and frame.empty else ())
    metrics = _arranged(frame["metric"], list(known), missing)
    tables = {metric: pd.DataFrame() if metric in missing else pivot(frame, metric) for metric in metrics}
    present: dict[tuple[str, str], int] = {}
    for metric in tables:  # one after the other: groups of all rows would take several times the table
        counts = frame["explainer"][frame["metric"] == metric].value_counts()
        present |= {(metric, str(explainer)): int(count) for explainer, count in counts.items()}
    scaled = scale_across_explainers(tables[normalised]) if normalised in tables else None
    derived = f"{normalised}_normalised"
    if scaled is not None:
        known[derived], tables[derived] = known.get(normalised), scaled[0] if len(scaled[0]) else pd.DataFrame()
        present |= {(derived, explainer): len(scaled[0]) for explainer in scaled[0].columns}
        metrics.insert(metrics.index(normalised) + 1, derived)
    intervals = bootstrap_tables([tables[metric].to_numpy(dtype=np.float64) for metric in metrics], drawing)
    found = dict(zip(metrics, intervals, strict=True))
    parts = {metric: dict(zip(tables[metric].columns, found[metric][0], strict=True)) for metric in metrics}
    return {
        **asdict(drawing),
        "explainers": explainers,
        "metrics": metrics,
        "directions": {metric: known.get(metric) for metric in metrics},
        "explained": images,
        "scores": {
            name: {
                metric: _entry(parts[metric].get(name), present.get((metric, name), 0), images) for metric in metrics
            }
            for name in explainers
        },
        "comparisons": {metric: compare(tables[metric], found[metric][1]) for metric in metrics},
        "ranks": _ranks(tables, {metric: known.get(metric) for metric in metrics}),
        "without_value": missing,
        "normalised": {} if scaled is None else {derived: _provenance(*scaled)},
    }


def _arranged(names: pd.Series, order: Sequence[str], more: Collection[str] = ()) -> list[str]:
    """Return the names that occur, and some more, in this order, and others behind them by name."""
    found = {*names.unique(), *more}
    return [name for name in order if name in found] + sorted(found.difference(order))


def _entry(interval: Interval | None, present: int, images: int) -> dict[str, Any]:
    """Return the interval of an explainer's mean, and how many values were NaN and how many images were skipped."""
    if interval is None:
        interval = Interval(None, None, None, None, 0, "a bootstrap needs at least 2 images, got 0")
    return asdict(interval) | {"nan": present - interval.count, "skipped": images - present}


def _ranks(tables: Mapping[str, pd.DataFrame], directions: Directions) -> dict[str, Any]:
    ranks = {}
    for metric, higher_is_better in directions.items():
        ranking = None if higher_is_better is None else rank_explainers(tables[metric], higher_is_better)
        if ranking is not None:
            ranks[metric] = asdict(ranking)
    return ranks


def _provenance(scaled: pd.DataFrame, degenerate: int, incomplete: int) -> dict[str, Any]:
    return {
        "explainers": list(scaled.columns),
        "images": len(scaled),
        "degenerate": degenerate,
        "incomplete": incomplete,
    }


def _over_images(frame: pd.DataFrame, drawing: Drawing) -> dict[Any, Interval]:
    """Return the interval of each point."""
    if "draw" in frame:
        drawn = frame.pivot(index=[*POINT, "key"], columns="draw", values="value")
        return {point: crossed_mean(group.to_numpy(dtype=np.float64), drawing) for point, group in drawn.groupby(POINT)}
    wide = frame.pivot(index="key", columns=POINT, values="value").sort_index(axis=1)
    intervals = bootstrap_means(wide.to_numpy(dtype=np.float64), drawing)
    return dict(zip(wide.columns, intervals, strict=True))


POINT = ["explainer", "quantity", "x"]
"""Columns that identify a point."""


def summarise_points(frame: pd.DataFrame, drawing: Drawing = DRAWING) -> pd.DataFrame:
    """Summarise values over the images: one row for each explainer, quantity and x.

    Mean, median and the bootstrap interval are those of the finite values, whose number is `count`; `undefined` counts
    NaN values and `infinite` infinite ones. A statistic without enough values is NaN. Where points were drawn several
    times, the mean is that of the images that have a finite value in every draw, and its interval is over images and
    draws, see `crossed_mean`.

    Args:
        frame: Columns key, explainer, quantity, x and value, a row for each image and point; with a column `draw`, one
            for each draw as well.
        drawing: How resamples are drawn.

    Example:
        >>> import pandas as pd
        >>> rows = [("cat", "a", "drop", 0.5, 1.0), ("dog", "a", "drop", 0.5, 3.0)]
        >>> frame = pd.DataFrame(rows, columns=["key", "explainer", "quantity", "x", "value"])
        >>> summarise_points(frame, Drawing(resamples=100))[["quantity", "x", "mean", "count"]]
          quantity    x  mean  count
        0     drop  0.5   2.0      2
    """
    columns = [*POINT, "mean", "low", "high", "standard_error", "median", "count", "undefined", "infinite"]
    if frame.empty:
        return pd.DataFrame(columns=columns)
    values = {point: group.to_numpy(dtype=np.float64) for point, group in frame.groupby(POINT)["value"]}
    rows = []
    for point, interval in _over_images(frame, drawing).items():
        found = values[point]
        finite = found[np.isfinite(found)]
        median = float(np.median(finite)) if len(finite) else np.nan
        ends = (interval.mean, interval.low, interval.high, interval.standard_error)
        counts = (len(finite), int(np.isnan(found).sum()), int(np.isinf(found).sum()))
        rows.append((*point, *(np.nan if end is None else end for end in ends), median, *counts))
    return pd.DataFrame(rows, columns=columns)
