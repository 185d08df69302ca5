"""summary.md: a summary of scores as Markdown tables, means and differences first, then all details by metric."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from dre.reporting.cells import (
    PAIR_COLUMNS,
    UNSCALED,
    Cell,
    cell,
    choose_reference,
    digits,
    exceptions,
    markdown_table,
    mean_rows,
    number,
    p_text,
    pair_rows,
    range_text,
    scales,
    turned,
    with_arrow,
)

COLUMNS = 4
"""Metrics side by side in one table."""


def summary_markdown(
    summary: dict[str, Any],
    reference: str | None = None,
    explainers: Sequence[str] | None = None,
    unscaled: Collection[str] = UNSCALED,
    arrows: bool = False,
) -> str:
    """Write what `dre.statistics.summarise` returns as Markdown tables, x 100: means, then differences.

    Args:
        summary: Of a table of scores.
        reference: The explainer that the others are subtracted from; by default a learned one, or else the first.
        explainers: Order of the rows; all of them, as the summary orders them, when not given.
        unscaled: Metrics that are printed without the factor 100.
        arrows: Whether an arrow beside each metric points to its better end.

    Raises:
        ValueError: An explainer is not part of the summary.

    Example:
        >>> import pandas as pd
        >>> from dre.statistics import summarise
        >>> rows = [("cat", "random", "deletion", 0.2), ("dog", "random", "deletion", 0.4)]
        >>> frame = pd.DataFrame(rows, columns=["key", "explainer", "metric", "value"])
        >>> print(summary_markdown(summarise(frame)))
        Means over images with 95% bootstrap intervals, x 100.
        <BLANKLINE>
        | explainer | deletion |
        | --- | ---: |
        | random | 30.0 [20.0, 40.0] |
        <BLANKLINE>
    """
    names = list(explainers or summary["explainers"])
    if not names:
        return "No scores.\n"
    unknown = sorted({*names, *([reference] if reference else [])} - set(summary["explainers"]))
    if unknown:
        raise ValueError(f"unknown explainer {unknown[0]!r}; the summary has {', '.join(summary['explainers'])}")
    factors = scales(summary, unscaled)
    directions = summary["directions"] if arrows else {}
    heads = [with_arrow(metric, directions) for metric in factors]
    parts = [_means(summary, names, factors, heads), *_notes(summary, names)]
    if len(names) > 1:
        parts.append(_differences(summary, names, factors, choose_reference(names, reference), heads))
    return "\n\n".join(parts) + "\n"


def details_markdown(summary: dict[str, Any], unscaled: Collection[str] = UNSCALED) -> str:
    """Write the rest of the summary, metric by metric: errors and counts, ranks, all pairs of explainers.

    Args:
        summary: Of a table of scores.
        unscaled: Metrics that are printed without the factor 100.

    Example:
        >>> import pandas as pd
        >>> from dre.statistics import summarise
        >>> frame = pd.DataFrame([("cat", "random", "deletion", 0.2)], columns=["key", "explainer", "metric", "value"])
        >>> print(details_markdown(summarise(frame)))
        ## deletion, x 100
        <BLANKLINE>
        | explainer | mean | standard error | 95% interval | images | NaN | skipped |
        | --- | ---: | ---: | ---: | ---: | ---: | ---: |
        | random | 20.0 | - | - | 1 | 0 | 0 |
        <BLANKLINE>
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
    """List the explainers and images that values scaled across explainers depend on, a sentence for each metric."""
    return [
        f"`{metric}` is scaled per image across {', '.join(origin['explainers'])}: {origin['images']} images; "
        f"left out: {origin['degenerate']} where all explainers tie, {origin['incomplete']} where one has no value."
        for metric, origin in summary["normalised"].items()
    ]


def reasons(summary: Mapping[str, Any]) -> list[str]:
    """Say why metrics have no value for any image, a sentence for each."""
    return [f"`{metric}` has no value: {reason}." for metric, reason in summary.get("without_value", {}).items()]


def annotation_lines(summary: Mapping[str, Any], metrics: Sequence[str] | None = None) -> list[str]:
    """Say what gives the objects that metrics compare maps with, a sentence; nothing where no metric reads objects.

    Args:
        summary: Of a run, with its `annotations`; one of an earlier version has none.
        metrics: Those that are shown; by default all that read objects.

    Example:
        >>> annotation_lines({"annotations": {"mask": 5, "box": 0, "none": 1, "metrics": ["explainability"]}})
        ['`explainability`: objects are masks in 5 images; 1 without.']
    """
    found = summary.get("annotations") or {}
    shown = found.get("metrics", []) if metrics is None else metrics
    if not shown or not (found["mask"] or found["box"]):
        return []
    names = ", ".join(f"`{metric}`" for metric in shown)
    given = " and ".join(f"{kind} in {count} image{'s' * (count != 1)}" for kind, count in _given(found).items())
    mixed = ", which the column `annotation` of scores.parquet tells apart" if len(_given(found)) > 1 else ""
    without = f"; {found['none']} without" if found["none"] else ""
    return [f"{names}: objects are {given}{mixed}{without}."]


