from typing import get_args

import pytest
import torch
from skimage.filters import gaussian

from dre.images.fill import TrainingFill, drawn_fills


def images() -> torch.Tensor:
    torch.manual_seed(0)
    return torch.rand(2, 3, 60, 48)


@pytest.mark.parametrize("name", get_args(TrainingFill))
def test_each_fill_is_what_its_name_says(name):
    some = images()
    colour = torch.tensor([0.2, 0.4, 0.6]).view(1, 3, 1, 1)
    shown = drawn_fills(some, [name], torch.Generator().manual_seed(0), colour)
    assert (shown.shape, shown.dtype) == (some.shape, some.dtype)
    if name == "black":
        assert shown.abs().max() == 0
    elif name == "dataset_mean":
        assert torch.equal(shown, colour.expand_as(some))
    elif name == "image_mean":
        torch.testing.assert_close(shown, some.mean((2, 3), keepdim=True).expand_as(some))
    elif name in ("blur", "blur25"):
        sigma, truncate = (10, 2.7) if name == "blur" else (25, 4.0)
        expected = [gaussian(one.numpy(), sigma, mode="reflect", truncate=truncate, channel_axis=0) for one in some]
        torch.testing.assert_close(shown, torch.stack([torch.from_numpy(one) for one in expected]), rtol=0, atol=1e-5)
    else:  # uniform noise spreads over [0, 1], coloured noise is one colour with a little noise
        spread = shown.std(dim=(2, 3))
        assert (spread - (12**-0.5 if name == "noise" else 0.055)).abs().max() < 0.01
        assert not torch.equal(shown[0], shown[1])


def test_fills_are_drawn_image_by_image_with_even_chances():
    some = torch.full((3000, 1, 1, 2), 0.5)
    shown = drawn_fills(some, ["black", "image_mean", "black"], torch.Generator().manual_seed(0))
    assert shown.flatten().unique().tolist() == [0.0, 0.5]
    assert (shown == 0).float().mean().item() == pytest.approx(2 / 3, abs=0.04)  # four standard errors
    again = drawn_fills(some, ["black", "image_mean", "black"], torch.Generator().manual_seed(0))
    assert torch.equal(shown, again)
