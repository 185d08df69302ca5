"""A summary of scores as text that a person reads: what fits on a screen, and everything else after it."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from dre.reporting.cells import (
    UNSCALED,
    cell,
    choose_reference,
    digits,
    exceptions,
    markdown_table,
    number,
    p_text,
    range_text,
    scales,
    turned,
)

COLUMNS = 4
"""Metrics side by side in one table."""


def summary_markdown(
    summary: dict[str, Any],
    reference: str | None = None,
    explainers: Sequence[str] | None = None,
    unscaled: Collection[str] = UNSCALED,
) -> str:
    """Write what `dre.statistics.summarise` gives as Markdown tables, x 100: means, then differences.

    Args:
        summary: Of a table of scores.
        reference: The explainer that the others are subtracted from; by default a learned one, or else the first.
        explainers: Order of the rows; all of them, as the summary orders them, when not given.
        unscaled: Metrics that are printed without the factor 100.
    """
    names = list(explainers or summary["explainers"])
    if not names:
        return "No scores.\n"
    unknown = sorted({*names, *([reference] if reference else [])} - set(summary["explainers"]))
    if unknown:
        raise ValueError(f"unknown explainer {unknown[0]!r}; the summary has {', '.join(summary['explainers'])}")
    factors = scales(summary, unscaled)
    parts = [_means(summary, names, factors), *_notes(summary, names)]
    if len(names) > 1:
        parts.append(_differences(summary, names, factors, choose_reference(names, reference)))
    return "\n\n".join(parts) + "\n"


def details_markdown(summary: dict[str, Any], unscaled: Collection[str] = UNSCALED) -> str:
    """Write the rest of the summary, metric by metric: errors and counts, ranks, all pairs of explainers.

    Args:
        summary: Of a table of scores.
        unscaled: Metrics that are printed without the factor 100.
    """
    parts = []
    for metric, factor in scales(summary, unscaled).items():
        parts += [f"## {metric}{', x 100' if factor > 1 else ''}", _scores(summary, metric, factor)]
        if metric in summary["ranks"]:
            parts.append(ranks_text(summary["ranks"][metric]))
        if summary["comparisons"][metric]:
            parts.append(_pairs(summary["comparisons"][metric], factor))
    return "\n\n".join(parts) + "\n" if parts else ""


def origins(summary: Mapping[str, Any]) -> list[str]:
    """Say what the values depend on that are scaled across explainers."""
    return [
        f"`{metric}` is scaled per image across {', '.join(origin['explainers'])}: {origin['images']} images; "
        f"left out: {origin['degenerate']} where all explainers tie, {origin['incomplete']} where one has no value."
        for metric, origin in summary["normalised"].items()
    ]


def _notes(summary: dict[str, Any], names: Sequence[str]) -> list[str]:
    """Say what the numbers depend on and what is not in them."""
    lines = origins(summary)
    for metric in summary["metrics"]:
        if metric not in summary["normalised"]:
            lines += _missing(summary, metric, names)
    return lines


def ranks_text(ranks: dict[str, Any]) -> str:
    """Say in words how the explainers rank and which of them are not told apart."""
    average = ", ".join(f"{name} {rank:.2f}" for name, rank in ranks["average"].items())
    text = f"Average ranks over {ranks['images']} images, 1 is best: {average}."
    if ranks["critical_difference"] is None:
        return text
    groups = "; ".join(", ".join(group) for group in ranks["groups"])
    return (
        f"{text} Friedman's chi-squared {ranks['statistic']:.1f}, p {p_text(ranks['p_value'])}; ranks that differ by "
        f"less than {ranks['critical_difference']:.2f} (Nemenyi, {ranks['alpha']:g}) are not told apart: "
        f"{groups or 'none'}."
    )


def _missing(summary: dict[str, Any], metric: str, names: Sequence[str]) -> list[str]:
    """Count the images without a value, once where all explainers miss equally many."""
    lines = []
    for kind, text in (
        ("nan", "{} images have no finite value and are not averaged."),
        ("skipped", f"{{}} of {summary['explained']} images were skipped."),
    ):
        counts = {name: summary["scores"][name][metric][kind] for name in names}
        if len(set(counts.values())) == 1:
            counts = {"every explainer": counts[names[0]]}
        lines += [f"{who}, `{metric}`: {text.format(count)}" for who, count in counts.items() if count]
    return lines


def _blocks(factors: dict[str, float]) -> Iterator[dict[str, float]]:
    """Cut the metrics into as many as a table has room for."""
    entries = list(factors.items())
    for start in range(0, len(entries), COLUMNS):
        yield dict(entries[start : start + COLUMNS])


def _means(summary: dict[str, Any], names: Sequence[str], factors: dict[str, float]) -> str:
    scores = summary["scores"]
    parts = [f"Means over images with {summary['level']:.0%} bootstrap intervals, x 100{exceptions(factors)}."]
    for block in _blocks(factors):
        rows = [[name, *(cell(scores[name][metric], factor) for metric, factor in block.items())] for name in names]
        parts.append(markdown_table(["explainer", *block], rows))
    return "\n\n".join(parts)


def _differences(summary: dict[str, Any], names: Sequence[str], factors: dict[str, float], reference: str) -> str:
    parts = [
        f"Paired differences from {reference} on common images, x 100{exceptions(factors)}; "
        "p is Wilcoxon's after Holm's correction over all pairs of the metric."
    ]
    for block in _blocks(factors):
        rows = []
        for rival in (name for name in names if name != reference):
            pairs = {metric: turned(summary["comparisons"][metric], reference, rival) for metric in block}
            rows.append([f"{reference} - {rival}", *(cell(pairs[metric], factor) for metric, factor in block.items())])
        parts.append(markdown_table(["difference", *block], rows))
    return "\n\n".join(parts)


def _scores(summary: dict[str, Any], metric: str, factor: float) -> str:
    rows = []
    for name in summary["explainers"]:
        entry = summary["scores"][name][metric]
        error = "-" if entry["standard_error"] is None else f"{entry['standard_error'] * factor:.{digits(factor) + 1}f}"
        counts = [str(entry[count]) for count in ("count", "nan", "skipped")]
        rows.append([name, number(entry["mean"], factor), error, range_text(entry, factor) or "-", *counts])
    header = ["explainer", "mean", "standard error", f"{summary['level']:.0%} interval", "images", "NaN", "skipped"]
    return markdown_table(header, rows)


def _pairs(comparisons: Sequence[dict[str, Any]], factor: float) -> str:
    rows = []
    for entry in comparisons:
        difference = [f"{entry['first']} - {entry['second']}", number(entry["mean"], factor)]
        tests = [p_text(entry["p_value"]), p_text(entry["p_holm"]), number(entry["effect_size"])]
        rows.append([*difference, range_text(entry, factor) or "-", *tests, str(entry["count"])])
    header = ["difference", "mean", "interval", "Wilcoxon's p", "after Holm", "rank-biserial", "common images"]
    return markdown_table(header, rows)
