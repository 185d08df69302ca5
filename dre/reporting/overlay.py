"""Overlays of saliency maps: scaled for display, in colour over the faded photograph, as PNG files."""

import io
from collections.abc import Callable

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from dre.images.maps import kth_smallest

Pixels = npt.NDArray[np.float64]

SATURATED = 0.01
"""Share of a map's values that are shown as its highest, so that one high pixel does not leave the others dark."""


def for_display(saliency: Tensor) -> Tensor:
    """Scale each map [B, 1, H, W] for display: to [-1, 1] with zero kept if it has negative values, else to [0, 1].

    The top hundredth of the magnitudes saturates. A map without negative values starts at its lowest value; a constant
    one becomes zero.
    """
    values = saliency.float().flatten(1)
    values = values - values.amin(dim=1, keepdim=True).clamp_min(0)
    magnitudes = values.abs()
    top = kth_smallest(magnitudes, max(1, round((1 - SATURATED) * values.shape[1])))
    top = top.where(top > 0, magnitudes.amax(dim=1, keepdim=True))  # most of the map may be zero
    return torch.where(top > 0, values / top.where(top > 0, 1.0), 0.0).clamp(-1, 1).view_as(saliency)


def rgb(image: Tensor) -> Pixels:
    """Convert an image [C, H, W] of one or three channels to [H, W, 3] without changing values."""
    return image.expand(3, -1, -1).permute(1, 2, 0).numpy().astype(np.float64)


def overlay_map(image: Tensor, saliency: Tensor) -> Pixels:
    """Lay a map over the faded grey photograph, the more opaque the larger it is: [H, W, 3] in [0, 1].

    Args:
        image: [C, H, W] in [0, 1].
        saliency: [H, W] in [-1, 1]; negative values have the colours of positive ones with red and blue exchanged.
    """
    level = saliency.numpy().astype(np.float64)[..., None]
    colour = _inferno()(np.abs(level[..., 0]))[..., :3]
    colour = np.where(level < 0, colour[..., ::-1], colour)
    opacity = 0.25 + 0.65 * np.abs(level)
    faded = 0.5 + 0.5 * rgb(image).mean(axis=2, keepdims=True)
    blended: Pixels = (1 - opacity) * faded + opacity * colour
    return blended


def coloured(saliency: Tensor, colours: str) -> Tensor:
    """Draw a map in a colour map of matplotlib, without the photograph: [3, H, W] in [0, 1].

    Args:
        saliency: [H, W] in [-1, 1]; one with negative values has its zero in the middle of the colours.
        colours: Name of the colour map.

    Raises:
        ValueError: matplotlib has no such colour map.
    """
    if colours not in mpl.colormaps:
        raise ValueError(f"no colour map {colours!r} in matplotlib; gray, inferno, coolwarm and Reds are some")
    level = (saliency + 1) / 2 if bool((saliency < 0).any()) else saliency
    return torch.from_numpy(mpl.colormaps[colours](level.numpy())[..., :3]).permute(2, 0, 1).float()


def with_patch(picture: Pixels, value: float) -> Pixels:
    """Draw a square in the lower left corner whose colour, from blue to yellow, shows a value in [0, 1]."""
    side = max(2, min(picture.shape[:2]) // 6)
    marked = picture.copy()
    marked[-side - 1 :, : side + 1] = 1.0
    marked[-side:, :side] = mpl.colormaps["viridis"](value)[:3]
    return marked


def picture_of(pixels: Pixels) -> Image.Image:
    """Round [H, W, 3] in [0, 1] to 8 bits."""
    return Image.fromarray((pixels * 255).round().clip(0, 255).astype(np.uint8))


def png(pixels: Pixels, colours: int | None = None) -> bytes:
    """Write [H, W, 3] in [0, 1] as a PNG file.

    Args:
        pixels: Of the picture.
        colours: Largest number of them; 128 take a third of the bytes, with little loss in a small picture.
    """
    buffer = io.BytesIO()
    picture = picture_of(pixels)
    if colours is not None:
        picture = picture.quantize(colours, method=Image.Quantize.MEDIANCUT)
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _inferno() -> Callable[[Pixels], Pixels]:
    colours: Callable[[Pixels], Pixels] = mpl.colormaps["inferno"]
    return colours
