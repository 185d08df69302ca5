"""Linear imputation against SciPy's direct solver, on masks of every kind, and its limits."""

import pytest
import torch

from dre.images import noisy_linear
from dre.images.blur import gaussian_blur
from dre.images.noisy_linear import TOLERANCE, _Grids, linear_imputation
from tests.imputation import slow_imputation


def example(height, width, mask, share=0.4, channels=3, size=2):
    """Noisy images and masks that keep a share of the pixels, in blobs or one by one, a winding line, or one pixel."""
    generator = torch.Generator().manual_seed(height * width)
    images = torch.rand(size, channels, height, width, generator=generator)
    values = torch.rand(size, 1, height, width, generator=generator)
    if mask == "blobs":
        values = gaussian_blur(values, 2.0)
    ranks = values.flatten(1).argsort(dim=1).argsort(dim=1).view_as(values)
    kept = ranks < (1 if mask == "one" else max(1, int(share * height * width)))
    if mask == "winding":
        kept = torch.zeros_like(kept)
        kept[..., min(1, height - 1) :: 4, : width - 1], kept[..., 3::4, 1:] = True, True
    return images, kept


def slow(images, kept):
    return torch.stack([slow_imputation(image, mask[0]) for image, mask in zip(images, kept, strict=True)])


@pytest.mark.parametrize(("height", "width"), [(24, 17), (9, 20), (1, 7), (3, 3)])
@pytest.mark.parametrize("mask", ["blobs", "pixels", "winding", "one"])
def test_it_equals_the_direct_solver(height, width, mask):
    images, kept = example(height, width, mask, channels=2)
    expected = slow(images, kept)
    assert (linear_imputation(images, kept) - expected).abs().max() < TOLERANCE
    closer = linear_imputation(images.double(), kept, tolerance=1e-10)
    torch.testing.assert_close(closer, expected, rtol=0, atol=1e-9)


def test_a_large_hole_and_a_few_kept_pixels_are_solved():
    """The hardest cases for an iteration: what is known lies far from what is not."""
    images, kept = example(32, 32, "pixels", share=0.01)
    kept[1] = torch.ones(32, 32, dtype=torch.bool)
    kept[1, :, 1:31, 1:31] = False
    assert (linear_imputation(images, kept) - slow(images, kept)).abs().max() < TOLERANCE


def test_it_is_the_mean_of_its_neighbours_and_keeps_what_is_kept():
    images, kept = example(11, 8, "pixels")
    filled = linear_imputation(images.double(), kept, tolerance=1e-10)
    weights = torch.tensor([[1.0, 2.0, 1.0], [2.0, 0.0, 2.0], [1.0, 2.0, 1.0]], dtype=torch.float64)[None, None]

    def sums(values):
        return torch.nn.functional.conv2d(values.flatten(0, 1)[:, None], weights, padding=1).view_as(values)

    means = sums(filled) / sums(torch.ones_like(filled))
    torch.testing.assert_close(filled, torch.where(kept, images.double(), means), rtol=0, atol=1e-9)


def test_flat_and_sloped_images_are_restored():
    """A constant is its own mean everywhere, a slope away from the border, and so is a single kept pixel's colour."""
    images, kept = example(12, 12, "one", size=1)
    colour = images.where(kept, 0.0).sum(dim=(2, 3), keepdim=True)
    torch.testing.assert_close(linear_imputation(images, kept), colour.expand_as(images), rtol=0, atol=TOLERANCE)
    slope = torch.linspace(0, 1, 12).expand(1, 1, 12, 12)
    kept[:] = True
    kept[..., 2:9, 3:10] = False
    torch.testing.assert_close(linear_imputation(slope, kept), slope, rtol=0, atol=TOLERANCE)


def test_an_image_without_a_kept_pixel_shows_its_mean_and_one_without_a_hidden_pixel_itself():
    images, kept = example(10, 6, "pixels")
    kept[0], kept[1] = False, True
    filled = linear_imputation(images, kept)
    torch.testing.assert_close(filled[:1], images[:1].mean(dim=(2, 3), keepdim=True).expand(1, 3, 10, 6))
    assert torch.equal(filled[1], images[1])


def test_a_batch_equals_its_images_and_the_callers_tensors_stay():
    images, kept = example(20, 15, "blobs", size=4)
    kept[1], kept[2, :, :19] = True, False  # solved at once, and late
    before = images.clone(), kept.clone()
    together = linear_imputation(images, kept)
    alone = [linear_imputation(images[row : row + 1], kept[row : row + 1]) for row in range(4)]
    torch.testing.assert_close(torch.cat(alone), together, rtol=0, atol=1e-6)
    assert torch.equal(images, before[0])
    assert torch.equal(kept, before[1])


def test_precision_is_that_of_float32_whatever_the_caller_runs_in():
    images, kept = example(16, 16, "pixels")
    expected = linear_imputation(images, kept)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(linear_imputation(images, kept), expected)
    halved = linear_imputation(images.bfloat16(), kept)
    assert halved.dtype == torch.bfloat16
    torch.testing.assert_close(halved.float(), expected, rtol=0, atol=0.01)


def test_masks_of_another_shape_or_type_are_refused():
    images, kept = example(8, 6, "pixels")
    with pytest.raises(ValueError, match=r"`kept` must be bool \[2, 1, 8, 6\].*got torch.float32 \[2, 1, 8, 6\]"):
        linear_imputation(images, kept.float())
    with pytest.raises(ValueError, match=r"`kept` must be bool \[2, 1, 8, 6\].*got torch.bool \[1, 1, 8, 6\]"):
        linear_imputation(images, kept[:1])


def test_the_cycle_is_symmetric_and_a_few_of_them_suffice(monkeypatch):
    """What conjugate gradients ask of their preconditioner, and what they gain by it."""
    _, kept = example(41, 64, "blobs", size=1)
    grids = _Grids((~kept).double())
    first, second = torch.randn(2, 1, 3, 41, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    first, second = first * ~kept, second * ~kept
    assert (first * grids.cycle(second)).sum().item() == pytest.approx((second * grids.cycle(first)).sum().item())
    assert (first * grids.cycle(first)).sum() > 0
    monkeypatch.setattr(noisy_linear, "MOST_CYCLES", 7)
    images, kept = example(64, 64, "blobs", share=0.1)
    assert (linear_imputation(images, kept) - slow(images, kept)).abs().max() < TOLERANCE
