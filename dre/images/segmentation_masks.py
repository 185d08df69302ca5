"""Segmentation masks: read the PNG files of strangers, and transform masks together with their image's pixels.

A mask has one channel, 0 for the background and anything else for the object, 255 as well: no value means "ignore". It
has the size of its image as it is stored, before EXIF rotation. After a resize a pixel belongs to the object where at
least half of its area does.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from dre.images.decode import UPRIGHT, centre, larger_size
from dre.types import Preprocessing

Mask = NDArray[np.bool_]
"""[H, W], true on the object."""

SUFFIX = "mask.png"
"""What names of mask files end in: KEY.mask.png in a shard, NAME.mask.png beside an image."""

ONE_CHANNEL = ("1", "L", "P", "I", "I;16", "I;16L", "I;16B")
"""Modes of pictures of one channel, as Pillow calls them; in "P" the index counts, not its colour."""

ROUNDING = 1e-9


def read_mask(source: bytes | str | PathLike[str], size: tuple[int, int], least: int = 1) -> Mask:
    """Read a mask from a PNG file; its pixels are decoded when its size is known to be right.

    Args:
        source: Content or path of the file.
        size: (height, width) that it must have, those of the stored image.
        least: Lowest value that is object.

    Raises:
        ValueError: It is no PNG file, or one of another size, of several channels or cut off; the message is one line.

    Example:
        >>> read_mask(png_of(np.array([[True, False]])), (1, 2)).tolist()
        [[True, False]]
    """
    with _readable(size):
        picture = Image.open(io.BytesIO(source) if isinstance(source, bytes) else Path(source), formats=("PNG",))
    _check(picture, size)
    with _readable(size):
        picture.load()
    return mask_of(picture, size, least)


def mask_of(picture: Image.Image, size: tuple[int, int], least: int = 1) -> Mask:
    """Return the mask that a picture is; see `read_mask`.

    Raises:
        ValueError: The picture has another size or several channels, or no value of it reaches `least`.
    """
    _check(picture, size)
    values = np.asarray(picture.convert("L") if picture.mode == "1" else picture)  # 0 and 255 in place of two bools
    lowest = least * 257 if picture.mode.startswith("I") and least > 1 else least  # of 16 bits
    mask: Mask = values >= lowest
    if values.any() and not mask.any():
        raise ValueError(
            f"its mask has values up to {int(values.max())}, and object is from {lowest} up; save the object as 255"
        )
    return mask


@contextmanager
def _readable(size: tuple[int, int]) -> Iterator[None]:
    """Say in one line why a file cannot be read."""
    try:
        yield
    except Image.DecompressionBombError:
        raise ValueError(f"its mask is far larger than the image of {_text(size)}; give it the image's size") from None
    except UnidentifiedImageError:
        raise ValueError("its mask is not a PNG file; save it as PNG with one channel") from None
    except Exception as error:  # Pillow's reader raises errors of many types for malformed bytes
        raise ValueError(f"its mask cannot be read ({' '.join(str(error).split())}); write it again") from error


def _check(picture: Image.Image, size: tuple[int, int]) -> None:
    if (picture.height, picture.width) != size:
        own = _text((picture.height, picture.width))
        raise ValueError(
            f"its mask has {own}, the image {_text(size)} (height x width as stored, before EXIF rotation); give the "
            "mask the image's size"
        )
    if picture.mode not in ONE_CHANNEL:
        raise ValueError(f"its mask has the mode {picture.mode}, and a mask has one channel; save it in grey (mode L)")


def _text(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]} pixels"


def png_of(mask: Mask) -> bytes:
    """Encode a mask as a grey PNG file of 0 and 255."""
    buffer = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(buffer, "PNG")
    return buffer.getvalue()


def turn(mask: Mask, orientation: int) -> Mask:
    """Turn a mask of the stored pixels into one of the upright image; `orientation` is the image's EXIF value."""
    if orientation not in UPRIGHT:
        return mask
    turned: Mask = np.asarray(Image.fromarray(mask.astype(np.uint8)).transpose(UPRIGHT[orientation])) > 0
    return turned


def crop_mask(mask: Mask, preprocessing: Preprocessing) -> Tensor:
    """Resize and crop the mask of an upright image as evaluation does its pixels: bool [1, H, W].

    Example:
        >>> crop_mask(np.array([[False, True, True, False]] * 2), Preprocessing((2, 2), 2)).tolist()
        [[[True, True], [True, True]]]
    """
    height, width = mask.shape
    new = larger_size((width, height), preprocessing)
    left, top = centre(new, preprocessing)
    rows = (top + np.arange(preprocessing.size[0] + 1)) * height / new[1]
    columns = (left + np.arange(preprocessing.size[1] + 1)) * width / new[0]
    return torch.from_numpy(_most(mask, rows, columns))[None]


def resize_mask(mask: Mask, size: tuple[int, int]) -> Mask:
    """Resize a whole mask to (height, width)."""
    rows, columns = (np.arange(new + 1) * old / new for old, new in zip(mask.shape, size, strict=True))
    return _most(mask, rows, columns)


def _most(mask: Mask, rows: NDArray[np.float64], columns: NDArray[np.float64]) -> Mask:
    """Return the cells between edges, in pixels of the mask, of which at least half of the area is object."""
    area = _between(_between(mask, rows).T, columns).T
    whole = np.diff(rows)[:, None] * np.diff(columns)
    most: Mask = area >= (0.5 - ROUNDING) * whole
    return most


def _between(values: NDArray[np.generic], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Integrate the rows of [N, M] between edges in [0, N], ascending: float64 [edges - 1, M]."""
    kind = np.int32 if values.dtype == np.bool_ else np.float64
    below = np.cumsum(values, axis=0, dtype=kind)
    first = np.minimum(np.floor(edges).astype(int), len(values) - 1)
    part = (edges - first)[:, None]
    reached = below[first] - values[first] * (1 - part)
    found: NDArray[np.float64] = np.diff(reached, axis=0)
    return found
