"""A summary of scores as text that a person reads."""

from collections.abc import Collection, Sequence
from typing import Any

UNSCALED = ("pearson_skewness",)
"""Metrics that are no shares of 1 and are printed as they are."""


def summary_markdown(
    summary: dict[str, Any],
    reference: str | None = None,
    explainers: Sequence[str] | None = None,
    unscaled: Collection[str] = UNSCALED,
) -> str:
    """Write what `dre.statistics.summarise` gives as Markdown tables, x 100: means, then differences.

    Args:
        summary: Of a table of scores.
        reference: The explainer that the others are subtracted from; by default `dre`, or else the first.
        explainers: Order of the rows; all of them, alphabetically, when not given.
        unscaled: Metrics that are printed without the factor 100.
    """
    names = list(explainers or summary["explainers"])
    unknown = sorted({*names, *([reference] if reference else [])} - set(summary["explainers"]))
    if unknown:
        raise ValueError(f"unknown explainer {unknown[0]!r}; the summary has {', '.join(summary['explainers'])}")
    if not names:
        return "No scores.\n"
    reference = reference or ("dre" if "dre" in names else names[0])
    scales = {metric: 1.0 if metric in unscaled else 100.0 for metric in summary["metrics"]}
    parts = [_means(summary, names, scales), *_notes(summary, names)]
    if len(names) > 1:
        parts.append(_differences(summary, names, scales, reference))
    return "\n\n".join(parts) + "\n"


def _means(summary: dict[str, Any], names: Sequence[str], scales: dict[str, float]) -> str:
    scores = summary["scores"]
    rows = [[name, *(_cell(scores[name].get(metric), scale) for metric, scale in scales.items())] for name in names]
    title = f"Means over images with {summary['level']:.0%} bootstrap intervals, x 100{_exceptions(scales)}."
    return f"{title}\n\n{_table(['explainer', *scales], rows)}"


def _notes(summary: dict[str, Any], names: Sequence[str]) -> list[str]:
    """Say what the numbers depend on and what is not in them."""
    notes = []
    for metric, origin in summary["normalised"].items():
        notes.append(
            f"`{metric}` is scaled per image across {', '.join(origin['explainers'])}: {origin['images']} images; "
            f"left out: {origin['degenerate']} where all explainers tie, {origin['incomplete']} where one has no value."
        )
    for name in names:
        for metric, entry in summary["scores"][name].items():
            if entry["nan"]:
                notes.append(f"{name}, `{metric}`: {entry['nan']} images have no finite value and are not averaged.")
    return notes


def _differences(summary: dict[str, Any], names: Sequence[str], scales: dict[str, float], reference: str) -> str:
    rivals = [name for name in names if name != reference]
    rows = []
    for rival in rivals:
        pairs = {metric: _pair(summary["comparisons"][metric], reference, rival) for metric in scales}
        rows.append([f"{reference} - {rival}", *(_cell(pairs[metric], scale) for metric, scale in scales.items())])
    title = (
        f"Paired differences from {reference} on common images, x 100{_exceptions(scales)}; "
        "p is Wilcoxon's after Holm's correction over all pairs of the metric."
    )
    return f"{title}\n\n{_table(['difference', *scales], rows)}"


def _pair(comparisons: list[dict[str, Any]], reference: str, rival: str) -> dict[str, Any] | None:
    """Find a comparison and turn it so that it reads reference - rival."""
    for entry in comparisons:
        if (entry["first"], entry["second"]) == (reference, rival):
            return entry
        if (entry["first"], entry["second"]) == (rival, reference):
            return {
                **entry,
                "mean": _negative(entry["mean"]),
                "low": _negative(entry["high"]),
                "high": _negative(entry["low"]),
            }
    return None


def _negative(value: float | None) -> float | None:
    return None if value is None else -value


def _cell(entry: dict[str, Any] | None, scale: float) -> str:
    if entry is None or entry["mean"] is None:
        return "-"
    digits = 1 if scale > 1 else 2
    text = f"{entry['mean'] * scale:.{digits}f}"
    if entry["low"] is not None:
        text += f" [{entry['low'] * scale:.{digits}f}, {entry['high'] * scale:.{digits}f}]"
    if entry.get("p_holm") is not None:
        text += f", p {_p_text(entry['p_holm'])}"
    return text


def _p_text(p_value: float) -> str:
    return "< 0.001" if p_value < 0.001 else f"= {p_value:.3f}"


def _exceptions(scales: dict[str, float]) -> str:
    plain = [metric for metric, scale in scales.items() if scale == 1]
    return f" ({', '.join(plain)} as it is)" if plain else ""


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
