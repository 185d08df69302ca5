"""Gaussian blurs of images: kernels, borders, and the derivative in sigma."""

from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from dre.types import Tails

BLUR_SIGMA = 10.0
"""Standard deviation of a blur by default, in pixels, as in the code of Fu et al. 2021."""


Border = Literal["reflect", "replicate", "constant"]
"""What a blur sees beyond the border: the image mirrored (edge pixel repeated), its edge pixel, or one value."""


def _gaussian(sigma: float, radius: int) -> Tensor:
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    return kernel / kernel.sum()


def _folded_gaussian(sigma: float, radius: int) -> Tensor:
    """Blur a point in a window of the kernel's size, whose borders are reflected: its values sum to one."""
    point = torch.zeros(2 * radius + 1, dtype=torch.float64)
    point[radius] = 1.0
    return _spread(_gaussian(sigma, int(4 * sigma + 0.5)), len(point), "reflect") @ point


def _gaussian_slope(sigma: float, radius: int) -> Tensor:
    """Differentiate that kernel in sigma; the result sums to zero."""
    kernel = _gaussian(sigma, radius)
    spread = torch.arange(-radius, radius + 1, dtype=torch.float64) ** 2 / sigma**3
    return kernel * (spread - (kernel * spread).sum())


def _spread(kernel: Tensor, length: int, border: Border) -> Tensor:
    """Matrix [length, length] that applies a kernel along one axis; what a constant border adds is left out."""
    radius = len(kernel) // 2
    source = torch.arange(length)[:, None] + torch.arange(-radius, radius + 1)[None, :]
    weights = kernel.expand(length, -1)
    if border == "reflect":
        source = source % (2 * length)  # a reflected signal has period 2 x length, so any radius is allowed
        source = torch.where(source < length, source, 2 * length - 1 - source)
    elif border == "constant":
        weights = weights.where((source >= 0) & (source < length), 0.0)
    source = source.clamp(0, length - 1)
    matrix = torch.zeros(length, length, dtype=torch.float64)
    return matrix.scatter_add_(1, source, weights)


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # kept for later calls, which may need gradients
def _blur_matrix(
    length: int, sigma: float, radius: int, border: Border, tails: Tails, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Matrix [length, length] that blurs one axis; its rows sum to one but beside a constant border."""
    kernel = _folded_gaussian(sigma, radius) if tails == "folded" else _gaussian(sigma, radius)
    return _spread(kernel, length, border).to(device, dtype)


def gaussian_blur(
    images: Tensor,
    sigma: float = BLUR_SIGMA,
    radius: int | None = None,
    border: Border = "reflect",
    value: Tensor | float = 0.0,
    tails: Tails = "cut",
) -> Tensor:
    """Blur both axes with a Gaussian, for any size and any radius.

    One matrix product an axis: on this workload faster than a depthwise convolution, and exact at the borders.

    Args:
        images: [B, C, H, W], any range.
        sigma: Standard deviation in pixels; 0 returns the images.
        radius: Half width of the kernel; four standard deviations when not given.
        border: What the blur sees beyond the border.
        value: What a constant border shows; broadcasts to the images.
        tails: What becomes of the Gaussian beyond the kernel, see `dre.types.Tails`.

    Raises:
        ValueError: `sigma` is negative.
    """
    if sigma < 0:
        raise ValueError(f"`sigma` must not be negative, got {sigma}")
    if sigma == 0:
        return images
    radius = int(4 * sigma + 0.5) if radius is None else radius
    rows, columns = (
        _blur_matrix(length, float(sigma), radius, border, tails, images.dtype, images.device)
        for length in images.shape[-2:]
    )
    with torch.autocast(images.device.type, enabled=False):  # what is shown must not depend on the precision
        if border != "constant":
            return rows @ (images @ columns.T)
        return rows @ ((images - value) @ columns.T) + value  # around the border's value a border of zeros is right


def blur_with_slope(
    images: Tensor, sigma: float, radius: int, border: Border = "reflect", value: Tensor | float = 0.0
) -> tuple[Tensor, Tensor]:
    """Give the blurred images and the derivative of the blur in sigma, both [B, C, H, W].

    The derivative is that of the kernel, so it has no finite-difference noise; at sigma 0 it is zero, as the limit is.

    Args:
        images: [B, C, H, W], any range.
        sigma: Standard deviation in pixels.
        radius: Half width of the kernel; keep it fixed along a path, or the blur jumps where it grows.
        border: What the blur sees beyond the border.
        value: What a constant border shows; broadcasts to the images.
    """
    if sigma == 0:
        return images, torch.zeros_like(images)
    height, width = images.shape[-2:]
    kernels = _gaussian(sigma, radius), _gaussian_slope(sigma, radius)
    rows, row_slopes = (_spread(kernel, height, border).to(images) for kernel in kernels)
    columns, column_slopes = (
        (rows, row_slopes) if height == width else (_spread(kernel, width, border).to(images) for kernel in kernels)
    )
    level = value if border == "constant" else 0.0
    with torch.autocast(images.device.type, enabled=False):
        shifted = images - level  # around the border's value a border of zeros is right, and zeros need no weights
        across = shifted @ columns.T
        blurred = rows @ across + level
        return blurred, row_slopes @ across + rows @ (shifted @ column_slopes.T)


class BlurSpectrum:
    """Images as sums of cosines, which a blur with a reflected border only weighs: many blurs of them cost little.

    Each gives what `blur_with_slope` gives, to rounding. A wide blur leaves few cosines, and only these are added up.

    Args:
        images: [B, C, H, W], any range.
        radius: Half width of all kernels.

    Source: the discrete cosine transform of type II diagonalises symmetric filters of half-sample symmetric signals.
    """

    def __init__(self, images: Tensor, radius: int) -> None:
        self.images, self.radius = images, radius
        self.rows, self.columns = (_cosines(length, images.dtype, images.device) for length in images.shape[-2:])
        with torch.autocast(images.device.type, enabled=False):
            self.weights = self.rows @ (images.contiguous() @ self.columns.T)

    def blur(self, sigma: float) -> tuple[Tensor, Tensor]:
        """Give the blurred images and the derivative of the blur in sigma, both [B, C, H, W]."""
        if sigma == 0:
            return self.images, torch.zeros_like(self.images)
        rows, row_slopes = self._gains(self.rows, sigma)
        columns, column_slopes = self._gains(self.columns, sigma)
        part = self.weights[..., : len(rows), : len(columns)]
        slopes = row_slopes[:, None] * columns + rows[:, None] * column_slopes
        both = torch.stack([part * (rows[:, None] * columns), part * slopes])
        with torch.autocast(self.images.device.type, enabled=False):
            blurred, slope = self.rows[: len(rows)].T @ (both @ self.columns[: len(columns)])
        return blurred, slope

    def _gains(self, cosines: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        """Say what a blur leaves of each cosine of an axis, and its derivative, up to the last that is not rounding."""
        length = len(cosines)
        offsets = torch.arange(-self.radius, self.radius + 1, dtype=torch.float64)
        waves = torch.cos(torch.pi / length * torch.arange(length, dtype=torch.float64)[:, None] * offsets)
        gains, slopes = waves @ _gaussian(sigma, self.radius), waves @ _gaussian_slope(sigma, self.radius)
        heard = (gains.abs() + sigma * slopes.abs() > torch.finfo(self.images.dtype).eps).nonzero()
        count = int(heard[-1]) + 1
        return gains[:count].to(cosines), slopes[:count].to(cosines)


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # kept for later calls, which may need gradients
def _cosines(length: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Orthonormal cosines [length, length], one in each row, by ascending frequency."""
    places = torch.arange(length, dtype=torch.float64)
    waves = torch.cos(torch.pi / length * places[:, None] * (places + 0.5)) * (2 / length) ** 0.5
    waves[0] *= 0.5**0.5
    cosines: Tensor = waves.to(device, dtype)
    return cosines
