"""Paired comparison of explainers of one table of scores, or of the same explainers in two tables or runs."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from dre.evaluation.scores import Scores, Side, chosen, names_in, side_of
from dre.statistics.intervals import DRAWING, Drawing, Interval, bootstrap_tables
from dre.statistics.paired import compare as compare_pairs
from dre.statistics.paired import differences, holm, paired_difference, rank_biserial, wilcoxon_p
from dre.statistics.tables import pivot

COLUMNS = ["mean", "low", "high", "standard_error", "count", "effect_size", "p_value", "p_holm", "better", "reason"]


def compare(
    first: Scores,
    second: Scores | None = None,
    *,
    reference: str | None = None,
    explainers: Sequence[str] | None = None,
    metrics: Sequence[str] | None = None,
    drawing: Drawing = DRAWING,
) -> pd.DataFrame:
    """Compare explainers on their common images: differences with 95 % bootstrap intervals and Wilcoxon's test.

    With one table every pair of explainers is compared, `first - second`; with two the same explainer in both, the
    first table minus the second. p-values are Holm's within a metric. What else differs between two runs, such as the
    classifier, is in `attrs["notes"]`; a metric that was computed otherwise is not compared, and `reason` says so.

    Args:
        first: A table of `dre.evaluate` or `scores.parquet`, or the directory of a run.
        second: Another one.
        reference: With one table, only the pairs with this explainer, which is then the first.
        explainers: Those to compare; all when not given.
        metrics: Those to compare; all when not given.
        drawing: How resamples are drawn.

    Returns:
        With one table the columns metric, first and second; with two metric, explainer, first and second (what they are
        called). Then mean, low, high, standard_error and count of the differences, effect_size (rank-biserial), p_value
        and p_holm, better (the side that the interval favours, by the metric's direction) and reason (why values lack).

    Raises:
        ValueError: A table lacks a column, nothing can be compared, or masked images were scored in two precisions.
        FileNotFoundError: There is no finished run in a directory.

    Example:
        >>> values = {"a": [0.5, 0.25, 0.5], "b": [0.25, 0.0, 0.25]}
        >>> rows = [(key, name, "faithfulness", one) for name in values for key, one in zip("xyz", values[name])]
        >>> frame = pd.DataFrame(rows, columns=["key", "explainer", "metric", "value"])
        >>> compare(frame)[["metric", "first", "second", "mean", "count"]].values.tolist()
        [['faithfulness', 'a', 'b', 0.25, 3]]
    """
    one = side_of(first, "first")
    if second is None:
        return _within(one, reference, explainers, metrics, drawing)
    if reference is not None:
        raise ValueError("`reference` is about one table; with two, each explainer is compared with itself")
    other = side_of(second, "second")
    if one.precision != other.precision:
        raise ValueError(
            f"the masked images of {one.name} were scored in {one.precision}, those of {other.name} in "
            f"{other.precision}, which moves scores; evaluate both alike"
        )
    if one.name == other.name:
        one, other = replace(one, name=f"{one.name} (first)"), replace(other, name=f"{other.name} (second)")
    return _between(one, other, explainers, metrics, drawing)


def _within(
    side: Side, reference: str | None, explainers: Sequence[str] | None, metrics: Sequence[str] | None, drawing: Drawing
) -> pd.DataFrame:
    names = chosen(explainers, names_in(side.frame, "explainer"), "explainer")
    if reference is not None:
        chosen([reference], names_in(side.frame, "explainer"), "explainer")
        names = [reference, *(name for name in names if name != reference)]
    if len(names) < 2:
        raise ValueError(f"one explainer alone ({', '.join(names)}) compares with nothing; give a second table or run")
    wanted = chosen(metrics, names_in(side.frame, "metric"), "metric")
    tables = [pivot(side.frame, metric).reindex(columns=names) for metric in wanted]
    found = bootstrap_tables([table.to_numpy(dtype=np.float64) for table in tables], drawing)
    rows = []
    for metric, table, (_, intervals) in zip(wanted, tables, found, strict=True):
        pairs = list(combinations(names, 2))
        kept = [place for place, pair in enumerate(pairs) if reference in (None, pair[0])]
        entries = compare_pairs(table, intervals)
        entries = _corrected([entries[place] for place in kept])
        rows += [_row({"metric": metric}, entry, side.directions.get(metric)) for entry in entries]
    frame = pd.DataFrame(rows, columns=["metric", "first", "second", *COLUMNS])
    frame.attrs["higher_is_better"] = {metric: side.directions.get(metric) for metric in wanted}
    return frame


def _between(
    one: Side, other: Side, explainers: Sequence[str] | None, metrics: Sequence[str] | None, drawing: Drawing
) -> pd.DataFrame:
    shared = [name for name in names_in(one.frame, "explainer") if name in names_in(other.frame, "explainer")]
    measured = [name for name in names_in(one.frame, "metric") if name in names_in(other.frame, "metric")]
    names, wanted = chosen(explainers, shared, "common explainer"), chosen(metrics, measured, "common metric")
    if not names or not wanted:
        raise ValueError(f"{one.name} and {other.name} have no {'metric' if names else 'explainer'} in common")
    images = set(one.frame["key"]) & set(other.frame["key"])
    if not images:
        raise ValueError(f"{one.name} and {other.name} have no image in common: no key is in both")
    rows = []
    for metric in wanted:
        direction = one.directions.get(metric, other.directions.get(metric))
        entries = []
        for name in names:
            entry = {"explainer": name, "first": one.name, "second": other.name}
            if _differ(one.settings, other.settings, metric):
                entries.append(entry | _nothing("the metric was computed with other settings"))
                continue
            entries.append(entry | _paired(pivot(one.frame, metric), pivot(other.frame, metric), name, drawing))
        rows += [_row({"metric": metric}, entry, direction) for entry in _corrected(entries)]
    frame = pd.DataFrame(rows, columns=["metric", "explainer", "first", "second", *COLUMNS])
    frame.attrs["notes"] = _notes(one, other, len(images))
    frame.attrs["higher_is_better"] = {
        metric: one.directions.get(metric, other.directions.get(metric)) for metric in wanted
    }
    return frame


def _differ(first: Mapping[str, Any], second: Mapping[str, Any], metric: str) -> bool:
    """Return whether a metric is known to have been computed with other settings."""
    base = metric.removesuffix("_normalised")
    return base in first and base in second and first[base] != second[base]


def _paired(first: pd.DataFrame, second: pd.DataFrame, name: str, drawing: Drawing) -> dict[str, Any]:
    if name not in first or name not in second:
        return _nothing("one side has no value of it")
    keys = first.index.intersection(second.index)
    values = first.loc[keys, name].to_numpy(np.float64), second.loc[keys, name].to_numpy(np.float64)
    if not len(differences(*values)):
        return _nothing("no image has a value on both sides")
    interval = paired_difference(*values, drawing)
    return _of(interval) | {"effect_size": rank_biserial(*values), "p_value": wilcoxon_p(*values)}


def _of(interval: Interval) -> dict[str, Any]:
    return {name: getattr(interval, name) for name in ("mean", "low", "high", "standard_error", "count", "reason")}


def _nothing(reason: str) -> dict[str, Any]:
    return _of(Interval(None, None, None, None, 0, reason)) | {"effect_size": None, "p_value": None}


def _corrected(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return entries with p-values after Holm's correction over those that are listed."""
    tested = [entry for entry in entries if entry["p_value"] is not None]
    corrected = holm([entry["p_value"] for entry in tested])
    by_entry = {id(entry): value for entry, value in zip(tested, corrected, strict=True)}
    return [entry | {"p_holm": by_entry.get(id(entry))} for entry in entries]


def _row(lead: dict[str, Any], entry: dict[str, Any], direction: bool | None) -> dict[str, Any]:
    """Return a row, with the side that the interval favours where the metric has a direction."""
    low, high = entry["low"], entry["high"]
    better = ""
    if direction is not None and low is not None and high is not None and (low > 0 or high < 0):
        better = entry["first"] if (low > 0) == direction else entry["second"]
    return lead | entry | {"better": better, "reason": entry["reason"] or ""}


def _notes(one: Side, other: Side, images: int) -> list[str]:
    """Say what beside the explainers differs between two sides."""
    counts = one.frame["key"].nunique(), other.frame["key"].nunique()
    notes = []
    if images < max(counts):
        notes.append(f"{images} images are in both: {one.name} has {counts[0]}, {other.name} {counts[1]}")
    for what, value in one.made_of.items():
        if what in other.made_of and other.made_of[what] != value:
            notes.append(f"{what}: {value} in {one.name}, {other.made_of[what]} in {other.name}")
    if "target" in one.frame and "target" in other.frame:
        targets = [side.frame.drop_duplicates("key").set_index("key")["target"] for side in (one, other)]
        keys = targets[0].index.intersection(targets[1].index)
        one_side, other_side = (side.loc[keys].astype("Float64") for side in targets)
        changed = int((one_side != other_side).fillna(False).sum())
        if changed:
            notes.append(f"another class was explained for {changed} of {images} images")
    return notes
