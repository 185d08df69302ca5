"""Figures of a summary: means with intervals, curves with bands, quality against cost, critical differences."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from dre.reporting.cells import scales
from dre.reporting.style import colours, dashes, directed, png_bytes, readable, styled
from dre.runs.locks import write_whole
from dre.statistics.curves import Curve, curves_frame

PANEL = (3.6, 2.9)
"""Width and height of one curve panel in inches."""


def intervals_figure(summary: Mapping[str, Any], explainers: Sequence[str]) -> Figure:
    """Draw every metric as a panel: a row for each explainer with its mean and interval."""
    factors, hue = scales(summary), colours(summary["explainers"])
    columns = min(3, len(factors))
    lines = -(-len(factors) // columns)
    with styled():
        figure = Figure(figsize=(3.4 * columns + 0.8, (0.24 * len(explainers) + 0.75) * lines))
        grid = figure.subplots(lines, columns, squeeze=False, sharey=True).ravel()
        for axes, (metric, factor) in zip(grid, factors.items(), strict=False):
            for place, name in enumerate(explainers):
                _interval(axes, summary["scores"][name][metric], factor, place, hue[name])
            axes.set_title(_title(summary, metric, factor))
            axes.grid(axis="x", color="#e4e4e4", linewidth=0.8)
            axes.set_axisbelow(True)
            axes.tick_params(axis="y", length=0)
        grid[0].set_yticks(range(len(explainers)), [readable(name) for name in explainers])
        grid[0].set_ylim(len(explainers) - 0.4, -0.6)
        for axes in grid[len(factors) :]:
            axes.set_visible(False)
        figure.tight_layout()
    return figure


def curves_figure(curves: pd.DataFrame, explainers: Sequence[str], most: int = 3) -> Figure:
    """Draw every metric's curves as a panel with their bands.

    Args:
        curves: As `dre.statistics.curves.curves_frame` returns it.
        explainers: Order that colours go by.
        most: Panels in one line.
    """
    metrics = list(curves["metric"].unique())
    columns = min(most, len(metrics))
    lines = -(-len(metrics) // columns)
    hue, dash = colours(explainers), dashes(explainers)
    with styled():
        margin = _legend_inches(explainers)
        figure = Figure(figsize=(PANEL[0] * columns + margin, PANEL[1] * lines))
        grid = figure.subplots(lines, columns, squeeze=False).ravel()
        for axes, metric in zip(grid, metrics, strict=False):
            part = curves[curves["metric"] == metric]
            for name in (name for name in explainers if name in set(part["explainer"])):
                points = part[part["explainer"] == name]
                axes.fill_between(points["x"], points["low"], points["high"], color=hue[name], alpha=0.16, linewidth=0)
                axes.plot(points["x"], points["y"], dash[name], color=hue[name], linewidth=1.5, label=readable(name))
            first = part.iloc[0]
            axes.set_title(f"{readable(metric)}, {first['aggregate']} of {first['images']} images")
            axes.set_xlabel(first["x_label"])
            axes.set_ylabel(first["y_label"])
            axes.grid(color="#e8e8e8", linewidth=0.8)
        for axes in grid[len(metrics) :]:
            axes.set_visible(False)
        _legend_beside(figure, list(grid[: len(metrics)]), margin)
    return figure


def cost_figure(summary: Mapping[str, Any], milliseconds: Mapping[str, float], metric: str) -> Figure:
    """Draw one metric against the time that an explanation takes, on a logarithmic axis."""
    factor, hue = scales(summary)[metric], colours(summary["explainers"])
    with styled():
        margin = _legend_inches(list(milliseconds))
        figure = Figure(figsize=(5 + margin, 3.2))
        axes = figure.subplots()
        for name, time in milliseconds.items():
            entry = summary["scores"][name][metric]
            if entry["mean"] is None:
                continue
            ends = [entry["mean"] if entry[end] is None else entry[end] for end in ("low", "high")]
            axes.plot([time, time], [end * factor for end in ends], color=hue[name], linewidth=1.5)
            axes.plot([time], [entry["mean"] * factor], "o", color=hue[name], markersize=6, label=readable(name))
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.margins(x=0.1, y=0.12)
        axes.set_xlabel("milliseconds an image, explanation alone")
        axes.set_ylabel(_title(summary, metric, factor))
        axes.grid(color="#e8e8e8", linewidth=0.8)
        _legend_beside(figure, [axes], margin)
    return figure


def _interval(axes: Axes, entry: Mapping[str, Any], factor: float, place: int, colour: str) -> None:
    if entry["mean"] is None:
        return
    if entry["low"] is not None:
        ends = [entry["low"] * factor, entry["high"] * factor]
        axes.plot(ends, [place, place], color=colour, linewidth=2.2, solid_capstyle="round")
    axes.plot([entry["mean"] * factor], [place], "o", color=colour, markersize=5)


def _title(summary: Mapping[str, Any], metric: str, factor: float) -> str:
    """Name a metric with an arrow to its better end and its factor."""
    return f"{directed(metric, summary['directions'][metric])}{', x 100' if factor > 1 else ''}"


def _legend_inches(explainers: Sequence[str]) -> float:
    """Return the width in inches of a legend that names these explainers."""
    return 0.6 + 0.075 * max(map(len, explainers), default=0)


def _legend_beside(figure: Figure, panels: Sequence[Axes], margin: float) -> None:
    """Draw a legend that names every explainer once, to the right of all panels."""
    found: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    edge = 1 - margin / figure.get_figwidth()
    figure.tight_layout(rect=(0, 0, edge, 1))
    figure.legend(list(found.values()), list(found), loc="center left", bbox_to_anchor=(edge, 0.5), frameon=False)


WIDTH = 7.5
"""Of a critical difference diagram, in inches."""

ROW = 0.24
"""Inches between two names."""


def critical_difference_diagram(ranks: dict[str, Any], title: str, explainers: list[str] | None = None) -> Figure:
    """Draw the critical difference diagram of one metric; rank 1, the best, is on the left.

    Args:
        ranks: As `dre.statistics.summarise` returns it, under `ranks`.
        title: Of the figure.
        explainers: Order that colours go by; the ranks' own when not given.

    Source: Demsar 2006, Fig. 1.
    """
    average: dict[str, float] = ranks["average"]
    hue = colours(explainers or list(average))
    names, bars = list(average), len(ranks["groups"])
    rows = (len(names) + 1) // 2
    below = 0.5 + 0.35 * bars  # first name's distance from the axis, in rows
    with styled():
        figure = Figure(figsize=(WIDTH, ROW * (rows + below + 4.5)))
        axes = figure.add_axes((0.24, 0.0, 0.52, 1.0))
        axes.set_xlim(0.9, len(names) + 0.1)
        axes.set_ylim(-(rows + below + 0.5), 4)
        axes.set_axis_off()
        _scale(axes, len(names))
        for place, name in enumerate(names):
            is_left = place < rows
            depth = below + (place if is_left else len(names) - 1 - place) + 0.5
            _name(axes, name, average[name], depth, hue[name], is_left)
        for place, group in enumerate(ranks["groups"]):
            ends = average[group[0]] - 0.04, average[group[-1]] + 0.04
            axes.plot(ends, [-0.35 * (place + 1)] * 2, color="#222222", linewidth=3, solid_capstyle="butt")
        if ranks["critical_difference"] is not None:
            _distance(axes, ranks["critical_difference"], len(names))
        figure.text(0.01, 0.99, title, va="top", fontsize=10)
    return figure


def write_rank_diagrams(summary: dict[str, Any], directory: Path) -> list[Path]:
    """Write `critical_difference_METRIC.png` for every metric with ranks, and return the paths.

    Example:
        >>> import tempfile
        >>> ranks = {"average": {"a": 1.0, "b": 2.0}, "groups": [], "critical_difference": None}
        >>> summary = {"ranks": {"deletion": ranks}, "explainers": ["a", "b"]}
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     [path.name for path in write_rank_diagrams(summary, Path(directory))]
        ['critical_difference_deletion.png']
    """
    written = []
    for metric, ranks in summary["ranks"].items():
        path = directory / f"critical_difference_{metric}.png"
        figure = critical_difference_diagram(ranks, f"{readable(metric)}: average ranks", summary["explainers"])
        write_whole(path, png_bytes(figure))
        written.append(path)
    return written


def _scale(axes: Axes, explainers: int) -> None:
    axes.plot([1, explainers], [0, 0], color="#222222", linewidth=1.2)
    for rank in range(1, explainers + 1):
        axes.plot([rank, rank], [0, 0.35], color="#222222", linewidth=1.2)
        axes.text(rank, 0.5, str(rank), ha="center", va="bottom")


def _name(axes: Axes, name: str, rank: float, depth: float, colour: str, is_left: bool) -> None:
    """Draw a line from the rank down and out to the name."""
    low, high = axes.get_xlim()
    side = low if is_left else high
    axes.plot([rank, rank, side], [0, -depth, -depth], color=colour, linewidth=1.4, clip_on=False)
    axes.plot([rank], [0], "o", color=colour, markersize=4)
    gap = (high - low) * 0.02
    text = f"{readable(name)}  {rank:.2f}"
    where = (side - gap, "right") if is_left else (side + gap, "left")
    axes.text(where[0], -depth, text, ha=where[1], va="center", color=colour)


def _distance(axes: Axes, distance: float, explainers: int) -> None:
    """Draw the critical difference as a ruler above the axis."""
    end = min(1 + distance, explainers)
    axes.plot([1, end], [2.6, 2.6], color="#666666", linewidth=1.2)
    for place in (1, end):
        axes.plot([place, place], [2.35, 2.85], color="#666666", linewidth=1.2)
    axes.text(end, 2.6, f"  critical difference {distance:.2f}", ha="left", va="center", color="#666666")


def points_figure(
    points: pd.DataFrame, explainers: Sequence[str], x_labels: Mapping[str, str], panels_in_a_line: int = 3
) -> Figure:
    """Draw every quantity as a panel: curves where it was measured at several x, intervals otherwise.

    Args:
        points: As `dre.statistics.summarise_points` returns it; points without images are not drawn.
        explainers: Order that colours go by.
        x_labels: By quantity, what was changed along its curve.
        panels_in_a_line: Largest number of panels in one line.
    """
    if points["x"].nunique() == 1:
        return intervals_figure(_summary(points, explainers), explainers)
    figure = curves_figure(_curves(points[points["count"] > 0], x_labels), explainers, panels_in_a_line)
    for axes in figure.axes:
        for place, line in enumerate(axes.lines[::-1]):
            line.set_linewidth(1.4 + 0.4 * place)  # of curves that lie on each other, all are seen
    return figure


def _curves(points: pd.DataFrame, x_labels: Mapping[str, str]) -> pd.DataFrame:
    curves = []
    for (quantity, explainer), part in points.groupby(["quantity", "explainer"], sort=False):
        ordered = part.sort_values("x")
        x, y, low, high = (tuple(ordered[name]) for name in ("x", "mean", "low", "high"))
        curve = Curve(x, y, low, high, int(ordered["count"].max()), x_label=x_labels.get(quantity, ""), y_label="")
        curves.append((explainer, quantity, curve))
    return curves_frame(curves)


def _summary(points: pd.DataFrame, explainers: Sequence[str]) -> dict[str, object]:
    """Convert single points to the form of `dre.statistics.summarise`, as far as a figure reads it."""
    quantities = list(points["quantity"].unique())
    nothing = {"mean": None, "low": None, "high": None}
    scores = {name: {quantity: nothing for quantity in quantities} for name in explainers}
    for row in points.itertuples():
        ends = {end: None if pd.isna(value) else value for end in nothing if (value := getattr(row, end)) is not None}
        scores[row.explainer][row.quantity] = ends
    return {
        "explainers": list(explainers),
        "metrics": quantities,
        "directions": dict.fromkeys(quantities),
        "unscaled": quantities,
        "scores": scores,
    }
