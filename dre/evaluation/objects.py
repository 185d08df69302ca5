"""Objects of a batch from a notebook: masks as they are, or boxes of images or of pictures that are prepared."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dre.images.boxes import Boxes, check_boxes, rasterise, reorient, shift_and_scale
from dre.images.decode import centre, larger_size, stand_upright
from dre.types import Preprocessing

Objects = Tensor | np.ndarray[Any, Any] | Sequence[Any]
"""Masks [B, 1, H, W] of zeros and ones; or for each image its boxes [n, 4] in pixels, x0, y0, x1, y1."""


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
        return _masks(torch.as_tensor(given), images)
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


def _masks(given: Tensor, images: Tensor) -> Tensor:
    wanted = [len(images), 1, *images.shape[2:]]
    if list(given.shape) != wanted:
        raise ValueError(f"`boxes` as a mask must have shape {wanted}, got {list(given.shape)}")
    if bool(((given != 0) & (given != 1)).any()):
        raise ValueError("`boxes` as a mask must be 1 inside the objects and 0 elsewhere; got other numbers")
    return given.to(images.device, torch.float32)


def _moved(boxes: Boxes, picture: Image.Image, preprocessing: Preprocessing) -> Boxes:
    """Move boxes of a picture as it is stored along with its rotation, resize and crop."""
    upright, orientation = stand_upright(picture, preprocessing.channels)
    boxes = reorient(boxes, picture.size[::-1], orientation)
    width, height = larger_size(upright.size, preprocessing)
    boxes = shift_and_scale(boxes, 0, 0, width / upright.width, height / upright.height)
    return shift_and_scale(boxes, *centre((width, height), preprocessing), 1, 1)
