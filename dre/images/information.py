"""Image information: compressed file size, grey-level entropy, and MS-SSIM to the original."""

import io
import math
import os
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from dre.types import InformationName

CODECS: dict[str, dict[str, Any]] = {"webp": {"lossless": True, "quality": 100}, "png": {}}
"""Options of Pillow: WebP as in the `saliency` package, PNG with the defaults."""

SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Weights of the five scales of MS-SSIM, finest first, as Wang et al. 2003 measured them."""

WINDOW, WINDOW_SIGMA = 11, 1.5
STABILISERS = (0.01**2, 0.03**2)


def information_content(images: Tensor, originals: Tensor, name: InformationName) -> Tensor:
    """Return how much each image shows, float64 [N], higher is more.

    Args:
        images: [N, C, H, W] in [0, 1]; all but `ms_ssim` read them as 8 bits.
        originals: [N, C, H, W], the images before masking; only `ms_ssim` reads them.
        name: Bytes of a lossless `webp` or of a `png` file, bits of the `grey_entropy`, or `ms_ssim`.

    Raises:
        ValueError: `name` is none of these, or the images are too small for `ms_ssim`.
    """
    if name == "grey_entropy":
        return grey_entropy(images)
    if name == "ms_ssim":
        return ms_ssim(images, originals)
    if name in ("webp", "png"):
        return compressed_sizes(images, name)
    raise ValueError(f"`information` must be one of {', '.join(get_args(InformationName))}, got {name!r}")


def eight_bits(images: Tensor) -> Tensor:
    """Round pixels in [0, 1] to uint8."""
    return (images * 255).round().clamp(0, 255).to(torch.uint8)


def compressed_sizes(images: Tensor, codec: Literal["webp", "png"]) -> Tensor:
    """Return the bytes of each image [N, C, H, W] as a lossless file, float64 [N]; a pool of threads compresses."""
    pixels = eight_bits(images).permute(0, 2, 3, 1).cpu().numpy()
    sizes = list(_pool().map(partial(_compressed_size, codec=codec), pixels))
    return torch.tensor(sizes, dtype=torch.float64, device=images.device)


def recompress(images: Tensor, quality: int = 75) -> Tensor:
    """Return images [N, C, H, W] in [0, 1] as they come back from JPEG files, in 8 bits.

    Args:
        images: One or three channels.
        quality: Of the files, 1 to 95 by Pillow's scale, with its usual halving of the colour's resolution.

    Raises:
        ValueError: `quality` is outside 1 to 95.
    """
    if not 1 <= quality <= 95:
        raise ValueError(f"`quality` of a JPEG file lies between 1 and 95, got {quality}")
    pixels = eight_bits(images).permute(0, 2, 3, 1).cpu().numpy()
    read = list(_pool().map(partial(_through_jpeg, quality=quality), pixels))
    return torch.from_numpy(np.stack(read)).permute(0, 3, 1, 2).to(images) / 255


def _through_jpeg(pixels: "np.ndarray[Any, np.dtype[np.uint8]]", quality: int) -> "np.ndarray[Any, np.dtype[np.uint8]]":
    buffer = io.BytesIO()
    _picture(pixels).save(buffer, format="jpeg", quality=quality)
    with Image.open(buffer) as picture:
        return np.array(picture).reshape(pixels.shape)


def _picture(pixels: "np.ndarray[Any, np.dtype[np.uint8]]") -> Image.Image:
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else np.ascontiguousarray(pixels))


def _compressed_size(pixels: "np.ndarray[Any, np.dtype[np.uint8]]", codec: str) -> int:
    buffer = io.BytesIO()
    _picture(pixels).save(buffer, format=codec, **CODECS[codec])
    return buffer.tell()


@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    """Start one thread for each core that this process may use; Pillow releases the interpreter's lock meanwhile."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return ThreadPoolExecutor(available, thread_name_prefix="compression")


