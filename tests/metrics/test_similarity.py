import numpy as np
import pytest
import torch
from scipy import stats
from skimage.metrics import structural_similarity as peer_similarity

from dre.images.maps import min_max
from dre.metrics import (
    Pearson,
    Spearman,
    TopIntersection,
    pearson,
    reverse_squared_error,
    spearman,
    structural_similarity,
    top_intersection,
    weighted_jaccard,
)

FUNCTIONS = [pearson, spearman, weighted_jaccard, structural_similarity, reverse_squared_error, top_intersection]


def maps(batch=4, height=13, width=17, seed=0):
    return torch.randn(batch, 1, height, width, generator=torch.Generator().manual_seed(seed))


def rows(*tensors):
    return zip(*(tensor.flatten(1).double().numpy() for tensor in tensors), strict=True)


@pytest.mark.parametrize(
    "reshape",
    [lambda values: values, torch.relu, lambda values: values.round()],
    ids=["distinct", "half tied", "few values"],
)
def test_correlations_equal_scipy(reshape):
    one, other = reshape(maps()), reshape(maps(seed=1) + 0.5 * maps())
    for ours, theirs in ((pearson, stats.pearsonr), (spearman, stats.spearmanr)):
        expected = [theirs(*pair).statistic for pair in rows(one, other)]
        np.testing.assert_allclose(ours(one, other), expected, rtol=1e-10)


@pytest.mark.parametrize("size", [(13, 17), (7, 7), (40, 8)])
def test_structural_similarity_equals_scikit_image(size):
    one, other = maps(3, *size), maps(3, *size, seed=1) + maps(3, *size)
    scaled = [min_max(each.double())[:, 0].numpy() for each in (one, other)]
    expected = [peer_similarity(*pair, data_range=1.0) for pair in zip(*scaled, strict=True)]
    np.testing.assert_allclose(structural_similarity(one, other), expected, rtol=1e-9)


def test_small_maps_have_smaller_windows():
    one, other = maps(2, 4, 30), maps(2, 4, 30, seed=1)
    scaled = [min_max(each.double())[:, 0].numpy() for each in (one, other)]
    expected = [peer_similarity(*pair, data_range=1.0, win_size=3) for pair in zip(*scaled, strict=True)]
    np.testing.assert_allclose(structural_similarity(one, other), expected, rtol=1e-9)


@pytest.mark.parametrize("compare", FUNCTIONS)
def test_a_map_and_its_rescaled_copy_are_alike(compare):
    one = maps().double()
    torch.testing.assert_close(compare(one, 3 * one - 7), torch.ones(4, dtype=torch.float64))


@pytest.mark.parametrize("compare", FUNCTIONS)
def test_different_maps_are_less_alike_and_scale_does_not_matter(compare):
    one, other = maps().double(), maps(seed=1).double()
    value = compare(one, other)
    assert value.dtype == torch.float64
    assert (value < 0.9).all()
    torch.testing.assert_close(compare(5 * one + 1, other / 9), value)


@pytest.mark.parametrize("compare", [spearman, top_intersection])
def test_rankings_ignore_any_increasing_function(compare):
    one, other = maps().double(), maps(seed=1).double()
    torch.testing.assert_close(compare(one.exp(), other**3), compare(one, other))


@pytest.mark.parametrize("compare", [function for function in FUNCTIONS if function is not reverse_squared_error])
def test_most_are_symmetric(compare):
    torch.testing.assert_close(compare(maps(), maps(seed=1)), compare(maps(seed=1), maps()))


def test_hand_worked_values():
    one = torch.tensor([[[[0.0, 0.25, 0.5, 1.0]]]])
    other = torch.tensor([[[[1.0, 0.5, 0.0, 0.5]]]])
    assert weighted_jaccard(one, other).item() == pytest.approx((0 + 0.25 + 0 + 0.5) / (1 + 0.5 + 0.5 + 1))
    assert reverse_squared_error(one, other).item() == pytest.approx(1 - (1 + 0.0625 + 0.25 + 0.25) / 1.5)
    assert top_intersection(one, other, 0.5).item() == 0  # the last two pixels against the first two
    assert top_intersection(one, other, 0.75).item() == pytest.approx(2 / 3)


def test_of_equal_values_the_first_ranks_higher():
    tied = torch.zeros(1, 1, 1, 10)
    first = torch.arange(10, 0, -1.0).view(1, 1, 1, 10)
    assert top_intersection(tied, first, 0.3).item() == 1
    assert top_intersection(tied, first.flip(3), 0.3).item() == 0


def test_random_maps_share_what_chance_gives():
    one, other = maps(200, 20, 20), maps(200, 20, 20, seed=1)
    assert top_intersection(one, other, 0.1).mean().item() == pytest.approx(0.1, abs=0.01)


def test_constant_maps_are_handled_as_documented():
    flat, other = torch.full((1, 1, 7, 7), 0.1), maps(1, 7, 7)
    assert pearson(flat, other).isnan().all()
    assert spearman(other, flat).isnan().all()
    for compare in (weighted_jaccard, structural_similarity, reverse_squared_error):
        assert compare(flat, 3 * flat) == 1
    assert weighted_jaccard(flat, other) == 0
    assert reverse_squared_error(other, flat).isnan().all()
    assert reverse_squared_error(flat, other) == 0


@pytest.mark.parametrize("metric_class", [Pearson, Spearman])
def test_constant_maps_are_left_out_and_counted(metric_class):
    one = maps()
    one[2] = 0.25
    metric = metric_class()
    metric.update(one, maps(seed=1))
    assert (metric.count, metric.dropped) == (3, 1)
    assert metric.compute().isfinite()


def test_huge_and_tiny_values_keep_their_correlation():
    one, other = maps().double(), maps(seed=1).double()
    torch.testing.assert_close(pearson(one * 1e-200, other * 1e200), pearson(one, other))


@pytest.mark.parametrize(
    ("saliency", "reference", "line"),
    [
        (maps(), maps(3), r"`reference` must have shape \[4, 1, 13, 17\].*got \[3, 1, 13, 17\]"),
        (maps(), maps()[:, 0], r"got \[4, 13, 17\]"),
        (maps() / 0, maps(), "non-finite values in 4 of 4"),
        (maps(), maps() * torch.nan, "non-finite values in 4 of 4"),
    ],
)
def test_bad_pairs_are_refused_in_one_line(saliency, reference, line):
    with pytest.raises(ValueError, match=line):
        Pearson().update(saliency, reference)


def test_a_share_outside_its_range_is_refused():
    with pytest.raises(ValueError, match=r"`share` must be in \(0, 1\], got 0"):
        TopIntersection(share=0)
