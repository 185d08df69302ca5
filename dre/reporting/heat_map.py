"""Distances between all pairs of a set as a heat map, with the tree that joins what is near beside it."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from scipy.cluster.hierarchy import dendrogram, linkage
from scipy.spatial.distance import squareform

from dre.reporting.style import readable, styled

CELL = 0.5
"""Inches of a cell that holds its number."""

NARROW = 0.22
"""Inches of a cell where there are too many for numbers."""

NUMBERED = 12
"""Most names whose distances are written into their cells."""

LEAF = 10
"""Of scipy's drawings of trees: the leaves lie at 5, 15, 25, ..."""


def distances_figure(distances: ArrayLike, names: Sequence[str], title: str = "") -> Figure:
    """Draw a matrix of distances; its rows and columns are in the order of the tree (average linkage) beside it.

    Names of which every distance is unknown are left out. A matrix that is not symmetric is drawn as it is, and its
    tree is that of the mean of both directions.

    Args:
        distances: [G, G], NaN or None where there is none; the diagonal is drawn but joins nothing.
        names: G of them.
        title: Of the figure.
    """
    square, shown = _known(distances, names)
    tree = dendrogram(linkage(squareform((square + square.T) / 2, checks=False), "average"), no_plot=True)
    order = tree["leaves"]
    cell = CELL if len(order) <= NUMBERED else NARROW
    side = cell * len(order)
    with styled():
        figure = Figure(figsize=(1.5 * side + 2.4, side + 1.6), layout="constrained")
        heat, branches = figure.subplots(1, 2, sharey=True, width_ratios=(2, 1))
        _draw_heat(
            figure,
            heat,
            square[np.ix_(order, order)],
            [readable(shown[place]) for place in order],
            (0.0, float(np.nanmax(square))),
        )
        _draw_tree(branches, tree["icoord"], tree["dcoord"])
        heat.set_ylim(len(order) - 0.5, -0.5)
        heat.set_title(title)
    return figure


def comparisons_figure(matrices: Mapping[str, ArrayLike], names: Sequence[str]) -> Figure:
    """Draw a heat map for each comparison, one beside the other, each on its own scale.

    Args:
        matrices: By what is compared, [G, G] with a value at least; NaN or None stays white, as the diagonal does.
        names: G of them, in the order of rows and columns.
    """
    side = (CELL if len(names) <= NUMBERED else NARROW) * len(names)
    with styled():
        figure = Figure(figsize=(side * len(matrices) + 2.0, side + 1.6), layout="constrained")
        panels = figure.subplots(1, len(matrices), sharey=True, squeeze=False)[0]
        for axes, (title, matrix) in zip(panels, matrices.items(), strict=True):
            square = np.array(matrix, dtype=np.float64)
            np.fill_diagonal(square, np.nan)
            ends = float(np.nanmin(square)), float(np.nanmax(square))
            _draw_heat(figure, axes, square, list(map(readable, names)), ends)
            axes.set_title(f"{readable(title)}, dark is larger")
            axes.set_xlabel("second map")
        panels[0].set_ylabel("first map")
    return figure


def _known(distances: ArrayLike, names: Sequence[str]) -> tuple[NDArray[np.float64], list[str]]:
    """Leave out the names that are nowhere, and refuse what is no matrix of at least two others."""
    square = np.array(distances, dtype=np.float64)
    if square.shape != (len(names), len(names)):
        raise ValueError(f"`distances` of {len(names)} names must be [{len(names)}, {len(names)}], got {square.shape}")
    apart = ~np.eye(len(names), dtype=bool)
    kept = np.flatnonzero((np.isfinite(square) & apart).any(axis=1)).tolist()
    square, shown = square[np.ix_(kept, kept)], [names[place] for place in kept]
    if len(shown) < 2:
        raise ValueError(f"a tree joins two or more names, and {len(shown)} of {len(names)} have a distance")
    if not np.isfinite(square[~np.eye(len(shown), dtype=bool)]).all():
        raise ValueError(f"some of the distances between {', '.join(shown)} are missing; leave out what has none")
    return square, shown


def _draw_heat(
    figure: Figure, axes: Axes, square: NDArray[np.float64], names: list[str], ends: tuple[float, float]
) -> None:
    low, high = ends[0], max(ends[1], np.nextafter(ends[0], np.inf))
    shown = axes.imshow(square, cmap="YlGnBu", vmin=low, vmax=high, aspect="auto")
    axes.set_xticks(range(len(names)), names, rotation=90)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    if len(names) > NUMBERED:
        figure.colorbar(shown, ax=axes, location="left", fraction=0.03, pad=0.02, aspect=40)
        return
    for (row, column), value in np.ndenumerate(square):
        if np.isfinite(value) and (row != column or value > 0):
            colour = "white" if value > low + 0.55 * (high - low) else "#222222"
            text = _cell_text(value, max(abs(low), abs(high)))
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=7.5)


def _cell_text(value: float, largest: float) -> str:
    """Write as many digits as tell the values apart, the same number in every cell."""
    return f"{value:.1e}" if largest < 0.01 else f"{value:.3f}" if largest < 1 else f"{value:.2f}"


def _draw_tree(axes: Axes, places: Sequence[Sequence[float]], heights: Sequence[Sequence[float]]) -> None:
    """Draw each fork from its two ends, with the leaves level with their rows."""
    for place, height in zip(places, heights, strict=True):
        axes.plot(height, (np.array(place) - LEAF / 2) / LEAF, color="#333333", linewidth=1.2, clip_on=False)
    axes.set_xlim(left=0)
    axes.set_xlabel("joined at")
    axes.tick_params(axis="y", left=False, labelleft=False)
    axes.spines["left"].set_visible(False)
