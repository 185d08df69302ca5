"""What one cell of a table says, the same in Markdown and in HTML."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

UNSCALED = ("pearson_skewness",)
"""Metrics that are no shares of 1 and are printed as they are."""

LEARNED = ("dre", "mgnet")
"""Names of explainers that others are compared with unless a run says otherwise."""

ALPHA = 0.05
"""Level below which a corrected p-value tells two explainers apart."""

Entry = Mapping[str, Any]
"""A score or a comparison as `dre.statistics.summarise` gives it."""


def scales(summary: Mapping[str, Any], unscaled: Collection[str] = UNSCALED) -> dict[str, float]:
    """Give the factor that each metric is printed with: 100, or 1 for what is no share.

    A summary may name what is no share itself, under `unscaled`.
    """
    unscaled = summary.get("unscaled", unscaled)
    return {metric: 1.0 if metric in unscaled else 100.0 for metric in summary["metrics"]}


def exceptions(factors: Mapping[str, float]) -> str:
    """Name the metrics that are printed without the factor 100."""
    plain = [metric for metric, factor in factors.items() if factor == 1]
    return f" ({', '.join(plain)} as it is)" if plain else ""


def number(value: float | None, factor: float = 1.0) -> str:
    """Write a value with one digit when it is scaled and two when it is not; a dash when there is none.

    A value that these digits would round to nothing is written with a power of ten.
    """
    if value is None:
        return "-"
    text = f"{value * factor:.{digits(factor)}f}"
    return text if float(text) or not value else f"{value * factor:.1e}"


def digits(factor: float) -> int:
    """Digits behind the point that a metric is printed with."""
    return 1 if factor > 1 else 2


def range_text(entry: Entry, factor: float) -> str:
    """Write the interval; nothing when there is none."""
    if entry["low"] is None:
        return ""
    return f"[{number(entry['low'], factor)}, {number(entry['high'], factor)}]"


def cell(entry: Entry | None, factor: float) -> str:
    """Write mean and interval and, of a comparison, the corrected p-value."""
    if entry is None or entry["mean"] is None:
        return "-"
    text = f"{number(entry['mean'], factor)} {range_text(entry, factor)}".rstrip()
    if entry.get("p_holm") is not None:
        text += f", p {p_text(entry['p_holm'])}"
    return text


def p_text(p_value: float | None) -> str:
    """Write a p-value with its relation."""
    if p_value is None:
        return "-"
    return "< 0.001" if p_value < 0.001 else f"= {p_value:.3f}"


def turned(comparisons: list[dict[str, Any]], first: str, second: str) -> dict[str, Any] | None:
    """Find a comparison and turn it so that it reads first - second."""
    for entry in comparisons:
        if (entry["first"], entry["second"]) == (first, second):
            return entry
        if (entry["first"], entry["second"]) == (second, first):
            return {
                **entry,
                "first": first,
                "second": second,
                "mean": _negative(entry["mean"]),
                "low": _negative(entry["high"]),
                "high": _negative(entry["low"]),
                "effect_size": _negative(entry["effect_size"]),
            }
    return None


def choose_reference(names: Collection[str], reference: str | None = None) -> str:
    """Give the explainer that others are compared with: the wanted one, or a learned one, or else the first."""
    return reference or next((name for name in LEARNED if name in names), next(iter(names)))


def _negative(value: float | None) -> float | None:
    return None if value is None else -value


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], texts: int = 1) -> str:
    """Write a table whose first columns are texts; the others are figures, to the right."""
    marks = ["---"] * texts + ["---:"] * (len(header) - texts)
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, marks, *rows))
