"""report.html: scores of all explainers with intervals, tests, curves, examples, costs and failures on one page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import pandas as pd

from dre.reporting.cells import (
    ALPHA,
    PAIR_COLUMNS,
    Cell,
    digits,
    exceptions,
    is_significant,
    mean_rows,
    pair_rows,
    scales,
)
from dre.reporting.figures import cost_figure, critical_difference_diagram, curves_figure, intervals_figure
from dre.reporting.gallery import Example, gallery_table, images_table
from dre.reporting.html import STYLE, figure, folded, html_page, meanings, paragraph, section, table
from dre.reporting.markdown import WHICH_TEST, annotation_lines, origins, ranks_text, reasons
from dre.reporting.style import directed, readable, svg_bytes

MEGABYTE = 1_000_000

MORE = {
    "transfer forwards": ("transfer_forwards",),
    "transfer ms": ("transfer_milliseconds",),
    "other class passes": ("other_class_forwards", "other_class_backwards", "other_class_head_backwards"),
    "other class ms": ("other_class_milliseconds",),
}
"""Columns of the cost for which few runs have a value, and the costs that they add up."""


@dataclass(frozen=True, slots=True)
class Report:
    """Hold the content of a page.

    Args:
        title: Of the page.
        summary: As `dre.statistics.summarise` returns it, with `evaluated` and `data` when they are known.
        curves: As `dre.statistics.curves.curves_frame` returns it; None without curves.
        cost: Cost of an image by explainer, as `dre.engine.cost.Tally.summary` returns it.
        worst: Examples at the worse end, most extreme first; with the lowest values where neither end is better.
        best: Examples at the other end, most extreme first.
        images: Rows of `scores.parquet`, of the metric `chosen_by`, of the images that are listed one by one.
        chosen_by: Metric that the examples were chosen by, whose values stand under their maps.
        chosen_for: Explainer whose values chose them.
        facts: Other names and values that identify the run.
        failures: Other failures, with their number.
        files: Files in the directory of the page, with a description of each.
        pictures: PNG files that are shown whole, by their captions.

    Example:
        >>> Report("Evaluation 001", summary={}, facts={"classifier": "resnet50"}).title
        'Evaluation 001'
    """

    title: str
    summary: Mapping[str, Any]
    curves: pd.DataFrame | None = None
    cost: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    worst: Sequence[Example] = ()
    best: Sequence[Example] = ()
    images: pd.DataFrame | None = None
    chosen_by: str = ""
    chosen_for: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    failures: Mapping[str, int] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    pictures: Mapping[str, bytes] = field(default_factory=dict)


def report_html(report: Report) -> str:
    """Write the page as HTML; it needs no network and no other file.

    Example:
        >>> import pandas as pd
        >>> from dre.statistics import summarise
        >>> frame = pd.DataFrame([("cat", "random", "deletion", 0.2)], columns=["key", "explainer", "metric", "value"])
        >>> "1 explainers, 1 metrics, 1 images explained" in report_html(Report("Evaluation", summarise(frame)))
        True
    """
    parts = [
        ("glance", "At a glance", _glance(report)),
        ("curves", "Curves", _curves(report)),
        ("examples", "Worst and best images", _gallery(report)),
        ("images", "Images", _images(report)),
        ("pictures", "Distances and studies", _pictures(report)),
        ("statistics", "Statistics", _statistics(report.summary)),
        ("costs", "Cost", _cost(report)),
        ("failures", "What is missing", _failures(report)),
        ("run", "How it was made", _run(report)),
    ]
    sections = [(name, title, section(name, title, content)) for name, title, content in parts]
    summary = report.summary
    said = f"{len(summary['explainers'])} explainers, {len(summary['metrics'])} metrics, "
    said += f"{summary['explained']} images explained"
    if "evaluated" in summary:
        said += f" of {summary['evaluated']} evaluated"
    return html_page(report.title, STYLE, sections, f'<p class="lead">{said}.</p>')


def _glance(report: Report) -> list[str]:
    """Write means with intervals and costs as a table, and the means as a picture."""
    summary, factors = report.summary, scales(report.summary)
    if not summary["explainers"]:
        return [paragraph("No image was explained, so there are no scores.")]
    rows = [
        [Cell(readable(name.text)), *means, *(_cost_cells(report.cost.get(name.text)) if report.cost else [])]
        for name, *means in mean_rows(summary, summary["explainers"], factors)
    ]
    header = ["explainer", *(_column(summary, metric) for metric in factors)]
    caption = (
        f"Means over images, x 100{exceptions(factors)}, with {summary['level']:.0%} bootstrap intervals. Dark: best "
        f"of its column; light: not told apart from it (Wilcoxon after Holm, p at least {ALPHA:g}). Arrows point to "
        "the better end. Passes are forwards + backwards + backwards through the head alone. Images without a value "
        "are counted under What is missing."
    )
    drawing = svg_bytes(intervals_figure(summary, summary["explainers"]))
    return [
        table("scores", [*header, *(["passes", "ms"] if report.cost else [])], rows, caption),
        meanings({_column(summary, metric): summary.get("definitions", {}).get(metric, "") for metric in factors}),
        *(
            paragraph(line.replace("`", ""))
            for line in (*origins(summary), *annotation_lines(summary), *reasons(summary))
        ),
        figure("intervals", drawing, "Means with their intervals. The axes do not start at zero."),
    ]


def _column(summary: Mapping[str, Any], metric: str) -> str:
    return directed(metric, summary["directions"][metric])


def _curves(report: Report) -> list[str]:
    if report.curves is None or report.curves.empty:
        return []
    drawing = svg_bytes(curves_figure(report.curves, report.summary["explainers"]))
    return [figure("curve-panels", drawing, "Aggregates over the images with 95 % bands, point by point.")]


def _gallery(report: Report) -> list[str]:
    explainers, metric = list(report.summary["explainers"]), report.chosen_by
    factor, parts = scales(report.summary).get(metric, 1.0), []
    has_direction = report.summary["directions"].get(metric) is not None
    titles = ("Worst", "Best") if has_direction else ("Lowest", "Highest")
    for name, title, examples in zip(("worst", "best"), titles, (report.worst, report.best), strict=True):
        if examples:
            caption = (
                f"{title} images by {readable(metric)} of {readable(report.chosen_for)}; the value of each map is "
                f"under it{', x 100' if factor > 1 else ''}. Under the photograph: the explained class, its "
                "probability, and whether the classifier's prediction is right."
            )
            parts.append(gallery_table(name, list(examples), explainers, caption, factor))
    return [f'<div id="gallery">{"".join(parts)}</div>'] if parts else []


def _images(report: Report) -> list[str]:
    """Write a row for each image that is listed."""
    if report.images is None or report.images.empty:
        return []
    metric, count, explained = report.chosen_by, report.images["key"].nunique(), report.summary["explained"]
    factor = scales(report.summary).get(metric, 1.0)
    shown = f"{count} of {explained} images, in an order that a hash of their names gives" if count < explained else ""
    caption = (
        f"{directed(metric, report.summary['directions'].get(metric))}{', x 100' if factor > 1 else ''}, of "
        f"{shown or 'each image'}. The prediction is right where it is the class that the data name; a dash stands for "
        "what is not known. scores.parquet has all images and metrics."
    )
    return [images_table("each-image", report.images, list(report.summary["explainers"]), caption, factor)]


def _pictures(report: Report) -> list[str]:
    named = enumerate(report.pictures.items())
    return [figure(f"picture-{place}", content, said, kind="png") for place, (said, content) in named]


def _cost(report: Report) -> list[str]:
    """Write passes, time and memory as a table, and quality against time as a figure."""
    if not report.cost:
        return []
    known = report.cost.values()
    more = {what: kinds for what, kinds in MORE.items() if any(_sum_of(cost, kinds) is not None for cost in known)}
    rows = []
    for name, cost in report.cost.items():
        peak = "-" if cost["peak_bytes"] is None else f"{cost['peak_bytes'] / MEGABYTE:.0f}"
        passes = [_plain(cost[kind]) for kind in ("forwards", "backwards", "head_backwards")]
        scoring = [_plain(cost[f"score_{kind}"]) for kind in ("forwards", "milliseconds")]
        scoring += [_plain(_sum_of(cost, kinds)) for kinds in more.values()]
        images = [f"{cost['images'] or 0:.0f}", f"{cost['cached'] or 0:.0f}"]
        rows.append([readable(name), *passes, _plain(cost["milliseconds"]), peak, *scoring, *images])
    header = ["explainer", "forwards", "backwards", "head backwards", "ms", "peak MB", "scoring forwards", "scoring ms"]
    caption = (
        "An image's share: passes of the classifier, time of the explanation (first batch of a process left out where "
        "there are more), memory beyond what was held before (largest batch of any rank), and what scoring its masked "
        "versions took in this run. Maps that were read from a cache count at what they took when they were made."
    )
    if more:
        caption += " A second classifier's passes, and those of explaining another class, are in no other column."
    parts = [table("cost", [*header, *more, "images", "from cache"], rows, caption)]
    times = {name: cost["milliseconds"] for name, cost in report.cost.items() if cost["milliseconds"]}
    ranked = [metric for metric in report.summary["metrics"] if report.summary["directions"][metric] is not None]
    if times and ranked:
        metric = "faithfulness" if "faithfulness" in ranked else ranked[0]
        drawing = svg_bytes(cost_figure(report.summary, {n: float(t) for n, t in times.items() if t}, metric))
        parts.append(figure("quality-cost", drawing, f"{readable(metric)} against the time that an explanation takes."))
    return parts


def _sum_of(cost: Mapping[str, float | None], kinds: Sequence[str]) -> float | None:
    """Add up costs; None where there is none."""
    found = [value for kind in kinds if (value := cost.get(kind)) is not None]
    return sum(found) if found else None


def _cost_cells(cost: Mapping[str, float | None] | None) -> list[Cell]:
    if cost is None:
        return [Cell("-"), Cell("-")]
    passes = [cost[kind] for kind in ("forwards", "backwards", "head_backwards")]
    together = " + ".join(_plain(value) for value in passes if value) or _plain(passes[0])
    return [Cell(together), Cell(_plain(cost["milliseconds"]))]


MOST_SKIPPED = 50
"""Skipped images that the page names; summary.json has all."""


def _failures(report: Report) -> list[str]:
    """Count the images without a value, also when there are none."""
    summary = report.summary
    rows = []
    for name in summary["explainers"]:
        counts = [summary["scores"][name][metric] for metric in summary["metrics"]]
        said = [(entry["nan"], entry["skipped"]) for entry in counts]
        rows.append([Cell(readable(name)), *(Cell(f"{n} / {s}", kind="bad" if n else "") for n, s in said)])
    caption = f"NaN / skipped images of {summary['explained']} explained ones; neither enters a mean."
    others = [
        ("evaluated but not explained", summary.get("evaluated", summary["explained"]) - summary["explained"]),
        *report.failures.items(),
    ]
    counts = [[Cell(what), Cell(str(count), kind="bad" if count else "")] for what, count in others]
    skipped = [[Cell(key), Cell(reason)] for key, reason in sorted(summary.get("skipped", {}).items())]
    return [
        table("missing", ["explainer", *map(readable, summary["metrics"])], rows, caption) if rows else "",
        table("failed", ["images", "number"], counts),
        table("skipped", ["skipped image", "reason"], skipped[:MOST_SKIPPED]) if skipped else "",
    ]


def _run(report: Report) -> list[str]:
    rows = [[Cell(name), Cell(value, kind="text")] for name, value in report.facts.items()]
    files = [[Cell(name), Cell(what, kind="text")] for name, what in report.files.items()]
    return [
        table("facts", ["", ""], rows) if rows else "",
        table("files", ["file beside this page", ""], files) if files else "",
    ]


def _plain(value: float | None) -> str:
    """Write a count without digits and a time with as many as it needs."""
    if value is None:
        return "-"
    if float(value).is_integer():
        return f"{value:.0f}"
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else digits(1.0)}f}"


def _statistics(summary: Mapping[str, Any]) -> list[str]:
    """Write for each metric a diagram of ranks, its description, and all pairs to unfold."""
    parts = [paragraph(WHICH_TEST)] if any(summary["comparisons"].values()) else []
    for metric, factor in scales(summary).items():
        pairs, ranks = summary["comparisons"][metric], summary["ranks"].get(metric)
        if not pairs:
            continue
        parts.append(f"<h3>{escape(readable(metric))}</h3>")
        if ranks is not None:
            title = f"{readable(metric)}: average ranks"
            drawing = svg_bytes(critical_difference_diagram(ranks, title, summary["explainers"]))
            parts.append(figure(f"ranks-{metric}", drawing, ranks_text(ranks)))
        else:
            parts.append(paragraph("Neither end of this metric is better, so the explainers are not ranked by it."))
        title = f"All {len(pairs)} pairs; {sum(map(is_significant, pairs))} differ at {ALPHA:g} after Holm's correction"
        parts.append(folded(title, _pairs(metric, pairs, factor, summary["level"])))
    return parts


def _pairs(metric: str, pairs: list[dict[str, Any]], factor: float, level: float) -> str:
    rows = [[Cell(readable(pair.text)), *cells] for pair, *cells in pair_rows(pairs, factor)]
    caption = (
        f"First minus second on their common images{', x 100' if factor > 1 else ''}, with {level:.0%} bootstrap "
        "intervals. Rank-biserial: 1 when the first is higher on every image, -1 when the second is."
    )
    return table(f"pairs-{metric}", PAIR_COLUMNS, rows, caption)
