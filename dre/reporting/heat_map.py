"""Heat maps of distances between all pairs of explainers, with the dendrogram of their average linkage."""

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
"""Largest number of names for which distances are written into the cells."""

LEAF = 10
"""Spacing of the leaves in scipy's dendrograms, which lie at 5, 15, 25, ..."""


def distances_figure(distances: ArrayLike, names: Sequence[str], title: str = "") -> Figure:
    """Draw a matrix of distances in the order of the dendrogram (average linkage) that is drawn beside it.

    Names without any distance are left out. A matrix that is not symmetric is drawn as it is, and its
    tree is that of the mean of both directions.

    Args:
        distances: [G, G], NaN or None where there is none; the diagonal is drawn but joins nothing.
        names: G of them.
        title: Of the figure.

    Raises:
        ValueError: The matrix is not [G, G], fewer than two names have a distance, or one between them is missing.

    Example:
        >>> figure = distances_figure([[0.0, 0.3], [0.3, 0.0]], ["grad_cam", "random"], "XMGD")
        >>> figure.axes[0].get_title("left")
        'XMGD'
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


def comparisons_figure(
    matrices: Mapping[str, ArrayLike], names: Sequence[str], sides: tuple[str, str] = ("first map", "second map")
) -> Figure:
    """Draw a heat map for each comparison, side by side, each on its own scale.

    Args:
        matrices: By the name of the comparison, [G, G] with at least one value; NaN, None and the diagonal stay white.
        names: G of them, in the order of rows and columns.
        sides: What rows and columns are.

    Example:
        >>> figure = comparisons_figure({"pearson": [[None, 0.3], [0.3, None]]}, ["grad_cam", "random"])
        >>> figure.axes[0].get_title("left")
        'pearson, dark is larger'
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
            axes.set_xlabel(sides[1])
        panels[0].set_ylabel(sides[0])
    return figure


def _known(distances: ArrayLike, names: Sequence[str]) -> tuple[NDArray[np.float64], list[str]]:
    """Drop the names without a distance; raise where the rest is no complete matrix of two names or more."""
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
    """Format a value with the number of digits that suits the largest one."""
    return f"{value:.1e}" if largest < 0.01 else f"{value:.3f}" if largest < 1 else f"{value:.2f}"


def _draw_tree(axes: Axes, places: Sequence[Sequence[float]], heights: Sequence[Sequence[float]]) -> None:
    """Draw each branch of the dendrogram, with the leaves level with their rows."""
    for place, height in zip(places, heights, strict=True):
        axes.plot(height, (np.array(place) - LEAF / 2) / LEAF, color="#333333", linewidth=1.2, clip_on=False)
    axes.set_xlim(left=0)
    axes.set_xlabel("joined at")
    axes.tick_params(axis="y", left=False, labelleft=False)
    axes.spines["left"].set_visible(False)
