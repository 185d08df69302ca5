"""Image decoding: from a picture of any kind to a classifier's pixels (upright, 8 bits, resized, cropped).

Transparent pixels are laid over white; 16-bit images are scaled to 8 bits, not clipped; a resize may enlarge; the crop
of evaluation is the centre. Only the formats of `FORMATS` are decoded, and only up to 100 megapixels.
"""

import io
import math
from collections.abc import Iterable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from dre.checks import check_images
from dre.types import Preprocessing

Array = np.ndarray[Any, Any]
Picture = Image.Image | str | PathLike[str] | Array
Pictures = Tensor | Picture | Sequence[Picture]

EXIF_ORIENTATION = 0x0112
GREY_MODES = ("1", "L", "LA", "I", "I;16", "I;16L", "I;16B")
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
"""Formats that are decoded. Pillow goes by the content, whatever the name is, and would start a program for EPS."""

OPENED = tuple(name for name in FORMATS if name != "MPO")
"""The same as Pillow wants them: its JPEG reader gives MPO files too."""

MOST_PIXELS = 100_000_000
LONGEST_SIDE = 16_384
"""Pixels that a side may have after the resize."""

OTHERS = (
    (b"%!PS", "PostScript (EPS)"),
    (b"\xc5\xd0\xd3\xc6", "PostScript (EPS)"),
    (b"%PDF", "PDF"),
    (b"<svg", "SVG"),
    (b"<?xml", "XML"),
    (b"<!DOCTYPE", "HTML"),
    (b"<html", "HTML"),
    (b"8BPS", "Photoshop"),
    (b"\x00\x00\x01\x00", "ICO"),
    (b"\x00\x00\x00\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
)
"""First bytes of files that are no picture of a known format, and their names."""

UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def open_picture(source: bytes | str | Path) -> Image.Image:
    """Open a picture, by its content and not by its name; its pixels are decoded when they are asked for.

    Args:
        source: Content or path of a file.

    Raises:
        ValueError: It is a file of another format, or has more than 100 megapixels.
        UnidentifiedImageError: Nothing is known about its format.
    """
    try:
        picture = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=OPENED)
    except Image.DecompressionBombError:
        raise ValueError("Image size exceeds 100 megapixels; shrink the picture") from None
    except UnidentifiedImageError:
        _refuse_other(source if isinstance(source, bytes) else Path(source).read_bytes()[:64])
        raise
    check_picture(picture)
    return picture


def check_picture(picture: Image.Image) -> None:
    """Check that a picture is of one of the `FORMATS`, and not too large.

    Raises:
        ValueError: It is of another format, or of more than 100 megapixels.
    """
    if picture.format is not None and picture.format not in FORMATS:
        raise ValueError(
            f"the picture is a file of the format {picture.format}, which is not decoded here; save it as PNG or JPEG, "
            f"or convert it first (known: {', '.join(FORMATS)})"
        )
    if picture.width * picture.height > MOST_PIXELS:
        size = f"{picture.width} x {picture.height} pixels"
        raise ValueError(f"Image size ({size}) exceeds 100 megapixels; shrink the picture")


def _refuse_other(content: bytes) -> None:
    """Name the format of a file that is no picture, where its first bytes tell it."""
    start = content[:64].lstrip()
    kind = next((name for first, name in OTHERS if start.startswith(first) or content.startswith(first)), None)
    if content[4:8] == b"ftyp":
        kind = f"{content[8:12].decode('ascii', 'replace').strip()} (HEIF, AVIF or video)"
    if kind is not None:
        raise ValueError(f"the file is {kind}, not one of {', '.join(FORMATS)}; convert it") from None


def preprocess(picture: Image.Image, preprocessing: Preprocessing) -> Tensor:
    """Return the crop that a classifier is evaluated on, float32 [C, H, W] in [0, 1].

    Args:
        picture: In any mode but floating point.
        preprocessing: Of the classifier.
    """
    upright, _ = stand_upright(picture, preprocessing.channels)
    larger = resize(upright, preprocessing)
    height, width = preprocessing.size
    left, top = centre(larger.size, preprocessing)
    return to_tensor(larger.crop((left, top, left + width, top + height))).float().div_(255)


