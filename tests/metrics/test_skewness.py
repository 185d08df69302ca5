import numpy as np
import pytest
import torch

from dre.metrics import PearsonSkewness, pearson_skewness


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


def test_a_map_with_nan_is_refused():
    with pytest.raises(ValueError, match="non-finite"):
        PearsonSkewness().update(torch.full((1, 1, 2, 2), float("nan")))
