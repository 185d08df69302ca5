"""The critical-difference diagram: explainers on a line by average rank, bars under those that are not told apart."""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dre.reporting.style import colours, png_bytes, readable, styled

WIDTH = 7.5
ROW = 0.24
"""Inches between two names."""


def critical_difference_diagram(ranks: dict[str, Any], title: str, explainers: list[str] | None = None) -> Figure:
    """Draw one metric's ranks; rank 1, the best, is on the left.

    Args:
        ranks: As `dre.statistics.summarise` gives it.
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
    """Write `critical_difference_METRIC.png` for every metric that ranks the explainers."""
    written = []
    for metric, ranks in summary["ranks"].items():
        path = directory / f"critical_difference_{metric}.png"
        figure = critical_difference_diagram(ranks, f"{readable(metric)}: average ranks", summary["explainers"])
        path.write_bytes(png_bytes(figure))
        written.append(path)
    return written


def _scale(axes: Axes, explainers: int) -> None:
    axes.plot([1, explainers], [0, 0], color="#222222", linewidth=1.2)
    for rank in range(1, explainers + 1):
        axes.plot([rank, rank], [0, 0.35], color="#222222", linewidth=1.2)
        axes.text(rank, 0.5, str(rank), ha="center", va="bottom")


def _name(axes: Axes, name: str, rank: float, depth: float, colour: str, is_left: bool) -> None:
    """Lead from the rank down and out to the name."""
    low, high = axes.get_xlim()
    side = low if is_left else high
    axes.plot([rank, rank, side], [0, -depth, -depth], color=colour, linewidth=1.4, clip_on=False)
    axes.plot([rank], [0], "o", color=colour, markersize=4)
    gap = (high - low) * 0.02
    text = f"{readable(name)}  {rank:.2f}"
    where = (side - gap, "right") if is_left else (side + gap, "left")
    axes.text(where[0], -depth, text, ha=where[1], va="center", color=colour)


def _distance(axes: Axes, distance: float, explainers: int) -> None:
    """Show the critical difference as a ruler above the axis."""
    end = min(1 + distance, explainers)
    axes.plot([1, end], [2.6, 2.6], color="#666666", linewidth=1.2)
    for place in (1, end):
        axes.plot([place, place], [2.35, 2.85], color="#666666", linewidth=1.2)
    axes.text(end, 2.6, f"  critical difference {distance:.2f}", ha="left", va="center", color="#666666")
