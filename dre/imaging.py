"""What a mask means, decided once: blurs, backgrounds and the blend of image and background."""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

BLUR_SIGMA = 10.0
"""Standard deviation in pixels of the blurred background (paper 003 says "variance 10"; its code uses sigma 10)."""

BLUR_RADIUS = 27
"""Half width of that kernel: 55 taps, as in the published code, but centred."""


@lru_cache(maxsize=64)
def _blur_matrix(length: int, sigma: float, radius: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Row-stochastic [length, length] matrix that blurs one axis, with the border reflected (edge pixel repeated)."""
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = kernel / kernel.sum()
    source = torch.arange(length)[:, None] + torch.arange(-radius, radius + 1)[None, :]
    source = source % (2 * length)  # a reflected signal has period 2 x length, so any radius is allowed
    source = torch.where(source < length, source, 2 * length - 1 - source)
    matrix = torch.zeros(length, length, dtype=torch.float64)
    return matrix.scatter_add_(1, source, kernel.expand(length, -1)).to(device, dtype)


def gaussian_blur(images: Tensor, sigma: float = BLUR_SIGMA, radius: int | None = None) -> Tensor:
    """Blur both axes with a Gaussian, borders reflected, for any size and any radius.

    One matrix product an axis: on this workload faster than a depthwise convolution, and exact at the borders.

    Args:
        images: [B, C, H, W], any range.
        sigma: Standard deviation in pixels; 0 returns the images.
        radius: Half width of the kernel; four standard deviations when not given.
    """
    if sigma < 0:
        raise ValueError(f"`sigma` must not be negative, got {sigma}")
    if sigma == 0:
        return images
    radius = int(4 * sigma + 0.5) if radius is None else radius
    rows = _blur_matrix(images.shape[-2], float(sigma), radius, images.dtype, images.device)
    columns = _blur_matrix(images.shape[-1], float(sigma), radius, images.dtype, images.device)
    with torch.autocast(images.device.type, enabled=False):  # what is shown must not depend on the precision
        return rows @ (images @ columns.T)


def blurred_background(images: Tensor) -> Tensor:
    """Give the blurred copy that stands for "nothing here" in M_F, DRE+ and half of the training backgrounds."""
    return gaussian_blur(images, BLUR_SIGMA, BLUR_RADIUS)


def coloured_noise(
    images: Tensor, colour_range: float = 0.165, noise: float = 0.055, generator: torch.Generator | None = None
) -> Tensor:
    """Draw one random colour per image around mid-grey and add Gaussian noise to it, clipped to [0, 1].

    Args:
        images: [B, C, H, W]; only shape, type and device are used.
        colour_range: Each channel's colour is uniform in 0.5 +- this.
        noise: Standard deviation of the pixel noise.
        generator: Source of randomness on the images' device.

    Source: the published code of paper 003, whose amplitudes 0.33 and 0.11 are in [-1, 1] units: halved here.
    """
    batch, channels = images.shape[:2]
    dtype, device = images.dtype, images.device
    colour = torch.rand(batch, channels, 1, 1, dtype=dtype, device=device, generator=generator)
    colour = 0.5 + colour_range * (2 * colour - 1)
    return (colour + noise * torch.randn(images.shape, dtype=dtype, device=device, generator=generator)).clamp(0, 1)


def background_mixture(images: Tensor, blur_share: float = 0.5, generator: torch.Generator | None = None) -> Tensor:
    """Give each image a background: its blurred copy with probability `blur_share`, coloured noise otherwise."""
    draw = torch.rand(len(images), device=images.device, generator=generator)
    blurred = (draw < blur_share).nonzero()[:, 0]
    noisy = (draw >= blur_share).nonzero()[:, 0]
    background = torch.empty_like(images)
    background[blurred] = blurred_background(images[blurred])
    background[noisy] = coloured_noise(images[noisy], generator=generator)
    return background


def blend(images: Tensor, mask: Tensor, fill: Tensor) -> Tensor:
    """Keep the pixels where `mask` is 1 and show `fill` where it is 0.

    Args:
        images: [B, C, H, W] in [0, 1].
        mask: [B, 1, H, W] in [0, 1]; intermediate values mix linearly.
        fill: Broadcasts to `images`, same range.

    Source: paper 003 (Fu et al., TPAMI), Eq. 1.
    """
    return torch.lerp(fill.expand_as(images), images, mask.expand_as(images))


def upsample(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize a map to (height, width) bilinearly, corners not aligned."""
    if tuple(mask.shape[-2:]) == tuple(size):
        return mask
    return F.interpolate(mask, size=tuple(size), mode="bilinear", align_corners=False)


def min_max(saliency: Tensor) -> Tensor:
    """Scale each map to [0, 1]; a constant map becomes all zero."""
    low = saliency.amin(dim=(1, 2, 3), keepdim=True)
    spread = saliency.amax(dim=(1, 2, 3), keepdim=True) - low
    return torch.where(spread > 0, (saliency - low) / spread.where(spread > 0, 1.0), 0.0)
