"""Fills and the blend of an image with one: what is shown where a pixel is hidden, for metrics and explainers."""

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from dre.checks import check_count
from dre.images.blur import gaussian_blur
from dre.images.randomness import on_device
from dre.types import Blur, FillName

BLUR = Blur(sigma=10.0, radius=27)
"""The fill `blur` of M_F, DRE+ and the training of masks: 55 taps, as in the code of Fu et al. 2021, but centred."""

Baseline = FillName | Tensor
"""Where a path starts: the name of a fill, or images that broadcast to the batch."""

DrawnFill = FillName | Literal["mixture"]
"""A fill of masks that are optimised: constant, or drawn anew at each iteration."""

TrainingFill = Literal["blur", "blur25", "image_mean", "black", "noise", "coloured_noise", "dataset_mean"]
"""A fill that training can draw: `blur25` has a sigma of 25 pixels, `coloured_noise` is that of Fu et al. 2021."""

FILLS: tuple[DrawnFill, ...] = (*get_args(FillName), "mixture")


def fill_images(
    images: Tensor,
    fill: Baseline | Blur,
    dataset_mean: Tensor | None = None,
    generators: Callable[[], Sequence[torch.Generator]] | None = None,
    blur_sigma: float = BLUR.sigma,
    blur_radius: int | None = BLUR.radius,
) -> Tensor:
    """Return what a fill shows for each image, [B, C, H, W] in the type and layout of the images.

    Args:
        images: [B, C, H, W] in [0, 1].
        fill: See `dre.types.FillName`; another blur; or images [C, H, W], [1, C, H, W] or [B, C, H, W] of your own.
        dataset_mean: Colour [1, C, 1, 1] that the classifier's normalisation maps to zero, for that fill.
        generators: Return one source of randomness per image, for `noise`.
        blur_sigma: Standard deviation of `blur`, in pixels.
        blur_radius: Half width of its kernel; four standard deviations when None.

    Raises:
        ValueError: The fill is unknown, has another shape than the images, or needs what is not given.
    """
    if isinstance(fill, Tensor):
        return torch.empty_like(images).copy_(_checked(fill, images))
    if isinstance(fill, Blur):
        return torch.empty_like(images).copy_(_blurred(images, fill, dataset_mean))
    if fill == "blur":
        return torch.empty_like(images).copy_(gaussian_blur(images, blur_sigma, blur_radius))
    if fill == "black":
        return torch.zeros_like(images)
    if fill == "white":
        return torch.ones_like(images)
    if fill == "image_mean":
        return torch.empty_like(images).copy_(images.mean(dim=(2, 3), keepdim=True))
    if fill == "dataset_mean" and dataset_mean is not None:
        return torch.empty_like(images).copy_(dataset_mean)
    if fill == "noise" and generators is not None:
        draws = [torch.rand(images.shape[1:], generator=generator) for generator in generators()]
        return torch.empty_like(images).copy_(torch.stack(draws))
    if fill in get_args(FillName):
        lacks = "`dataset_mean`, a classifier's" if fill == "dataset_mean" else "`generators`, one for each image"
        raise ValueError(f"the fill {fill!r} needs {lacks}; give it, or choose another fill")
    raise ValueError(
        f"unknown fill or baseline {fill!r}; choose {', '.join(get_args(FillName))}, or give a Blur or a tensor"
    )


def _blurred(images: Tensor, blur: Blur, dataset_mean: Tensor | None) -> Tensor:
    if blur.border == "reflect":
        return gaussian_blur(images, blur.sigma, blur.radius, tails=blur.tails)
    value: Tensor | float = 0.0
    if blur.border == "dataset_mean":
        if dataset_mean is None:
            raise ValueError("a blur with a border of `dataset_mean` needs a classifier's; give it, or another border")
        value = dataset_mean.to(images)
    return gaussian_blur(images, blur.sigma, blur.radius, "constant", value, blur.tails)


def _checked(fill: Tensor, images: Tensor) -> Tensor:
    if fill.shape not in (images.shape[1:], (1, *images.shape[1:]), images.shape):
        raise ValueError(
            f"`baseline` must have shape {list(images.shape[1:])} or {list(images.shape)} to match `images`, "
            f"got {list(fill.shape)}; resize it to the images"
        )
    return fill


