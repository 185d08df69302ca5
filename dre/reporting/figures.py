"""Figures of a summary: intervals side by side, curves with bands, quality against cost."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from dre.reporting.cells import scales
from dre.reporting.style import colours, dashes, directed, readable, styled

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
        curves: As `dre.curves.curves_frame` gives it.
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
    """How wide a legend is that names these explainers."""
    return 0.6 + 0.075 * max(map(len, explainers), default=0)


def _legend_beside(figure: Figure, panels: Sequence[Axes], margin: float) -> None:
    """Name every explainer once, to the right of all panels."""
    found: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    edge = 1 - margin / figure.get_figwidth()
    figure.tight_layout(rect=(0, 0, edge, 1))
    figure.legend(list(found.values()), list(found), loc="center left", bbox_to_anchor=(edge, 0.5), frameon=False)
