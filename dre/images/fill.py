"""What a mask means, decided once: blurs, backgrounds and the blend of image and background."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from dre.checks import check_count

BLUR_SIGMA = 10.0
"""Standard deviation in pixels of the blurred background (paper 003 says "variance 10"; its code uses sigma 10)."""

BLUR_RADIUS = 27
"""Half width of that kernel: 55 taps, as in the published code, but centred."""


Border = Literal["reflect", "replicate", "constant"]
"""What a blur sees beyond the border: the image mirrored (edge pixel repeated), its edge pixel, or one value."""

BaselineName = Literal["black", "white", "mean", "neutral", "blur", "random"]
Baseline = BaselineName | Tensor
"""What stands for "nothing here": a name, or images that broadcast to the batch."""


def _gaussian(sigma: float, radius: int) -> Tensor:
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    return kernel / kernel.sum()


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
def _blur_matrix(length: int, sigma: float, radius: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Row-stochastic [length, length] matrix that blurs one axis, with the border reflected (edge pixel repeated)."""
    return _spread(_gaussian(sigma, radius), length, "reflect").to(device, dtype)


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


def blur_with_slope(
    images: Tensor, sigma: float, radius: int, border: Border = "reflect", value: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Give the blurred images and the derivative of the blur in sigma, both [B, C, H, W].

    The derivative is that of the kernel, so it has no finite-difference noise; at sigma 0 it is zero, as the limit is.

    Args:
        images: [B, C, H, W], any range.
        sigma: Standard deviation in pixels.
        radius: Half width of the kernel; keep it fixed along a path, or the blur jumps where it grows.
        border: What the blur sees beyond the border.
        value: What a constant border shows.
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
def _cosines(length: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Orthonormal cosines [length, length], one in each row, by ascending frequency."""
    places = torch.arange(length, dtype=torch.float64)
    waves = torch.cos(torch.pi / length * places[:, None] * (places + 0.5)) * (2 / length) ** 0.5
    waves[0] *= 0.5**0.5
    cosines: Tensor = waves.to(device, dtype)
    return cosines


def baseline_images(
    images: Tensor,
    baseline: Baseline,
    neutral: Tensor,
    generators: Callable[[], Sequence[torch.Generator]],
    blur_sigma: float = BLUR_SIGMA,
) -> Tensor:
    """Give the images [B, C, H, W] that stand for "nothing here".

    Args:
        images: [B, C, H, W] in [0, 1].
        baseline: `black`, `white`, each image's own `mean` colour, the classifier's `neutral` colour, the image under
            a `blur`, uniform `random` noise, or images [C, H, W], [1, C, H, W] or [B, C, H, W] of your own.
        neutral: Colour [1, C, 1, 1] that the classifier's normalisation maps to zero; published code that works in
            normalised space calls it zeros.
        generators: Gives one source of randomness per image, when asked.
        blur_sigma: Standard deviation of `blur`, in pixels.
    """
    if isinstance(baseline, Tensor):
        allowed = (images.shape[1:], (1, *images.shape[1:]), images.shape)
        if baseline.shape not in allowed:
            raise ValueError(
                f"`baseline` must have shape {list(images.shape[1:])} or {list(images.shape)} to match `images`, "
                f"got {list(baseline.shape)}; resize it to the images"
            )
        return torch.empty_like(images).copy_(baseline)
    match baseline:
        case "black":
            return torch.zeros_like(images)
        case "white":
            return torch.ones_like(images)
        case "mean":
            return torch.empty_like(images).copy_(images.mean(dim=(2, 3), keepdim=True))
        case "neutral":
            return torch.empty_like(images).copy_(neutral)
        case "blur":
            return torch.empty_like(images).copy_(gaussian_blur(images, blur_sigma))
        case "random":
            draws = [torch.rand(images.shape[1:], generator=generator) for generator in generators()]
            return torch.empty_like(images).copy_(torch.stack(draws))
    raise ValueError(f"unknown baseline {baseline!r}; choose {', '.join(get_args(BaselineName))} or give a tensor")


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


def checkerboard(images: Tensor, cell: int = 16) -> Tensor:
    """Give black and white squares as large as the images, [1, C, H, W]; the upper left one is black.

    Args:
        images: [B, C, H, W]; only shape, type and device are used.
        cell: Side of a square in pixels.
    """
    check_count("cell", cell)
    rows, columns = (torch.arange(side, device=images.device) // cell for side in images.shape[-2:])
    squares = (rows[:, None] + columns[None, :]) % 2
    return squares.to(images.dtype).expand(1, images.shape[1], -1, -1)


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
