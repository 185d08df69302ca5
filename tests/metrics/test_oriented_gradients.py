import numpy as np
import pytest
import torch
from scipy import stats
from skimage.feature import hog

from dre.images.maps import min_max
from dre.metrics import gradient_correlation


def maps(size, seed=0, batch=3):
    return torch.randn(batch, 1, *size, generator=torch.Generator().manual_seed(seed))


def test_it_correlates_the_histograms_of_scikit_image():
    one, other = maps((64, 80)), maps((64, 80), 1) + maps((64, 80))
    expected = []
    for pair in zip(min_max(one.double()), min_max(other.double()), strict=True):
        found = [hog(map_[0].numpy(), pixels_per_cell=(16, 16), cells_per_block=(3, 3)) for map_ in pair]
        expected.append(stats.pearsonr(*found).statistic)
    np.testing.assert_allclose(gradient_correlation(one, other), expected, rtol=1e-10)


@pytest.mark.parametrize("size", [(64, 64), (20, 31), (5, 6), (3, 3), (1, 4), (2, 9)])
def test_equal_maps_correlate_fully_at_any_size(size):
    torch.testing.assert_close(gradient_correlation(maps(size), 7 * maps(size) + 1), torch.ones(3, dtype=torch.float64))


def test_edges_of_another_direction_do_not_correlate():
    along = torch.arange(48).remainder(8).float().expand(1, 1, 48, 48)
    assert gradient_correlation(along, along.transpose(2, 3)) < 0
    moved = torch.roll(along, 4, dims=3)
    assert gradient_correlation(along, moved) > 0.8  # the same edges, a little further


def test_a_constant_map_is_undefined():
    assert gradient_correlation(torch.ones(1, 1, 16, 16), maps((16, 16), batch=1)).isnan().all()