def _given(annotations: Mapping[str, Any]) -> dict[str, int]:
    counts = {"masks": annotations["mask"], "boxes": annotations["box"]}
    return {kind: count for kind, count in counts.items() if count}


def recipe_lines(recipes: Mapping[str, Mapping[str, Any] | None]) -> dict[str, str]:
    """Say how the trainings of learned explainers of one kind differ, a line for each; no line without two of a kind.

    Args:
        recipes: Options of the training by explainer; None where its checkpoint does not hold them.

    Example:
        >>> recipe_lines({"dre": {"variant": "dre", "lr": 0.01}, "dre_published": {"variant": "dre", "lr": 0.1}})
        {'dre': 'lr 0.01', 'dre_published': 'lr 0.1'}
    """
    lines = {}
    for name, recipe in recipes.items():
        if recipe is None:
            if len(recipes) > 1:
                lines[name] = "not in its checkpoint, which is of an earlier version"
            continue
        alike = [one for one in recipes.values() if one is not None and one.get("variant") == recipe.get("variant")]
        options = dict.fromkeys(option for one in alike for option in one)
        differing = [option for option in options if any(one.get(option) != recipe.get(option) for one in alike)]
        said = ", ".join(f"{option} {_option(recipe.get(option))}" for option in differing)
        if len(alike) > 1:
            lines[name] = said or "that of the others"
    return lines


def _option(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name} {_option(one)}" for name, one in value.items()) + "}"
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _notes(summary: dict[str, Any], names: Sequence[str]) -> list[str]:
    """List what the numbers depend on and what is missing from them."""
    lines = origins(summary)
    lines += [f"Recipe of `{name}`: {line}." for name, line in recipe_lines(summary.get("recipes", {})).items()]
    lines += annotation_lines(summary) + reasons(summary)
    for metric in summary["metrics"]:
        if metric not in summary["normalised"] and metric not in summary.get("without_value", {}):
            lines += _missing(summary, metric, names)
    return lines


WHICH_TEST = (
    "Whether two explainers differ is decided by Wilcoxon's test on the images that both have, after Holm's "
    "correction. Average ranks with Nemenyi's distance show all explainers at once, on the images that all have; "
    "they are more cautious, and decide nothing."
)
"""Why a report has two tests, and which of them counts."""


def ranks_text(ranks: dict[str, Any]) -> str:
    """Describe how the explainers rank and which of them are not told apart."""
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


def _in_blocks(lead: str, header: Sequence[str], rows: Sequence[Sequence[Cell | str]]) -> str:
    """Write a sentence and tables of at most `COLUMNS` metrics, which the first column heads."""
    parts = [lead]
    for start in range(1, len(header), COLUMNS):
        some = slice(start, start + COLUMNS)
        parts.append(markdown_table([header[0], *header[some]], [[row[0], *row[some]] for row in rows]))
    return "\n\n".join(parts)


def _means(summary: dict[str, Any], names: Sequence[str], factors: dict[str, float], heads: Sequence[str]) -> str:
    lead = f"Means over images with {summary['level']:.0%} bootstrap intervals, x 100{exceptions(factors)}."
    return _in_blocks(lead, ["explainer", *heads], mean_rows(summary, names, factors))


def _differences(
    summary: dict[str, Any], names: Sequence[str], factors: dict[str, float], reference: str, heads: Sequence[str]
) -> str:
    lead = (
        f"Paired differences from {reference} on common images, x 100{exceptions(factors)}; "
        f"p is Wilcoxon's after Holm's correction over all pairs of the metric. {WHICH_TEST}"
    )
    rows = []
    for other in (name for name in names if name != reference):
        pairs = [cell(turned(summary["comparisons"][metric], reference, other), factors[metric]) for metric in factors]
        rows.append([f"{reference} - {other}", *pairs])
    return _in_blocks(lead, ["difference", *heads], rows)


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
    rows = [
        [pair, Cell(mean.text), Cell(mean.note or "-"), *tests] for pair, mean, *tests in pair_rows(comparisons, factor)
    ]
    return markdown_table([*PAIR_COLUMNS[:2], "interval", *PAIR_COLUMNS[2:]], rows)
