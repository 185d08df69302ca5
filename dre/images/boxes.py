"""Object boxes: check them against their image, and transform them together with its pixels."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Boxes = NDArray[np.float64]
"""[N, 4] as x0, y0, x1, y1 in pixels; the origin is the outer corner of the top left pixel, x1 and y1 are exclusive."""

TOLERANCE = 1.0
"""Pixels that a box may reach beyond its image before it is refused; annotations are often rounded outwards."""


def check_boxes(boxes: Sequence[Sequence[float]], size: tuple[int, int]) -> Boxes:
    """Return the boxes clipped to an image of `size` (height, width), float64 [N, 4].

    Raises:
        ValueError: A box is not four finite numbers x0, y0, x1, y1, is inverted or empty, or lies outside the image.
    """
    height, width = size
    for box in boxes:
        if len(box) != 4 or not np.isfinite(np.asarray(box, dtype=float)).all():
            raise ValueError(f"box {list(box)} is not four finite numbers x0, y0, x1, y1")
        x0, y0, x1, y1 = box
        if x0 >= x1 or y0 >= y1:
            raise ValueError(f"box {list(box)} is inverted or empty; expected x0 < x1 and y0 < y1")
        if min(x0, y0) < -TOLERANCE or x1 > width + TOLERANCE or y1 > height + TOLERANCE:
            raise ValueError(f"box {list(box)} lies outside the image of {width} x {height} pixels (width x height)")
    limits = np.array([width, height, width, height], dtype=float)
    clipped: Boxes = np.clip(np.array(boxes, dtype=float).reshape(-1, 4), 0, limits)
    return clipped


def reorient(boxes: Boxes, size: tuple[int, int], orientation: int) -> Boxes:
    """Turn boxes of the stored pixels, `size` (height, width), into boxes of the upright image.

    Args:
        boxes: In pixels of the stored file.
        size: Of the stored file.
        orientation: EXIF value 1 to 8.
    """
    height, width = size
    if orientation >= 5:  # these four swap the axes first
        boxes, height, width = boxes[:, [1, 0, 3, 2]], width, height
    if orientation in (2, 3, 6, 7):
        boxes = mirror(boxes, width)
    if orientation in (3, 4, 7, 8):
        boxes = mirror(boxes[:, [1, 0, 3, 2]], height)[:, [1, 0, 3, 2]]
    return boxes


def mirror(boxes: Boxes, width: int) -> Boxes:
    """Follow a left-right flip of an image that is `width` wide."""
    return np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], axis=1)


def shift_and_scale(boxes: Boxes, left: float, top: float, across: float, down: float) -> Boxes:
    """Move the origin to (left, top), then stretch x by `across` and y by `down`."""
    moved: Boxes = (boxes - np.array([left, top, left, top])) * np.array([across, down, across, down])
    return moved


def rasterise(boxes: Boxes, size: tuple[int, int]) -> Tensor:
    """Mark the pixels whose centre lies in a box: bool [1, H, W], all false where no box reaches the image."""
    objects = torch.zeros(1, *size, dtype=torch.bool)
    first = np.clip(np.ceil(boxes - 0.5), 0, None).astype(int)  # the first centre at or beyond an edge
    for x0, y0, x1, y1 in first:
        objects[:, y0:y1, x0:x1] = True
    return objects