def stand_upright(picture: Image.Image, channels: int | None) -> tuple[Image.Image, int]:
    """Return the upright picture in 8 bits and the EXIF orientation that it was stored in.

    Args:
        picture: In any mode but floating point.
        channels: 3 for RGB, 1 for grey; `None` keeps grey pictures grey and makes all others RGB.

    Raises:
        ValueError: The format is not decoded here, the picture is too large, or its pixels have no known range.
    """
    check_picture(picture)
    orientation = int(picture.getexif().get(EXIF_ORIENTATION, 1))
    is_grey = channels == 1 if channels is not None else picture.mode in GREY_MODES
    picture = to_eight_bits(picture, "L" if is_grey else "RGB")
    if orientation not in UPRIGHT:
        return picture, 1
    return picture.transpose(UPRIGHT[orientation]), orientation


def to_eight_bits(picture: Image.Image, mode: str) -> Image.Image:
    """Convert a picture to mode `RGB` or `L`.

    Raises:
        ValueError: Its pixels are floating point, whose range is not known, or have more than 16 bits.
    """
    picture.load()
    if picture.mode == mode and not picture.has_transparency_data:
        return picture
    if picture.mode == "F":
        raise ValueError("pixels are floating-point numbers of unknown range; store 8 or 16 bits")
    if picture.mode.startswith("I"):
        pixels = np.asarray(picture).astype(np.int64)
        if pixels.min() < 0 or pixels.max() > 65535:
            raise ValueError("pixels have more than 16 bits; store 8 or 16 bits")
        picture = Image.fromarray(((pixels * 255 + 32767) // 65535).astype(np.uint8))
    if picture.has_transparency_data:
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture.convert("RGBA"))
    return picture.convert(mode)


def resize(picture: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    """Resize the shorter side to `resize`, or further where the crop would not fit."""
    new = larger_size(picture.size, preprocessing)
    if new == picture.size:
        return picture
    return picture.resize(new, Image.Resampling[preprocessing.interpolation.upper()])


def larger_size(size: tuple[int, int], preprocessing: Preprocessing) -> tuple[int, int]:
    """Return the (width, height) to which a picture of (width, height) is resized before the crop.

    Raises:
        ValueError: A side would have more than 16,384 pixels.
    """
    (width, height), (crop_height, crop_width) = size, preprocessing.size
    scale = max(preprocessing.resize / min(width, height), crop_height / height, crop_width / width)
    new = max(crop_width, math.floor(width * scale + 1e-6)), max(crop_height, math.floor(height * scale + 1e-6))
    if max(new) > LONGEST_SIDE:
        raise ValueError(
            f"a picture of {width} x {height} pixels would be resized to {new[0]} x {new[1]}, more than {LONGEST_SIDE} "
            "a side; it is too narrow: crop it"
        )
    return new


def scale_shorter_side(pixels: Tensor, size: tuple[int, int], interpolation: str) -> Tensor:
    """Resize pixels as training does it: by torch, several times as fast as Pillow, which evaluation keeps.

    Both filter alike and most values are equal; on photographs fewer than one in 10,000 differ by more than a grey
    level, at sharp edges under "bicubic". Filters other than "bilinear" and "bicubic" are Pillow's here too.

    Args:
        pixels: uint8 [C, H, W].
        size: (height, width) of the result.
        interpolation: See `Preprocessing`.
    """
    if pixels.shape[1:] == size:
        return pixels
    if interpolation not in ("bilinear", "bicubic"):
        return to_tensor(to_picture(pixels).resize(size[::-1], Image.Resampling[interpolation.upper()]))
    return F.interpolate(pixels[None], size, mode=interpolation, antialias=True)[0]


def centre(size: tuple[int, int], preprocessing: Preprocessing) -> tuple[int, int]:
    """Return the left and upper edge of the centre crop in a picture of (width, height)."""
    height, width = preprocessing.size
    return round((size[0] - width) / 2), round((size[1] - height) / 2)


def to_tensor(picture: Image.Image) -> Tensor:
    """Convert a picture to uint8 [C, H, W] that lies in memory as [H, W, C], as convolutions like it."""
    pixels = torch.from_numpy(np.array(picture))
    return pixels.reshape(picture.height, picture.width, -1).permute(2, 0, 1)


def to_picture(pixels: Tensor) -> Image.Image:
    """Convert uint8 [C, H, W] to a picture, grey for one channel and else RGB."""
    return Image.fromarray(pixels.permute(1, 2, 0).squeeze(2).numpy())


def batch_or_pictures(images: Pictures) -> Tensor | list[Image.Image]:
    """Return a batch [B, C, H, W], or a list of pictures; floats are tensors, channels first, 8 bits are pictures.

    Args:
        images: A tensor or an array of floats, [B, C, H, W] or [C, H, W] in [0, 1]; or one or several pictures: PIL
            images, paths, arrays of 8 bits, [H, W] or [H, W, C]; or such an array of several, [B, H, W, C].

    Raises:
        ValueError: An array has another shape, or a file is no picture.
        TypeError: They are something else.
        FileNotFoundError: There is no file at a path.
    """
    if isinstance(images, np.ndarray) and images.dtype != np.uint8:
        images = _tensor(images)
    if isinstance(images, Tensor):
        batch = images.detach()[None] if images.ndim == 3 else images.detach()
        check_images(batch)
        return batch
    if isinstance(images, np.ndarray) and images.ndim < 4:
        return [_picture(images)]
    is_one = isinstance(images, Image.Image | str | PathLike)
    several: list[Any] = [images] if is_one else list(images) if isinstance(images, Iterable) else []
    is_known = [isinstance(one, Image.Image | str | PathLike | np.ndarray) for one in several]
    if (
        not several
        or not all(is_known)
        or any(isinstance(one, np.ndarray) and one.dtype != np.uint8 for one in several)
    ):
        kinds = ", ".join(sorted({type(one).__name__ for one in several})) or "nothing"
        raise TypeError(
            f"`images` must be a tensor or an array of floats [B, C, H, W] in [0, 1], or pictures (PIL images, paths, "
            f"arrays of 8 bits), got {type(images).__name__} of {kinds}; stack tensors with torch.stack, arrays of "
            "floats with numpy.stack"
        )
    return [_picture(one) for one in several]


def _tensor(array: Array) -> Tensor:
    """Return an array [B, C, H, W] or [C, H, W] of floats as a tensor; where channels come last, the error says so."""
    if array.dtype.kind != "f":
        raise TypeError(
            f"`images` of {array.dtype} are neither pictures, arrays of 8 bits (uint8) [H, W, C], nor floats in [0, 1] "
            "[C, H, W]; convert them"
        )
    if array.ndim in (3, 4) and array.shape[-1] in (1, 3, 4) and array.shape[-3] not in (1, 3, 4):
        raise ValueError(
            f"`images` {list(array.shape)} of {array.dtype} have their channels last; arrays of floats are [C, H, W]: "
            "move them by numpy.moveaxis(images, -1, -3), or give 8 bits [H, W, C]"
        )
    native = array.astype(np.float64 if array.itemsize > 4 else array.dtype.newbyteorder("="))
    return torch.from_numpy(np.ascontiguousarray(native))


def _picture(given: Picture) -> Image.Image:
    """Return a PIL image of a path, or of an array of 8 bits."""
    if isinstance(given, Image.Image):
        return given
    if not isinstance(given, np.ndarray):
        try:
            return open_picture(Path(given))
        except FileNotFoundError:
            raise FileNotFoundError(
                f"there is no picture at {given!s}; `images` takes paths, arrays and tensors"
            ) from None
        except (OSError, ValueError) as error:
            raise ValueError(f"{given!s} cannot be read as a picture: {error}; give a PNG or JPEG file") from None
    if (given.ndim == 2 or (given.ndim == 3 and given.shape[2] in (1, 3, 4))) and given.size:
        return Image.fromarray(np.ascontiguousarray(given[:, :, 0] if given.shape[2:] == (1,) else given))
    raise ValueError(
        f"`images` of 8 bits must be [H, W], [H, W, C] or [B, H, W, C] with 1, 3 or 4 channels, got "
        f"{list(given.shape)}; channels come last in 8 bits, and first in floats in [0, 1]"
    )
