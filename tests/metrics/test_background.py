import numpy as np
import torch
from scipy import stats

from dre.metrics import background_share, inside, spearman


def example(batch=3):
    generator = torch.Generator().manual_seed(0)
    objects = torch.zeros(batch, 1, 8, 10)
    objects[..., 2:6, 1:7] = 1
    return torch.randn(batch, 1, 8, 10, generator=generator), torch.randn(batch, 1, 8, 10, generator=generator), objects


def test_inside_compares_the_pixels_of_the_object_and_no_others():
    one, other, objects = example()
    found = inside(spearman, one, other, objects)
    expected = [stats.spearmanr(a[m > 0], b[m > 0]).statistic for a, b, m in zip(one, other, objects, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    changed = torch.where(objects > 0, one, 100.0)
    assert torch.equal(inside(spearman, changed, other, objects), found)


def test_the_share_of_the_background():
    _, _, objects = example(1)
    outside = 1 - objects
    assert background_share(objects, objects) == 0
    assert background_share(-3 * outside, objects) == 1  # magnitudes
    half = objects / objects.sum() + 2 * torch.eye(8, 10) * outside / (torch.eye(8, 10) * outside).sum()
    torch.testing.assert_close(background_share(half, objects), torch.tensor([2 / 3], dtype=torch.float64))


def test_a_random_map_has_the_backgrounds_share_of_the_area():
    objects = torch.zeros(400, 1, 16, 16)
    objects[..., :6, :9] = 1
    found = background_share(torch.rand(objects.shape, generator=torch.Generator().manual_seed(0)), objects)
    error = found.std() / 20
    assert abs(found.mean() - (1 - 54 / 256)) < 4 * error


def test_what_has_no_share_is_undefined():
    one, other, objects = example()
    objects[1] = 0
    assert background_share(one, objects).isnan().tolist() == [False, True, False]
    assert inside(spearman, one, other, objects).isnan().tolist() == [False, True, False]
    assert background_share(torch.ones(3, 1, 8, 10), objects).isnan().all()  # constant: spread evenly, or nowhere?
