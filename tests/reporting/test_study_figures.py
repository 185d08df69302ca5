import numpy as np
import pandas as pd

from dre.reporting.figures import points_figure
from dre.reporting.style import png_bytes
from dre.statistics import Drawing, summarise_points

NAMES = ["dre", "edge_detector", "random"]


def points(places, undefined=()) -> pd.DataFrame:
    draw = np.random.default_rng(0)
    rows = [
        (f"image_{index}", name, quantity, x, np.nan if (name, x) in undefined else draw.normal(1 / (1 + x)))
        for index in range(6)
        for name in NAMES
        for quantity in ("spearman", "ssim")
        for x in places
    ]
    frame = pd.DataFrame(rows, columns=["key", "explainer", "quantity", "x", "value"])
    return summarise_points(frame, Drawing(resamples=50))


def test_a_quantity_with_several_places_is_a_panel_of_curves():
    found = points([0.0, 1.0, 5.0], undefined={("random", 5.0)})
    figure = points_figure(found, NAMES, {"spearman": "layers redrawn", "ssim": "noise"})
    assert [axes.get_xlabel() for axes in figure.axes] == ["layers redrawn", "noise"]
    for axes, quantity in zip(figure.axes, ("spearman", "ssim"), strict=True):
        assert axes.get_title(loc="left") == f"{quantity}, mean of 6 images"
        for line, name in zip(axes.lines, NAMES, strict=True):
            part = found[(found["quantity"] == quantity) & (found["explainer"] == name) & (found["count"] > 0)]
            np.testing.assert_allclose(line.get_xdata(), part["x"])
            np.testing.assert_allclose(line.get_ydata(), part["mean"])
        widths = [line.get_linewidth() for line in axes.lines]
        assert widths == sorted(widths, reverse=True)  # the last is drawn on top: those below stay visible
    assert len(figure.axes[0].lines[2].get_xdata()) == 2  # nobody has a value at the last place
    assert png_bytes(figure).startswith(b"\x89PNG")


def test_a_quantity_with_one_place_is_a_panel_of_intervals():
    found = points([0.0])
    figure = points_figure(found[found["explainer"] != "random"], NAMES, {})
    for axes, quantity in zip(figure.axes, ("spearman", "ssim"), strict=True):
        marks = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "o"]
        part = found[(found["quantity"] == quantity) & (found["explainer"] != "random")]
        np.testing.assert_allclose(sorted(marks), sorted(part["mean"]))
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["dre", "edge detector", "random"]
