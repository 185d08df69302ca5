from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import stats

from dre.metrics import (
    EffectiveComplexity,
    Entropy,
    GiniSparsity,
    PearsonSkewness,
    effective_complexity,
    entropy,
    gini,
    pearson_skewness,
)
from dre.metrics.distribution import middle_share


def test_a_mask_of_zeros_and_ones_and_a_constant_map_have_nothing_in_the_middle():
    stacked = (torch.rand(4, 1, 8, 8) > 0.5).float()
    assert not middle_share(torch.cat([stacked, torch.full((1, 1, 8, 8), 0.5)])).any()


def test_an_even_ramp_has_four_fifths_there_whatever_its_range():
    ramp = torch.linspace(-3, 7, 10_001)[None, None, None]
    assert float(middle_share(ramp)) == pytest.approx(0.8, abs=1e-3)


def test_a_controller_that_is_monotone_leaves_two_levels_two_levels():
    mask = (torch.rand(1, 1, 16, 16) > 0.3).float()
    assert float(middle_share(torch.sigmoid(5 * mask) ** 2.5)) == 0


@pytest.mark.parametrize("size", [(6, 5), (5, 5)])  # even and odd number of pixels
def test_equals_numpy(size):
    saliency = torch.rand(4, 1, *size).square()
    flat = saliency.flatten(1).double().numpy()
    expected = 3 * (flat.mean(1) - np.median(flat, axis=1)) / flat.std(1)
    torch.testing.assert_close(pearson_skewness(saliency), torch.from_numpy(expected))


def test_scale_changes_nothing_and_sign_turns_it():
    saliency = torch.rand(3, 1, 8, 6).pow(3)
    skewness = pearson_skewness(saliency)
    assert (skewness > 0).all()
    torch.testing.assert_close(pearson_skewness(saliency.double() * 7 + 2), skewness)
    torch.testing.assert_close(pearson_skewness(-saliency), -skewness)


def test_a_constant_map_has_none():
    assert pearson_skewness(torch.full((2, 1, 7, 7), 0.1)).tolist() == [0, 0]


def maps(power=3):
    return torch.randn(5, 1, 11, 6, generator=torch.Generator().manual_seed(0)).pow(power)


def test_entropy_equals_scipy():
    expected = stats.entropy(maps().abs().flatten(1).double().numpy(), axis=1) / np.log(66)
    np.testing.assert_allclose(entropy(maps()), expected)


def test_gini_is_half_the_relative_mean_difference():
    """The definition by all pairs of pixels: sum |a - b| / (2 N^2 mean)."""
    values = maps().abs().flatten(1).double()
    pairs = (values[:, :, None] - values[:, None, :]).abs().sum(dim=(1, 2))
    torch.testing.assert_close(gini(maps()), pairs / (2 * 66**2 * values.mean(dim=1)))


@pytest.mark.parametrize("shape", [entropy, gini])
def test_scale_sign_and_place_change_nothing(shape):
    one = maps().double()
    torch.testing.assert_close(shape(-1e30 * one), shape(one))
    torch.testing.assert_close(shape(one.flip(2)), shape(one))


@pytest.mark.parametrize("value", [0.0, 0.1, -4.0])
def test_a_map_of_one_magnitude(value):
    flat = torch.full((2, 1, 7, 3), value)
    torch.testing.assert_close(entropy(flat), torch.ones(2, dtype=torch.float64))
    torch.testing.assert_close(gini(flat), torch.zeros(2, dtype=torch.float64), atol=1e-12, rtol=0)


def test_a_single_pixel():
    dot = torch.zeros(1, 1, 5, 8)
    dot[..., 2, 3] = -3
    assert entropy(dot).item() == 0
    assert gini(dot).item() == pytest.approx(1 - 1 / 40)


def test_a_map_of_one_pixel():
    assert entropy(torch.ones(1, 1, 1, 1)).item() == 0
    assert gini(torch.ones(1, 1, 1, 1)).item() == 0


def test_sparser_maps_have_less_entropy_and_more_gini():
    values = [(entropy(maps(power)), gini(maps(power))) for power in (1, 3, 9)]
    for (more, less), (fewer, larger) in pairwise(values):
        assert (more > fewer).all()
        assert (less < larger).all()


@pytest.mark.parametrize("metric_class", [Entropy, GiniSparsity, PearsonSkewness])
def test_a_map_with_nan_is_refused(metric_class):
    with pytest.raises(ValueError, match="non-finite"):
        metric_class().update(torch.full((1, 1, 2, 2), float("nan")))


def test_effective_complexity_counts_pixels_above_a_share_of_the_largest():
    saliency = maps()
    values = saliency.double().abs().numpy().reshape(5, -1)
    for threshold in (0.0, 1e-5, 0.1):
        expected = [sum(value > threshold * max(row) for value in row) / 66 for row in values]
        np.testing.assert_allclose(effective_complexity(saliency, threshold), expected)
    assert torch.equal(effective_complexity(-1e-30 * saliency), effective_complexity(saliency))
    assert effective_complexity(torch.zeros(1, 1, 3, 3)).item() == 0
    assert 0 < effective_complexity(saliency, 0.1).max() < 0.9


@pytest.mark.parametrize("threshold", [-0.1, 1.0])
def test_a_threshold_that_is_no_share_is_refused(threshold):
    with pytest.raises(ValueError, match=rf"`threshold` must be a share of the largest .* got {threshold}"):
        EffectiveComplexity(threshold)