class FillDraws:
    """Fills of a few images, iteration by iteration, for masks that are optimised.

    Args:
        images: [N, C, H, W].
        fill: Constant but for `mixture`, which is `BLUR` or coloured noise by even chance, as DRE is trained on.
        dataset_mean: Colour [1, C, 1, 1] of the classifier.
        generators: One for each image.
        blur_sigma: Standard deviation of `blur`, in pixels.
        blur_radius: Half width of its kernel; four standard deviations when None.

    Source: Fu et al. 2021 give the mixture to all methods that perturb.
    """

    def __init__(
        self,
        images: Tensor,
        fill: DrawnFill,
        dataset_mean: Tensor,
        generators: Sequence[torch.Generator],
        blur_sigma: float,
        blur_radius: int | None = None,
    ) -> None:
        self.images = images
        self.is_mixture = fill == "mixture"
        self.generators = [on_device(generator, images.device) for generator in generators]
        self.constant = (
            fill_images(images, BLUR)
            if fill == "mixture"
            else fill_images(images, fill, dataset_mean, lambda: generators, blur_sigma, blur_radius)
        )

    def draw(self) -> Tensor:
        """Return the fills [N, C, H, W] of the next iteration."""
        if not self.is_mixture:
            return self.constant
        drawn = []
        for place, generator in enumerate(self.generators):
            image, blurred = self.images[place : place + 1], self.constant[place : place + 1]
            chance = torch.rand(1, device=image.device, generator=generator)
            drawn.append(torch.where(chance < 0.5, blurred, coloured_noise(image, generator=generator)))
        return torch.cat(drawn)


def coloured_noise(
    images: Tensor, colour_range: float = 0.165, noise: float = 0.055, generator: torch.Generator | None = None
) -> Tensor:
    """Draw one random colour per image around mid-grey and add Gaussian noise to it, clipped to [0, 1].

    Args:
        images: [B, C, H, W]; only shape, type and device are used.
        colour_range: Each channel's colour is uniform in 0.5 +- this.
        noise: Standard deviation of the pixel noise.
        generator: Source of randomness on the images' device.

    Source: the published code of Fu et al. 2021, whose amplitudes 0.33 and 0.11 are in [-1, 1] units: halved here.
    """
    batch, channels = images.shape[:2]
    dtype, device = images.dtype, images.device
    colour = torch.rand(batch, channels, 1, 1, dtype=dtype, device=device, generator=generator)
    colour = 0.5 + colour_range * (2 * colour - 1)
    return (colour + noise * torch.randn(images.shape, dtype=dtype, device=device, generator=generator)).clamp(0, 1)


def mixture_fill(
    images: Tensor, blur_share: float = 0.5, generator: torch.Generator | None = None, blur: Blur = BLUR
) -> Tensor:
    """Return for each image its blur with probability `blur_share`, coloured noise otherwise: [B, C, H, W].

    Args:
        images: [B, C, H, W] in [0, 1].
        blur_share: In [0, 1].
        generator: Source of randomness on the images' device.
        blur: Its width.

    Source: Fu et al. 2021; the even chance is that of their code.
    """
    draw = torch.rand(len(images), device=images.device, generator=generator)
    blurred = (draw < blur_share).nonzero()[:, 0]
    noisy = (draw >= blur_share).nonzero()[:, 0]
    fill = torch.empty_like(images)
    fill[blurred] = gaussian_blur(images[blurred], blur.sigma, blur.radius)
    fill[noisy] = coloured_noise(images[noisy], generator=generator)
    return fill


