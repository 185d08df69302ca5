import io

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.signal import fftconvolve
from skimage.measure import shannon_entropy

from dre.images.information import (
    SCALE_WEIGHTS,
    compressed_sizes,
    eight_bits,
    grey_entropy,
    information_content,
    ms_ssim,
)


def batch(size=3, channels=3, height=20, width=31):
    return torch.rand(size, channels, height, width, generator=torch.Generator().manual_seed(0))


def picture(image: torch.Tensor) -> Image.Image:
    pixels = eight_bits(image).permute(1, 2, 0).numpy()
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


@pytest.mark.parametrize("channels", [1, 3])
def test_sizes_are_those_of_the_files(channels):
    images = batch(channels=channels)
    for codec, options in (("png", {}), ("webp", {"lossless": True, "quality": 100})):
        sizes = compressed_sizes(images, codec)
        assert sizes.dtype == torch.float64
        for image, size in zip(images, sizes.tolist(), strict=True):
            buffer = io.BytesIO()
            picture(image).save(buffer, codec, **options)
            assert len(buffer.getvalue()) == size


def test_a_flat_image_is_smaller_than_noise_in_every_measure():
    noise, flat = batch(1, height=176, width=176), torch.full((1, 3, 176, 176), 0.5)
    for name in ("webp", "png", "grey_entropy", "ms_ssim"):
        assert information_content(flat, noise, name) < information_content(noise, noise, name), name


def test_sizes_do_not_depend_on_the_layout_in_memory():
    images = batch()
    other = images.contiguous(memory_format=torch.channels_last)
    assert torch.equal(compressed_sizes(images, "png"), compressed_sizes(other, "png"))


@pytest.mark.parametrize("channels", [1, 3])
def test_entropy_equals_pillow_and_scikit_image(channels):
    images = batch(channels=channels)
    expected = [shannon_entropy(np.asarray(picture(image).convert("L")), base=2) for image in images]
    torch.testing.assert_close(grey_entropy(images), torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)


def test_entropy_of_known_histograms():
    levels = torch.arange(256).float().view(1, 1, 16, 16) / 255
    halves = (torch.arange(16) < 8).float().expand(1, 1, 16, 16)
    actual = grey_entropy(torch.cat([levels, halves, torch.zeros(1, 1, 16, 16)]))
    torch.testing.assert_close(actual, torch.tensor([8.0, 1.0, 0.0], dtype=torch.float64))


def slow_ms_ssim(image: np.ndarray, original: np.ndarray) -> float:
    """One channel by the definition, in float64."""
    offsets = np.arange(11) - 5
    line = np.exp(-0.5 * (offsets / 1.5) ** 2)
    window = np.outer(line, line) / np.outer(line, line).sum()
    product = 1.0
    for scale, weight in enumerate(SCALE_WEIGHTS):
        means = {
            name: fftconvolve(values, window, mode="valid")
            for name, values in {
                "x": image,
                "y": original,
                "xx": image**2,
                "yy": original**2,
                "xy": image * original,
            }.items()
        }
        variance = means["xx"] - means["x"] ** 2 + means["yy"] - means["y"] ** 2
        structure = (2 * (means["xy"] - means["x"] * means["y"]) + 9e-4) / (variance + 9e-4)
        if scale == 4:
            structure *= (2 * means["x"] * means["y"] + 1e-4) / (means["x"] ** 2 + means["y"] ** 2 + 1e-4)
        product *= max(structure.mean(), 0) ** weight
        if scale < 4:
            image, original = halved(image), halved(original)
    return product


def halved(values: np.ndarray) -> np.ndarray:
    return values.reshape(values.shape[0] // 2, 2, values.shape[1] // 2, 2).mean((1, 3))


def test_ms_ssim_equals_its_definition():
    original = batch(2, height=176, width=192)
    images = (original + 0.3 * torch.randn(original.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    expected = [
        np.mean([slow_ms_ssim(*pair) for pair in zip(*both, strict=True)])
        for both in zip(images.double().numpy(), original.double().numpy(), strict=True)
    ]
    torch.testing.assert_close(ms_ssim(images, original), torch.tensor(expected), rtol=1e-4, atol=0)
    assert ms_ssim(original, original).tolist() == pytest.approx([1.0, 1.0], rel=1e-6)


@pytest.mark.oracle
@pytest.mark.parametrize("size", [(161, 224), (192, 177)])
def test_ms_ssim_equals_pytorch_msssim(size):
    oracle = pytest.importorskip("pytorch_msssim")
    original = batch(3, height=size[0], width=size[1])
    images = (original + 0.2 * torch.randn(original.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    expected = oracle.ms_ssim(images, original, data_range=1, size_average=False)
    torch.testing.assert_close(ms_ssim(images, original).float(), expected, rtol=1e-4, atol=1e-5)


def test_small_images_have_no_ms_ssim():
    with pytest.raises(ValueError, match=r"sides above 160 pixels, got \[20, 31\]; measure information by webp"):
        ms_ssim(batch(), batch())


def test_an_unknown_measure_is_refused():
    with pytest.raises(ValueError, match=r"must be one of webp, png, grey_entropy, ms_ssim, got 'jpeg'"):
        information_content(batch(), batch(), "jpeg")
