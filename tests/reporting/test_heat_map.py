import numpy as np
import pytest

from dre.reporting import comparisons_figure, distances_figure
from dre.reporting.style import svg_bytes

NAMES = ["dre", "far_away", "grad_cam"]
DISTANCES = [[0.0, 0.5, 0.1], [0.5, 0.0, 0.6], [0.1, 0.6, 0.0]]


def heat_and_tree(*arguments):
    heat, tree = distances_figure(*arguments).axes[:2]
    return heat, tree


def cells(axes) -> dict[tuple[str, str], str]:
    """Return the texts of the cells by the names of row and column."""
    labels = axes.get_xticklabels(), axes.get_yticklabels()
    across, down = ([label.get_text() for label in side] for side in labels)
    return {(down[int(y)], across[int(x)]): text.get_text() for text in axes.texts for x, y in [text.get_position()]}


def test_numbers_stand_where_their_names_say():
    heat, _ = heat_and_tree(DISTANCES, NAMES, "XMGD")
    found = cells(heat)
    assert found["dre", "grad cam"] == found["grad cam", "dre"] == "0.100"
    assert found["dre", "far away"] == "0.500"
    assert found["far away", "grad cam"] == "0.600"
    assert len(found) == 6
    assert heat.get_title(loc="left") == "XMGD"


def test_what_is_near_is_joined_first_and_stands_together():
    heat, tree = heat_and_tree(DISTANCES, NAMES)
    rows = [label.get_text() for label in heat.get_yticklabels()]
    assert abs(rows.index("dre") - rows.index("grad cam")) == 1
    forks = [line.get_xdata().max() for line in tree.lines]
    assert forks == pytest.approx([0.1, 0.55])  # average linkage: (0.5 + 0.6) / 2
    first = tree.lines[0].get_ydata()
    assert sorted((first.min(), first.max())) == sorted((rows.index("dre"), rows.index("grad cam")))
    assert heat.get_ylim() == tree.get_ylim() == (2.5, -0.5)


def test_many_names_are_told_apart_by_colour():
    square = np.random.default_rng(0).random((20, 20))
    figure = distances_figure(square + square.T, [f"explainer_{place}" for place in range(20)])
    assert not figure.axes[0].texts
    assert len(figure.axes) == 3  # and a scale of colours


@pytest.mark.parametrize(("factor", "text"), [(1e-3, "5.0e-04"), (1.0, "0.500"), (10.0, "5.00")])
def test_digits_go_with_the_size_of_the_distances(factor, text):
    heat, _ = heat_and_tree(factor * np.array(DISTANCES), NAMES)
    assert cells(heat)["dre", "far away"] == text


def test_a_distance_within_a_group_is_shown():
    heat, tree = heat_and_tree(np.array(DISTANCES) + 0.2 * np.eye(3), NAMES)
    assert cells(heat)["dre", "dre"] == "0.200"
    assert len(tree.lines) == 2


def test_comparisons_stand_side_by_side_in_the_given_order_and_may_be_negative():
    matrices = {"pearson": [[None, -0.5, 0.1], [-0.5, None, None], [0.1, 0.6, None]], "kullback_leibler": DISTANCES}
    first, second = comparisons_figure(matrices, NAMES).axes
    assert (first.get_title(loc="left"), second.get_title(loc="left")) == (
        "pearson, dark is larger",
        "kullback leibler, dark is larger",
    )
    found = cells(first)
    assert found["dre", "far away"] == "-0.500"
    assert ("far away", "grad cam") not in found
    assert first.images[0].get_clim() == (-0.5, 0.6)
    assert second.images[0].get_clim() == (0.1, 0.6)  # the diagonal does not count
    assert len(second.texts) == 6


def test_names_without_distances_are_left_out():
    distances = np.array(DISTANCES)
    distances[1] = distances[:, 1] = np.nan
    heat, _ = heat_and_tree(distances.tolist(), NAMES)
    assert [label.get_text() for label in heat.get_yticklabels()] == ["dre", "grad cam"]


def test_the_figure_is_the_same_for_the_same_numbers():
    pictures = [svg_bytes(distances_figure(DISTANCES, NAMES)) for _ in range(2)]
    assert pictures[0] == pictures[1]


@pytest.mark.parametrize(
    ("distances", "names", "line"),
    [
        ([[0.0, 1.0]], ["a", "b"], r"must be \[2, 2\], got \(1, 2\)"),
        ([[0.0, None], [None, 0.0]], ["a", "b"], "two or more names, and 0 of 2 have a distance"),
        ([[0.0, 1, 2], [1, 0, None], [2, None, 0]], ["a", "b", "c"], "distances between a, b, c are missing"),
    ],
)
def test_what_is_no_matrix_of_distances_is_refused(distances, names, line):
    with pytest.raises(ValueError, match=line):
        distances_figure(distances, names)