def grey_entropy(images: Tensor) -> Tensor:
    """Compute the Shannon entropy in bits of the histogram of 256 grey levels, float64 [N] in [0, 8].

    Args:
        images: [N, C, H, W] in [0, 1], one or three channels; grey is the luma that Pillow's mode L has.

    Source: Rahman et al. 2022, "the entropy of the gray version of the saliency-focused image".
    """
    pixels = eight_bits(images).long()
    if pixels.shape[1] == 3:
        weights = torch.tensor([19595, 38470, 7471], device=pixels.device).view(1, 3, 1, 1)  # 0.299, 0.587, 0.114
        pixels = ((pixels * weights).sum(dim=1, keepdim=True) + 32768) >> 16
    levels = pixels.flatten(1) + 256 * torch.arange(len(pixels), device=pixels.device)[:, None]
    counts = torch.bincount(levels.flatten(), minlength=256 * len(pixels)).view(len(pixels), 256)
    shares = counts.double() / levels.shape[1]
    entropy: Tensor = -torch.special.xlogy(shares, shares).sum(dim=1) / math.log(2)
    return entropy


def ms_ssim(images: Tensor, originals: Tensor) -> Tensor:
    """Compute the multi-scale structural similarity to the original, float64 [N] in [0, 1], averaged over channels.

    Five scales, an 11-tap Gaussian window of sigma 1.5 that stays inside the image, contrasts below 0 set to 0.

    Args:
        images: [N, C, H, W] in [0, 1], each side above 160.
        originals: The same shape.

    Raises:
        ValueError: A side has 160 pixels or fewer.

    Source: Wang, Simoncelli and Bovik 2003.
    """
    least = (WINDOW - 1) * 2 ** (len(SCALE_WEIGHTS) - 1)
    if min(images.shape[-2:]) <= least:
        raise ValueError(
            f"MS-SSIM on five scales needs sides above {least} pixels, got {list(images.shape[-2:])}; "
            "measure information by webp, png or grey_entropy"
        )
    images, originals = images.float(), originals.float()
    product = torch.ones(images.shape[:2], dtype=torch.float64, device=images.device)
    for scale, weight in enumerate(SCALE_WEIGHTS):
        luminance, contrast = _similarities(images, originals)
        is_last = scale == len(SCALE_WEIGHTS) - 1
        similarity = luminance * contrast if is_last else contrast
        product *= similarity.flatten(2).mean(dim=2, dtype=torch.float64).clamp_min(0) ** weight
        if not is_last:
            padding = [side % 2 for side in images.shape[-2:]]
            images, originals = (F.avg_pool2d(pixels, 2, padding=padding) for pixels in (images, originals))
    return product.mean(dim=1).clamp_max(1)


def _similarities(images: Tensor, originals: Tensor) -> tuple[Tensor, Tensor]:
    """Return the luminance term and the contrast-structure term of SSIM, both [N, C, H - 10, W - 10]."""
    rows, columns = (_window(side, images.device) for side in images.shape[-2:])

    def mean(pixels: Tensor) -> Tensor:
        return rows @ (pixels @ columns.T)

    with torch.autocast(images.device.type, enabled=False):
        one, other = mean(images), mean(originals)
        variances = mean(images * images + originals * originals) - one * one - other * other
        covariance = mean(images * originals) - one * other
    luminance = (2 * one * other + STABILISERS[0]) / (one * one + other * other + STABILISERS[0])
    return luminance, (2 * covariance + STABILISERS[1]) / (variances + STABILISERS[1])


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # kept for later calls, which may need gradients
def _window(length: int, device: torch.device) -> Tensor:
    """Return the matrix [length - 10, length] that slides the Gaussian window along one axis."""
    offsets = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    kernel = torch.exp(-0.5 * (offsets / WINDOW_SIGMA) ** 2)
    matrix = torch.zeros(length - WINDOW + 1, length, dtype=torch.float64)
    for place, weight in enumerate(kernel / kernel.sum()):
        matrix.diagonal(place)[: len(matrix)] = weight
    return matrix.to(device, torch.float32)
