"""Cells and rows of the tables of a report, built once and written as Markdown and as HTML."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

UNSCALED = ("pearson_skewness",)
"""Metrics that are not shares of 1 and are printed without the factor 100."""

LEARNED = ("dre", "mgnet", "fast_shap", "nn_explainer")
"""Learned explainers; the first of them in a run is the reference unless the run names another."""

ALPHA = 0.05
"""Level below which a corrected p-value is significant."""

Entry = Mapping[str, Any]
"""A score or a comparison as `dre.statistics.summarise` gives it."""


@dataclass(frozen=True, slots=True)
class Cell:
    """Hold one cell of a table.

    Args:
        text: What it says.
        note: A second, smaller line; in Markdown it follows the text.
        kind: Style of the HTML: best, tied, bad or nothing.
        picture: A PNG file shown above the text, in HTML alone.
        hint: A longer text that a pointer unfolds, in HTML alone.
    """

    text: str
    note: str = ""
    kind: str = ""
    picture: bytes | None = None
    hint: str = ""

    def __str__(self) -> str:
        """Return text and note on one line."""
        return f"{self.text} {self.note}".rstrip()


def scales(summary: Mapping[str, Any], unscaled: Collection[str] = UNSCALED) -> dict[str, float]:
    """Return the factor that each metric is printed with: 100, or 1 for a metric that is not a share.

    A summary may name these itself, under `unscaled`.
    """
    unscaled = summary.get("unscaled", unscaled)
    return {metric: 1.0 if metric in unscaled else 100.0 for metric in summary["metrics"]}


def arrow(higher_is_better: bool | None) -> str:
    """Return an arrow to the better end of a metric; nothing where neither end is better.

    Example:
        >>> [arrow(one) for one in (True, False, None)]
        ['↑', '↓', '']
    """
    return "" if higher_is_better is None else "↑" if higher_is_better else "↓"


def with_arrow(metric: str, directions: Mapping[str, bool | None]) -> str:
    """Return the name of a metric with the arrow to its better end, where it has one.

    Example:
        >>> with_arrow("deletion", {"deletion": False}), with_arrow("skewness", {})
        ('deletion ↓', 'skewness')
    """
    return f"{metric} {arrow(directions.get(metric))}".rstrip()


def exceptions(factors: Mapping[str, float]) -> str:
    """Return a remark that names the metrics printed without the factor 100; nothing when there is none."""
    plain = [metric for metric, factor in factors.items() if factor == 1]
    return f" ({', '.join(plain)} as it is)" if plain else ""


def number(value: float | None, factor: float = 1.0) -> str:
    """Format a value with one decimal when it is scaled and two when it is not; a dash when there is none.

    A value that these decimals would round to zero is written with a power of ten.

    Example:
        >>> number(0.1234, 100), number(0.1234), number(0.0004), number(None)
        ('12.3', '0.12', '4.0e-04', '-')
    """
    if value is None:
        return "-"
    text = f"{value * factor:.{digits(factor)}f}"
    return text if float(text) or not value else f"{value * factor:.1e}"


def digits(factor: float) -> int:
    """Return the number of decimals that a metric is printed with."""
    return 1 if factor > 1 else 2


NAME_LETTERS = 24
"""Letters of the name of a class in a caption; longer ones are cut."""


def short_name(name: str) -> str:
    """Return the first of the words that name a class, at most 24 letters; of a class without a name its index.

    Example:
        >>> short_name("tabby, tabby cat"), short_name("281"), short_name("Soft-coated Wheaten Terrier")
        ('tabby', 'class 281', 'Soft-coated Wheaten Ter\u2026')
    """
    first = name.partition(",")[0].strip() or name
    first = f"class {first}" if first.isdigit() else first
    return first if len(first) <= NAME_LETTERS else f"{first[: NAME_LETTERS - 1].rstrip()}\u2026"


def percent(probability: float | None) -> str:
    """Return a probability in whole per cent; nothing where there is none.

    Example:
        >>> percent(0.834), percent(0.001), percent(0.9999), percent(1.0), percent(None)
        ('83 %', '< 1 %', '> 99 %', '100 %', '')
    """
    if probability is None or not 0 <= probability <= 1:
        return ""
    if 0 < probability < 0.01:
        return "< 1 %"
    return "> 99 %" if 0.99 < probability < 1 else f"{probability:.0%}".replace("%", " %")


def verdict(correct: bool | None) -> str:
    """Return `right` or `wrong`; nothing where that is not known."""
    return "" if correct is None else "right" if correct else "wrong"


def class_text(name: str, probability: float | None = None, correct: bool | None = None) -> tuple[str, str]:
    """Say in two lines which class was explained, and its probability and whether the prediction was right.

    What is not known is left out.

    Example:
        >>> class_text("tabby, tabby cat", 0.834, True), class_text("tabby", 0.834), class_text("")
        (('tabby', '83 %, right'), ('tabby', '83 %'), ('', ''))
    """
    if not name:
        return "", ""
    return short_name(name), ", ".join(filter(None, [percent(probability), verdict(correct)]))


def range_text(entry: Entry, factor: float) -> str:
    """Format the interval; nothing when there is none."""
    if entry["low"] is None:
        return ""
    return f"[{number(entry['low'], factor)}, {number(entry['high'], factor)}]"


def cell(entry: Entry | None, factor: float) -> str:
    """Format mean and interval and, of a comparison, the corrected p-value."""
    if entry is None or entry["mean"] is None:
        return "-"
    text = str(score_cell(entry, factor))
    if entry.get("p_holm") is not None:
        text += f", p {p_text(entry['p_holm'])}"
    return text


def score_cell(entry: Entry, factor: float, kind: str = "") -> Cell:
    """Return the mean of a score or a comparison, with its interval as the note."""
    return Cell(number(entry["mean"], factor), range_text(entry, factor), kind)


def p_text(p_value: float | None) -> str:
    """Format a p-value with its relation."""
    if p_value is None:
        return "-"
    return "< 0.001" if p_value < 0.001 else f"= {p_value:.3f}"


def turned(comparisons: list[dict[str, Any]], first: str, second: str) -> dict[str, Any] | None:
    """Find the comparison of two explainers and reverse it if needed, so that it reads first - second."""
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
    """Return the explainer that others are compared with: the given one, or a learned one, or else the first."""
    return reference or next((name for name in LEARNED if name in names), next(iter(names)))


def _negative(value: float | None) -> float | None:
    return None if value is None else -value


def is_significant(pair: Entry) -> bool:
    """Return whether the corrected p-value of a comparison tells its explainers apart."""
    return pair["p_holm"] is not None and pair["p_holm"] < ALPHA


def mean_rows(summary: Mapping[str, Any], names: Sequence[str], factors: Mapping[str, float]) -> list[list[Cell]]:
    """Return a row for each explainer: its name, and of each metric the mean with its interval.

    A metric that has a value for no image says so. The best mean of a metric is marked as `best`, means that are not
    told apart from it as `tied`.
    """
    best = {metric: _best(summary, metric) for metric in factors}
    return [
        [
            Cell(name),
            *(
                Cell("no value")
                if metric in summary.get("without_value", {})
                else score_cell(summary["scores"][name][metric], factor, _standing(summary, name, metric, best[metric]))
                for metric, factor in factors.items()
            ),
        ]
        for name in names
    ]


def _best(summary: Mapping[str, Any], metric: str) -> str | None:
    """Name the explainer at the better end; None where neither end is better, or where there is nothing to compare."""
    means = {name: summary["scores"][name][metric]["mean"] for name in summary["explainers"]}
    known: dict[str, float] = {name: mean for name, mean in means.items() if mean is not None}
    higher_is_better = summary["directions"][metric]
    if higher_is_better is None or len(known) < 2:
        return None
    choose = max if higher_is_better else min
    return choose(known, key=lambda name: known[name])


def _standing(summary: Mapping[str, Any], name: str, metric: str, best: str | None) -> str:
    if best is None or summary["scores"][name][metric]["mean"] is None:
        return ""
    if name == best:
        return "best"
    versus = turned(summary["comparisons"][metric], best, name)
    return "tied" if versus is not None and versus["p_holm"] is not None and not is_significant(versus) else ""


PAIR_COLUMNS = ("difference", "mean", "Wilcoxon's p", "after Holm", "rank-biserial", "common images")


def pair_rows(pairs: Sequence[Entry], factor: float) -> list[list[Cell]]:
    """Return a row of `PAIR_COLUMNS` for each comparison; the mean has its interval as the note."""
    rows = []
    for pair in pairs:
        mean = score_cell(pair, factor, "best" if is_significant(pair) else "")
        tests = [p_text(pair["p_value"]), p_text(pair["p_holm"]), number(pair["effect_size"]), str(pair["count"])]
        rows.append([Cell(f"{pair['first']} - {pair['second']}"), mean, *map(Cell, tests)])
    return rows


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[Cell | str]], texts: int = 1) -> str:
    """Write a table whose first columns are texts; the others are figures, to the right.

    Example:
        >>> print(markdown_table(["explainer", "mean"], [["random", Cell("1.5", "[1.0, 2.0]")]]))
        | explainer | mean |
        | --- | ---: |
        | random | 1.5 [1.0, 2.0] |
    """
    marks = ["---"] * texts + ["---:"] * (len(header) - texts)
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in (header, marks, *rows))
