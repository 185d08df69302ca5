"""Objects of a batch: masks or boxes of images, or of pictures that are prepared, and which of them give an object."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dre.images.boxes import Boxes, check_boxes, rasterise, reorient, shift_and_scale
from dre.images.decode import centre, larger_size, stand_upright
from dre.images.segmentation_masks import Mask, crop_mask, mask_of, read_mask, turn
from dre.types import Batch, Explained, Preprocessing

Objects = Tensor | np.ndarray[Any, Any] | Sequence[Any]
"""Masks [B, 1, H, W] of zeros and ones; or for each image its boxes [n, 4] in pixels, x0, y0, x1, y1."""

Masks = Tensor | np.ndarray[Any, Any] | Sequence[Any]
"""Masks [B, 1, H, W] or [B, H, W]; or for each image a PNG file, a PIL image, an array [H, W], or None."""

KINDS = ("none", "box", "mask")
"""What gives the object of an image."""


def annotation_kinds(explained: Batch | Explained) -> Tensor:
    """Return what gives the object of each image, as a place in `KINDS`: int64 [B] on the CPU."""
    if "objects" not in explained:
        return torch.zeros(len(explained["key"]), dtype=torch.int64)
    by_mask = explained.get("by_mask", torch.zeros(len(explained["key"]), dtype=torch.bool)).cpu()
    return (1 + by_mask.long()) * explained["objects"].flatten(1).any(dim=1).cpu()


def counted(kinds: Iterable[int]) -> dict[str, int]:
    """Count images by what gives their object.

    Example:
        >>> counted([2, 2, 1])
        {'mask': 2, 'box': 1, 'none': 0}
    """
    found = Counter(kinds)
    return {KINDS[kind]: found[kind] for kind in (2, 1, 0)}


def annotated_by(counts: Mapping[str, Any]) -> str:
    """Say by what objects were given, `masks` or `masks and boxes`; nothing where all were boxes, as they once were.

    Example:
        >>> annotated_by({"mask": 2, "box": 1, "none": 0}), annotated_by({"mask": 0, "box": 1, "none": 0})
        ('masks and boxes', '')
    """
    return "" if not counts["mask"] else "masks and boxes" if counts["box"] else "masks"


def find_objects(
    boxes: Objects | None,
    masks: Masks | None,
    images: Tensor,
    pictures: Sequence[Image.Image] | None,
    preprocessing: Preprocessing,
) -> tuple[Tensor, Tensor]:
    """Return the objects of images, float32 [B, 1, H, W], and which of them are masks, bool [B].

    Args:
        boxes: See `object_masks`.
        masks: Masks of zeros and ones in pixels of `images`, [B, 1, H, W] or [B, H, W]; or for each image a mask of the
            image, or of the picture as it is stored: a path of a PNG file or a PIL image of one channel, where all that
            is not 0 is object, or an array [H, W]; or None, where its boxes count.
        images: [B, C, H, W].
        pictures: What the images were made from, by resizing and cropping.
        preprocessing: How that was done.

    Raises:
        ValueError: They do not suit the images.

    Example:
        >>> masks = [np.array([[0, 1]]), None]
        >>> objects, by_mask = find_objects([[], [[0, 0, 1, 1]]], masks, torch.zeros(2, 3, 1, 2), None, Preprocessing())
        >>> objects.flatten(1).tolist(), by_mask.tolist()
        ([[0.0, 1.0], [1.0, 0.0]], [True, False])
    """
    objects = images.new_zeros((len(images), 1, *images.shape[2:]), dtype=torch.float32)
    by_mask = torch.zeros(len(images), dtype=torch.bool, device=images.device)
    if boxes is not None:
        objects = object_masks(boxes, images, pictures, preprocessing)
        by_mask |= isinstance(boxes, Tensor | np.ndarray) and boxes.ndim == 4
    if masks is None:
        return objects, by_mask
    if isinstance(masks, Tensor | np.ndarray) and masks.ndim == 4:
        return _masks(torch.as_tensor(masks), images, "masks"), torch.ones_like(by_mask)
    if len(masks) != len(images):
        raise ValueError(f"`masks` must hold a mask or None for each of {len(images)} images, got {len(masks)} entries")
    for place, own in enumerate(masks):
        if own is not None:
            try:
                objects[place] = _cropped(own, images, None if pictures is None else pictures[place], preprocessing)
            except (TypeError, ValueError) as error:
                raise ValueError(f"`masks`, image {place}: {error}") from None
            by_mask[place] = True
    return objects, by_mask


def _cropped(own: Any, images: Tensor, picture: Image.Image | None, preprocessing: Preprocessing) -> Tensor:
    """Return the mask of one image, bool [1, H, W]."""
    size = (images.shape[2], images.shape[3]) if picture is None else picture.size[::-1]
    mask = _mask(own, size)
    if picture is None:
        return torch.from_numpy(mask)[None]
    return crop_mask(turn(mask, stand_upright(picture, preprocessing.channels)[1]), preprocessing)


def _mask(own: Any, size: tuple[int, int]) -> Mask:
    if isinstance(own, Image.Image):
        return mask_of(own, size)
    if isinstance(own, str | PathLike):
        return read_mask(own, size)
    values = np.asarray(own.cpu() if isinstance(own, Tensor) else own)
    if values.shape != size:
        raise ValueError(f"its mask must be an array {list(size)}, a PNG file or a PIL image, got {list(values.shape)}")
    if values.dtype.kind not in "buif" or (values.dtype.kind == "f" and not np.isin(values, (0, 1)).all()):
        raise ValueError(f"its mask of {values.dtype} must be whole numbers, or 0 and 1; threshold soft masks first")
    mask: Mask = values != 0
    return mask


def object_masks(
    given: Objects, images: Tensor, pictures: Sequence[Image.Image] | None, preprocessing: Preprocessing
) -> Tensor:
    """Return 1 for pixels of which the centre lies in a box, float32 [B, 1, H, W]; zeros for an image without boxes.

    Args:
        given: Masks, or the boxes of each image; in pixels of `images`, or of the pictures as they are stored.
        images: [B, C, H, W].
        pictures: What the images were made from, by resizing and cropping.
        preprocessing: How that was done.

    Raises:
        ValueError: They do not suit the images.

    Example:
        >>> object_masks([[[1, 0, 3, 2]]], torch.zeros(1, 3, 2, 4), None, Preprocessing())[0, 0].int().tolist()
        [[0, 1, 1, 0], [0, 1, 1, 0]]
    """
    if isinstance(given, Tensor | np.ndarray) and given.ndim == 4:
        return _masks(torch.as_tensor(given), images, "boxes")
    if len(given) != len(images):
        raise ValueError(
            f"`boxes` must hold the boxes of each of {len(images)} images, [n, 4] or an empty list, or be a mask "
            f"[B, 1, H, W]; got {len(given)} entries"
        )
    size = (images.shape[2], images.shape[3])
    masks = []
    for place, own in enumerate(given):
        try:
            found = check_boxes(_rows(own), size if pictures is None else pictures[place].size[::-1])
        except (TypeError, ValueError) as error:
            raise ValueError(f"`boxes` of image {place}: {error}") from None
        masks.append(rasterise(found if pictures is None else _moved(found, pictures[place], preprocessing), size))
    return torch.stack(masks).to(images.device, torch.float32)


def _rows(own: Any) -> list[list[float]]:
    rows = np.asarray(own.cpu() if isinstance(own, Tensor) else own, dtype=np.float64)
    if rows.size and (rows.ndim != 2 or rows.shape[1] != 4):
        raise ValueError(f"boxes must be [n, 4], x0, y0, x1, y1 in pixels, got {list(rows.shape)}")
    found: list[list[float]] = rows.reshape(-1, 4).tolist()
    return found


def _masks(given: Tensor, images: Tensor, name: str) -> Tensor:
    wanted = [len(images), 1, *images.shape[2:]]
    if list(given.shape) != wanted:
        raise ValueError(f"`{name}` as a mask must have shape {wanted}, got {list(given.shape)}")
    if bool(((given != 0) & (given != 1)).any()):
        raise ValueError(f"`{name}` as a mask must be 1 inside the objects and 0 elsewhere; got other numbers")
    return given.to(images.device, torch.float32)


def _moved(boxes: Boxes, picture: Image.Image, preprocessing: Preprocessing) -> Boxes:
    """Move boxes of a picture as it is stored along with its rotation, resize and crop."""
    upright, orientation = stand_upright(picture, preprocessing.channels)
    boxes = reorient(boxes, picture.size[::-1], orientation)
    width, height = larger_size(upright.size, preprocessing)
    boxes = shift_and_scale(boxes, 0, 0, width / upright.width, height / upright.height)
    return shift_and_scale(boxes, *centre((width, height), preprocessing), 1, 1)
