"""Figures of a study's points: curves over what was changed, or one interval for each explainer."""

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.figure import Figure

from dre.curves import Curve, curves_frame
from dre.reporting.figures import curves_figure, intervals_figure


def points_figure(
    points: pd.DataFrame, explainers: Sequence[str], x_labels: Mapping[str, str], panels_in_a_line: int = 3
) -> Figure:
    """Draw every quantity as a panel: curves where it was measured at several places, intervals otherwise.

    Args:
        points: As `dre.statistics.summarise_points` gives it; points without images are not drawn.
        explainers: Order that colours go by.
        x_labels: By quantity, what was changed along its curve.
        panels_in_a_line: Most of them.
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
    """Bring single points into the form of `dre.statistics.summarise`, as far as a figure reads it."""
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
