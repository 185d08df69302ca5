import io

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from dre.reporting import write_rank_diagrams
from dre.reporting.figures import (
    cost_figure,
    critical_difference_diagram,
    curves_figure,
    intervals_figure,
    points_figure,
)
from dre.reporting.gallery import overlay_png, photograph_png, small, small_maps
from dre.reporting.style import PALETTE, colours, dashes, png_bytes, svg_bytes
from dre.statistics import Drawing, summarise_points
from tests.reporting.examples import NAMES, curves, summary


def texts(figure) -> set[str]:
    found = [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))]
    return {text.strip() for text in found if text.strip()}


def decoded(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def test_the_diagram_names_every_explainer_at_its_rank_and_joins_what_is_not_told_apart():
    ranks = {
        "average": {"a": 1.2, "b": 1.5, "c": 3.3},
        "critical_difference": 0.5,
        "groups": [["a", "b"]],
        "images": 20,
        "alpha": 0.05,
    }
    figure = critical_difference_diagram(ranks, "quality")
    assert {"a  1.20", "b  1.50", "c  3.30", "critical difference 0.50", "quality"} <= texts(figure)
    (axes,) = figure.axes
    marks = sorted(line.get_xdata()[0] for line in axes.lines if line.get_marker() == "o")
    assert marks == [1.2, 1.5, 3.3]
    (bar,) = [line for line in axes.lines if line.get_linewidth() == 3]
    assert bar.get_xdata() == pytest.approx((1.16, 1.54))


def test_a_diagram_is_written_for_each_ranked_metric(tmp_path):
    written = write_rank_diagrams(summary(), tmp_path)
    names = ("deletion", "faithfulness", "faithfulness_normalised")
    assert [path.name for path in written] == [f"critical_difference_{name}.png" for name in names]
    assert all(decoded(path.read_bytes()).std() > 5 for path in written)


def test_intervals_are_drawn_where_they_are():
    said = summary()
    figure = intervals_figure(said, list(NAMES))
    panel = figure.axes[1]
    assert panel.get_title(loc="left") == "faithfulness \u2191, x 100"
    means = [line.get_xdata()[0] for line in panel.lines if line.get_marker() == "o"]
    assert means == pytest.approx([100 * said["scores"][name]["faithfulness"]["mean"] for name in NAMES])
    ends = [tuple(line.get_xdata()) for line in panel.lines if len(line.get_xdata()) == 2]
    expected = [said["scores"][name]["faithfulness"] for name in NAMES]
    assert np.allclose(ends, [(100 * entry["low"], 100 * entry["high"]) for entry in expected])


def test_curves_have_a_band_a_line_and_a_name_for_each_explainer():
    figure = curves_figure(curves(), list(NAMES))
    (panel,) = figure.axes
    assert len(panel.lines) == len(panel.collections) == 3
    assert panel.get_title(loc="left") == "faithfulness, mean of 30 images"
    assert {"dre", "grad cam", "random"} <= texts(figure)


def test_cost_is_drawn_against_quality():
    figure = cost_figure(summary(), {"dre": 2.0, "random": 40.0}, "faithfulness")
    (axes,) = figure.axes
    assert axes.get_xscale() == "log"
    assert [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "o"] == [2.0, 40.0]


def test_figures_are_the_same_for_the_same_numbers():
    pictures = [svg_bytes(intervals_figure(summary(), list(NAMES))) for _ in range(2)]
    assert pictures[0] == pictures[1]
    assert decoded(png_bytes(curves_figure(curves(), list(NAMES)))).std() > 5


def test_colours_repeat_with_another_dash():
    names = [f"explainer_{place}" for place in range(len(PALETTE) + 1)]
    looks = set(zip(colours(names).values(), dashes(names).values(), strict=True))
    assert len(looks) == len(names)


def test_pictures_shrink_but_never_grow_and_keep_their_shape():
    assert small(torch.rand(2, 3, 100, 400), side=40).shape == (2, 3, 10, 40)
    assert small(torch.rand(1, 1, 7, 5)).shape == (1, 1, 7, 5)
    maps = small_maps(torch.tensor([[[[-1.0, 0.0], [1.0, 3.0]]], [[[5.0, 5.0], [5.0, 5.0]]]]))
    assert maps.tolist() == [[[-42, 0], [42, 127]], [[0, 0], [0, 0]]]  # zero stays where it is


@pytest.mark.parametrize("channels", [1, 3])
def test_an_overlay_is_bright_where_the_map_is_high(channels):
    image = torch.full((channels, 8, 12), 128, dtype=torch.uint8)
    saliency = torch.zeros(8, 12, dtype=torch.int8)
    saliency[:, :6] = 127
    shown = decoded(overlay_png(image, saliency))
    assert shown.shape == (8, 12, 3)
    assert shown[:, :6, 0].mean() > shown[:, 6:, 0].mean() + 50
    assert (decoded(photograph_png(image)) == 128).all()


STUDIED = ["dre", "edge_detector", "random"]


def points(places, undefined=()) -> pd.DataFrame:
    draw = np.random.default_rng(0)
    rows = [
        (f"image_{index}", name, quantity, x, np.nan if (name, x) in undefined else draw.normal(1 / (1 + x)))
        for index in range(6)
        for name in STUDIED
        for quantity in ("spearman", "ssim")
        for x in places
    ]
    frame = pd.DataFrame(rows, columns=["key", "explainer", "quantity", "x", "value"])
    return summarise_points(frame, Drawing(resamples=50))


def test_a_quantity_with_several_places_is_a_panel_of_curves():
    found = points([0.0, 1.0, 5.0], undefined={("random", 5.0)})
    figure = points_figure(found, STUDIED, {"spearman": "layers redrawn", "ssim": "noise"})
    assert [axes.get_xlabel() for axes in figure.axes] == ["layers redrawn", "noise"]
    for axes, quantity in zip(figure.axes, ("spearman", "ssim"), strict=True):
        assert axes.get_title(loc="left") == f"{quantity}, mean of 6 images"
        for line, name in zip(axes.lines, STUDIED, strict=True):
            part = found[(found["quantity"] == quantity) & (found["explainer"] == name) & (found["count"] > 0)]
            np.testing.assert_allclose(line.get_xdata(), part["x"])
            np.testing.assert_allclose(line.get_ydata(), part["mean"])
        widths = [line.get_linewidth() for line in axes.lines]
        assert widths == sorted(widths, reverse=True)  # the last is drawn on top: those below stay visible
    assert len(figure.axes[0].lines[2].get_xdata()) == 2  # nobody has a value at the last place
    assert png_bytes(figure).startswith(b"\x89PNG")


def test_a_quantity_with_one_place_is_a_panel_of_intervals():
    found = points([0.0])
    figure = points_figure(found[found["explainer"] != "random"], STUDIED, {})
    for axes, quantity in zip(figure.axes, ("spearman", "ssim"), strict=True):
        marks = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "o"]
        part = found[(found["quantity"] == quantity) & (found["explainer"] != "random")]
        np.testing.assert_allclose(sorted(marks), sorted(part["mean"]))
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["dre", "edge detector", "random"]