def drawn_fills(
    images: Tensor,
    fills: Sequence[TrainingFill],
    generator: torch.Generator | None = None,
    dataset_mean: Tensor | None = None,
) -> Tensor:
    """Return for each image one of several fills, drawn with even chances: [B, C, H, W].

    Args:
        images: [B, C, H, W] in [0, 1].
        fills: Names to draw from; one that is named twice has twice the chance.
        generator: Source of randomness on the images' device.
        dataset_mean: Colour [1, C, 1, 1] that the classifier's normalisation maps to zero, for that fill.

    Raises:
        ValueError: A name is unknown, or there is none.

    Source: our choice. A mask that is trained over one fill is good over that one (`docs/experiments.md`).
    """
    check_fills(fills)
    draws = torch.randint(len(fills), (len(images),), device=images.device, generator=generator)
    shown = torch.empty_like(images)
    for place, name in enumerate(fills):
        rows = (draws == place).nonzero()[:, 0]
        if not len(rows):
            continue
        if name == "noise":
            some = images[rows]
            shown[rows] = torch.rand(some.shape, dtype=some.dtype, device=some.device, generator=generator)
        elif name == "coloured_noise":
            shown[rows] = coloured_noise(images[rows], generator=generator)
        else:
            shown[rows] = fill_images(images[rows], Blur(25.0) if name == "blur25" else name, dataset_mean)
    return shown


def check_fills(fills: Sequence[str]) -> None:
    """Check that all names are fills that training can draw.

    Raises:
        ValueError: A name is unknown, or there is none.
    """
    unknown = [name for name in fills if name not in get_args(TrainingFill)]
    if unknown or not fills:
        known = ", ".join(get_args(TrainingFill))
        raise ValueError(f"`fills` must name at least one of {known}, got {unknown or list(fills)}")


def add_noise(images: Tensor, amount: float, generator: torch.Generator | None = None) -> Tensor:
    """Add Gaussian noise to images [B, C, H, W], clipped to [0, 1]; an amount of 0 returns them as they are.

    Args:
        images: [B, C, H, W] in [0, 1].
        amount: Standard deviation.
        generator: Source of randomness on the images' device; an amount of 0 draws nothing.

    Source: the published code of Fu et al. 2021 adds 0.03 in [-1, 1] units, 0.015 here; the clipping is our choice.

    Example:
        >>> add_noise(torch.full((1, 1, 1, 2), 0.5), 0.0)
        tensor([[[[0.5000, 0.5000]]]])
    """
    if amount == 0:
        return images
    noise = torch.randn(images.shape, dtype=images.dtype, device=images.device, generator=generator)
    return (images + amount * noise).clamp(0, 1)


def checkerboard(images: Tensor, cell: int = 16) -> Tensor:
    """Give black and white squares as large as the images, [1, C, H, W]; the upper left one is black.

    Args:
        images: [B, C, H, W]; only shape, type and device are used.
        cell: Side of a square in pixels.

    Raises:
        ValueError: `cell` is below 1.
    """
    check_count("cell", cell)
    rows, columns = (torch.arange(side, device=images.device) // cell for side in images.shape[-2:])
    squares = (rows[:, None] + columns[None, :]) % 2
    return squares.to(images.dtype).expand(1, images.shape[1], -1, -1)


def interpolate(image: Tensor, kept: Tensor) -> Tensor:
    """Fill the pixels that are not kept linearly between those that are, rounded to 8 bits; [H, W, C].

    One Delaunay triangulation serves all channels. What lies outside of it gets the mean colour of the image.

    Args:
        image: [H, W, C] in [0, 1].
        kept: bool [H, W].

    Source: Kapishnikov et al. 2019, the blur of their information curves.
    """
    if kept.all():
        return image
    from scipy.interpolate import LinearNDInterpolator  # half a second, which no other fill needs

    known, values = kept.cpu().numpy(), (image.double() * 255).round().cpu().numpy()
    filled = LinearNDInterpolator(np.argwhere(known), values[known])(np.argwhere(~known))
    filled = np.where(np.isnan(filled), values.mean(axis=(0, 1)), filled)
    shown = image.clone()
    levels = np.round(filled.astype(np.float32))  # halves that float64 misses by a last digit round as halves
    shown[~kept] = torch.from_numpy(levels).to(image) / 255
    return shown


def blend(images: Tensor, mask: Tensor, fill: Tensor) -> Tensor:
    """Keep the pixels where `mask` is 1 and show `fill` where it is 0.

    Args:
        images: [B, C, H, W] in [0, 1].
        mask: [B, 1, H, W] in [0, 1]; intermediate values mix linearly.
        fill: Broadcasts to `images`, same range.

    Source: Fu et al. 2021, Eq. 1.
    """
    return torch.lerp(fill.expand_as(images), images, mask.expand_as(images))
