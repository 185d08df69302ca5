import numpy as np
import ot
import pytest
import torch
from scipy import stats

from dre.metrics import (
    EarthMover,
    IntersectionOverUnion,
    earth_mover,
    intersection_over_union,
    kullback_leibler,
    root_mean_square,
    value_distance,
)
from dre.metrics.distribution import as_distribution, normalised_saliency

DISTANCES = [earth_mover, kullback_leibler, root_mean_square, value_distance]


def maps(batch=3, height=9, width=12, seed=0):
    return torch.rand(batch, 1, height, width, generator=torch.Generator().manual_seed(seed)).pow(3)


def dot(row, column, height=28, width=28):
    one = torch.zeros(1, 1, height, width)
    one[..., row, column] = 2.0
    return one


@pytest.mark.parametrize("compare", DISTANCES)
def test_a_map_is_nothing_from_itself_whatever_its_scale(compare):
    one = maps().double()
    torch.testing.assert_close(compare(one, 7 * one), torch.zeros(3, dtype=torch.float64), atol=1e-12, rtol=0)
    assert (compare(one, maps(seed=1)) > 0).all()


@pytest.mark.parametrize("compare", [*DISTANCES, intersection_over_union])
def test_scale_changes_nothing_and_only_one_is_not_symmetric(compare):
    one, other = maps().double(), maps(seed=1).double()
    torch.testing.assert_close(compare(one / 3, 5 * other), compare(one, other))
    if compare is not kullback_leibler:
        torch.testing.assert_close(compare(other, one), compare(one, other))


def test_kullback_leibler_equals_scipy_on_the_mixed_distributions():
    one, other = maps(), maps(seed=1)
    shares = [0.999 * as_distribution(each) + 0.001 / 108 for each in (one, other)]
    np.testing.assert_allclose(kullback_leibler(one, other), stats.entropy(*(s.numpy() for s in shares), axis=1))


def test_kullback_leibler_of_two_dots_is_finite_and_within_its_bound():
    value = kullback_leibler(dot(3, 3), dot(20, 9)).item()
    assert value == pytest.approx(0.999 * np.log(1000 * 784 * 0.999 + 1), rel=1e-6)
    assert value < np.log(1000 * 784)


def test_value_distance_equals_scipy():
    one, other = maps(), maps(seed=1)
    pairs = zip(normalised_saliency(one).flatten(1).numpy(), normalised_saliency(other).flatten(1).numpy(), strict=True)
    np.testing.assert_allclose(value_distance(one, other), [stats.wasserstein_distance(*pair) for pair in pairs])


def test_values_do_not_know_where_they_lie():
    one = maps()
    assert (value_distance(one, one.roll(3, dims=3)) == 0).all()
    assert (earth_mover(one, one.roll(3, dims=3)) > 0).all()


def test_the_earth_movers_distance_of_two_dots_is_their_distance():
    expected = np.hypot(10 / 28, 6 / 28)
    assert earth_mover(dot(5, 5), dot(15, 11)).item() == pytest.approx(expected)
    assert earth_mover(dot(50, 50, 280, 280), dot(150, 110, 280, 280)).item() == pytest.approx(expected)


def test_the_earth_movers_distance_along_a_line_equals_scipy():
    """On one row, mass moves along it: the distance of the places under the shares as weights."""
    one, other = maps(1, 1, 20), maps(1, 1, 20, seed=1)
    places = (np.arange(20) + 0.5) / 20
    expected = stats.wasserstein_distance(places, places, *(as_distribution(each)[0].numpy() for each in (one, other)))
    assert earth_mover(one, other).item() == pytest.approx(expected)


def test_the_earth_movers_distance_equals_a_transport_of_averaged_cells():
    one, other = maps(1, 56, 84), maps(1, 56, 84, seed=1)
    cells = [as_distribution(each).view(28, 2, 28, 3).sum(dim=(1, 3)).flatten().numpy() for each in (one, other)]
    places = np.stack(np.meshgrid(*[(np.arange(28) + 0.5) / 28] * 2, indexing="ij"), axis=-1).reshape(-1, 2)
    expected = ot.emd2(cells[0] / cells[0].sum(), cells[1] / cells[1].sum(), ot.dist(places, places, "euclidean"))
    assert earth_mover(one, other).item() == pytest.approx(expected, rel=1e-6)


def test_overlapping_boxes():
    one, other = torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8)
    one[..., :4, :4], other[..., 2:6, :4] = 1, 1
    assert intersection_over_union(one, other).item() == pytest.approx(8 / 24)
    assert root_mean_square(one, other).item() == pytest.approx((16 / 64) ** 0.5)


def test_constant_maps_are_even():
    flat, zero = torch.full((2, 1, 9, 12), -3.0), torch.zeros(2, 1, 9, 12)
    for compare in DISTANCES:
        torch.testing.assert_close(compare(flat, zero), torch.zeros(2, dtype=torch.float64))
    assert (intersection_over_union(flat, zero) == 1).all()
    torch.testing.assert_close(as_distribution(flat), torch.full((2, 108), 1 / 108, dtype=torch.float64))


def test_negative_values_count_as_asked():
    signed = torch.tensor([[[[-2.0, 0.0, 1.0, 0.5]]]])
    assert normalised_saliency(signed).flatten().tolist() == [1, 0, 0.5, 0.25]
    assert normalised_saliency(signed, "positive").flatten().tolist() == [0, 0, 1, 0.5]
    torch.testing.assert_close(
        normalised_saliency(signed, "shift").flatten(), torch.tensor([0, 2 / 3, 1, 5 / 6]).double()
    )
    with pytest.raises(ValueError, match="unknown sign 'square'; choose magnitude, positive, shift"):
        normalised_saliency(signed, "square")


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"`threshold` must be in \(0, 1\), got 1"):
        IntersectionOverUnion(threshold=1.0)
    with pytest.raises(ValueError, match="`side` must be at least 1, got 0"):
        EarthMover(side=0)
