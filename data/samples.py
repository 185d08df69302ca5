"""Sample decoding: bytes to tensors by decode, EXIF rotation, resize, crop and flip, with the boxes and the mask.

What is decided here: boxes and masks in a file refer to the stored pixels, before EXIF rotation, and where an image has
both, its mask counts. What happens to the pixels alone is decided in `dre.images.decode`, and to masks in
`dre.images.segmentation_masks`. The module has more than 300 lines because one place decides how a sample becomes a
crop.
"""

import json
import math
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any, NamedTuple

from PIL import Image, UnidentifiedImageError
from torch import Tensor

from data.augment import Augmentation
from dre.checks import check_number
from dre.images.boxes import Boxes, check_boxes, mirror, rasterise, reorient, shift_and_scale
from dre.images.decode import (
    LONGEST_SIDE,
    centre,
    larger_size,
    open_picture,
    resize,
    scale_shorter_side,
    stand_upright,
    to_picture,
    to_tensor,
)
from dre.images.segmentation_masks import SUFFIX, crop_mask, read_mask, turn
from dre.types import Preprocessing

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff")

TURNED = (5, 6, 7, 8)
"""EXIF orientations that swap width and height."""

CLASS_KEYS = ("label", "cls", "class", "class_index")
"""Keys of a json entry that may hold the class, the first that is there."""

ASPECT_RATIOS = (3 / 4, 4 / 3)
"""Range of width / height of a random resized crop, as everyone trains on ImageNet."""


class BrokenSampleError(ValueError):
    """Signal a sample that cannot be used; the message is one line, `shard/key: reason`.

    Args:
        message: That line.
        key: Of the sample.
        reason: Why it cannot be used.
    """

    def __init__(self, message: str, key: str = "", reason: str = "") -> None:
        super().__init__(message)
        self.key = key
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Sample:
    """Hold one image that is ready for a batch.

    Args:
        key: Its name in the dataset.
        image: uint8 [C, H, W].
        label: Its class, -1 where the data name none.
        boxes: In pixels of `image`; they may reach beyond it or miss it.
        mask: bool [1, H, W], true on the object; None without a segmentation mask, and in training.
    """

    key: str
    image: Tensor
    label: int
    boxes: Boxes
    mask: Tensor | None = None

    def objects(self) -> Tensor:
        """Return the pixels of the objects, bool [1, H, W]: those of the mask, or without one those in a box."""
        return rasterise(self.boxes, (self.image.shape[1], self.image.shape[2])) if self.mask is None else self.mask


class Window(NamedTuple):
    """Part of an image that becomes a random resized crop, in pixels."""

    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Transform:
    """From a decoded image of any size to the crop that the classifier sees.

    Args:
        preprocessing: Size, resize and filter of the classifier.
        crop_scale: Share of the area that a random resized crop takes, (least, most); `None` resizes the shorter side
            as in evaluation and cuts a window of the final size anywhere.
        flip: Probability of a left-right flip.
        augment: What else happens to the pixels of a training crop.
        masks: Read the segmentation masks of evaluation images; without, boxes alone.
        reduced: Let the JPEG decoder of training images skip what the resize would discard, see `decode`.
    """

    preprocessing: Preprocessing
    crop_scale: tuple[float, float] | None = None
    flip: float = 0.0
    augment: Augmentation | None = None
    masks: bool = True
    reduced: bool = False

    def __call__(
        self, image: Image.Image, boxes: Boxes, draws: random.Random | None, size: tuple[int, int] | None = None
    ) -> tuple[Tensor, Boxes]:
        """Return the crop, uint8 [C, H, W], and its boxes; without `draws` the centre crop of evaluation.

        `size` is the (width, height) that the boxes are given in, where the decoder has reduced the image.
        """
        if draws is None:
            return self._centre(image, boxes)
        pixels, boxes = self._resize_and_cut(image, boxes, draws, size or image.size)
        if draws.random() < self.flip:
            pixels, boxes = pixels.flip(2), mirror(boxes, pixels.shape[2])
        if self.augment is not None:
            pixels = to_tensor(self.augment(to_picture(pixels), draws))
        return pixels, boxes

    def _centre(self, image: Image.Image, boxes: Boxes) -> tuple[Tensor, Boxes]:
        """Resize by Pillow, as the networks were evaluated by those who published them."""
        new = resize(image, self.preprocessing)
        boxes = shift_and_scale(boxes, 0, 0, new.width / image.width, new.height / image.height)
        height, width = self.preprocessing.size
        left, top = centre(new.size, self.preprocessing)
        return to_tensor(new.crop((left, top, left + width, top + height))), shift_and_scale(boxes, left, top, 1, 1)

    def _resize_and_cut(
        self, image: Image.Image, boxes: Boxes, draws: random.Random, size: tuple[int, int]
    ) -> tuple[Tensor, Boxes]:
        """Cut, then resize what is left, for a random resized crop; else the other way round."""
        height, width = self.preprocessing.size
        if self.crop_scale is not None:
            left, top, across, down = _random_window(image.size, self.crop_scale, draws)
            boxes = shift_and_scale(boxes, left, top, width / across, height / down)
            pixels = to_tensor(image.crop((left, top, left + across, top + down)))
            return scale_shorter_side(pixels, (height, width), self.preprocessing.interpolation), boxes
        new_width, new_height = larger_size(size, self.preprocessing)
        boxes = shift_and_scale(boxes, 0, 0, new_width / size[0], new_height / size[1])
        left, top = draws.randint(0, new_width - width), draws.randint(0, new_height - height)
        pixels = scale_shorter_side(to_tensor(image), (new_height, new_width), self.preprocessing.interpolation)
        return pixels[:, top : top + height, left : left + width], shift_and_scale(boxes, left, top, 1, 1)


def _random_window(image_size: tuple[int, int], scale: tuple[float, float], draws: random.Random) -> Window:
    """Draw a window by area and aspect ratio; the largest fitting one where ten draws do not fit."""
    width, height = image_size
    low, high = (math.log(ratio) for ratio in ASPECT_RATIOS)
    for _ in range(10):
        area = width * height * draws.uniform(*scale)
        ratio = math.exp(draws.uniform(low, high))
        across, down = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < across <= width and 0 < down <= height:
            return Window(draws.randint(0, width - across), draws.randint(0, height - down), across, down)
    across = min(width, round(height * ASPECT_RATIOS[1]))
    down = min(height, round(width / ASPECT_RATIOS[0]))
    return Window((width - across) // 2, (height - down) // 2, across, down)


def check_crops(flip: float, crop_scale: tuple[float, float] | None) -> None:
    """Check probability and sizes of random crops.

    Raises:
        TypeError: `flip` is no number, or `crop_scale` not two.
        ValueError: `flip` is outside [0, 1], or `crop_scale` does not ascend within (0, 1].
    """
    if isinstance(flip, bool) or not isinstance(flip, Real):
        raise TypeError(f"`flip` is a probability in [0, 1], got {flip!r}")
    if not 0 <= flip <= 1:
        raise ValueError(f"`flip` is a probability in [0, 1], got {flip}")
    if crop_scale is None:
        return
    if not isinstance(crop_scale, list | tuple) or len(crop_scale) != 2:
        raise TypeError(f"`crop_scale` must be two ascending shares in (0, 1], got {crop_scale!r}")
    for share in crop_scale:
        check_number("crop_scale", share, 0, 1e9, whole=False)
    if not 0 < crop_scale[0] <= crop_scale[1] <= 1:
        raise ValueError(f"`crop_scale` must be two ascending shares in (0, 1], got {list(crop_scale)}")


def check_preprocessing(preprocessing: Preprocessing) -> None:
    """Check the sizes of a preprocessing.

    Raises:
        TypeError: A side is no whole number.
        ValueError: A side is below 1 or enormous, the size has not two of them, or the channels are not 1 or 3.
    """
    if len(preprocessing.size) != 2:
        raise ValueError(f"`size` of the preprocessing must be (height, width), got {list(preprocessing.size)}")
    for name, side in (*(("size", side) for side in preprocessing.size), ("resize", preprocessing.resize)):
        check_number(name, side, 1, LONGEST_SIDE)
    if preprocessing.channels not in (1, 3):
        raise ValueError(
            f"`channels` of the preprocessing is {preprocessing.channels!r}, and packed pictures have 3, or 1 in grey; "
            "train and evaluate such a classifier with a data module of your own, which yields `dre.types.Batch`"
        )


def load_sample(raw: Mapping[str, Any], transform: Transform, draws: random.Random | None = None) -> Sample:
    """Decode and transform one sample of a shard.

    Args:
        raw: As webdataset gives it: `__key__`, `__url__`, the image under its suffix, and its class as `cls`, or `json`
            with `label` and, where there are any, `boxes` and the `size` (height, width) of the stored image; and
            `mask.png` where it has a segmentation mask.
        transform: Which crop to take.
        draws: Source of randomness for training; `None` takes the centre crop.

    Raises:
        BrokenSampleError: The image cannot be decoded, or class, size, boxes or mask are missing or do not fit it.
    """
    key = str(raw["__key__"])
    try:
        suffix = image_suffix(raw)
        facts = read_facts(raw)
        reduced = transform.preprocessing if transform.reduced and draws is not None else None
        image, stored_size, orientation = decode(raw[suffix], transform.preprocessing.channels, reduced)
        if isinstance(facts.get("size"), list) and tuple(facts["size"]) != stored_size:
            raise ValueError(f"the image is {list(stored_size)}, its json entry says {facts['size']} (height, width)")
        boxes = reorient(check_boxes(facts.get("boxes", []), stored_size), stored_size, orientation)
        mask = None
        if SUFFIX in raw and transform.masks and draws is None:  # training reads no objects
            mask = crop_mask(turn(read_mask(raw[SUFFIX], stored_size), orientation), transform.preprocessing)
        whole = stored_size if orientation in TURNED else stored_size[::-1]
        pixels, boxes = transform(image, boxes, draws, whole)
        return Sample(key, pixels, facts["label"], boxes, mask)
    except Exception as error:  # Pillow's readers raise errors of many types for malformed bytes
        why = reason(error)
        raise BrokenSampleError(f"{raw.get('__url__', 'sample')}/{key}: {why}", key, why) from error


def image_suffix(raw: Mapping[str, Any]) -> str:
    """Return the suffix of the image of a sample.

    Raises:
        ValueError: There is no image, or no class beside it.
    """
    suffix = next((name for name in IMAGE_SUFFIXES if name in raw), None)
    if suffix is None or not raw.keys() & {"json", "cls"}:
        there = ", ".join(sorted(name for name in raw if not name.startswith("__"))) or "nothing"
        raise ValueError(f"an image (jpg, png, ...) and a json entry or a cls are needed, got {there}")
    return suffix


def check_parts(raw: Mapping[str, Any]) -> None:
    """Check that a sample has an image, which is not decoded, and a class.

    Raises:
        BrokenSampleError: It lacks one of them.
    """
    try:
        image_suffix(raw)
        read_facts(raw)
    except (ValueError, RecursionError) as error:
        raise BrokenSampleError(f"{raw.get('__url__', 'sample')}/{raw['__key__']}: {reason(error)}") from error


def read_facts(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Read the class of a sample and what else its json entry says: `cls`, or the json's `label`, `cls` or `class`.

    Raises:
        ValueError: There is no class, or it is not a whole number from -1.
    """
    facts = json.loads(raw["json"]) if "json" in raw else {}
    if not isinstance(facts, dict):
        raise ValueError(f"its json entry must be an object with a label, got {str(facts)[:60]}")
    if "cls" in raw:
        facts["label"] = (
            raw["cls"].decode("ascii", "replace") if isinstance(raw["cls"], bytes) else raw["cls"]
        ).strip()
    label = next((facts[name] for name in CLASS_KEYS if name in facts), None)
    if label is None:
        raise ValueError(f"its json entry has no class: none of {', '.join(CLASS_KEYS)}; it has {sorted(facts)[:8]}")
    if isinstance(label, bool) or not re.fullmatch(r"-1|\d{1,9}", str(label)):
        raise ValueError(f"its class must be a whole number from 0, or -1 for none, got {str(label)[:60]!r}")
    return {**facts, "label": int(label)}


def reason(error: Exception) -> str:
    """Say in one line why an image cannot be read."""
    if isinstance(error, UnidentifiedImageError):
        return "cannot identify image file"
    text = str(error.args[0]) if len(error.args) == 1 else str(error)
    return " ".join(text.split()) or type(error).__name__


def decode(
    data: bytes, channels: int | None = None, reduced: Preprocessing | None = None
) -> tuple[Image.Image, tuple[int, int], int]:
    """Return the upright image, the stored (height, width) and the EXIF orientation.

    Args:
        data: An image file.
        channels: 3 for RGB, 1 for grey; `None` keeps grey images grey and makes all others RGB.
        reduced: Decode a JPEG at a half, a quarter or an eighth of its size where it stays at least as large as what
            this preprocessing resizes it to. The resize then gives other values at edges: of photographs of 800 pixels
            resized to 256, 2 % differ by more than 2 grey levels.
    """
    image = open_picture(data)
    stored_size = (image.height, image.width)
    if reduced is not None:
        across, down = image.size
        least = max(larger_size((across, down), reduced)[0] / across, larger_size((down, across), reduced)[0] / down)
        image.draft(None, (math.ceil(least * image.width), math.ceil(least * image.height)))
    image, orientation = stand_upright(image, channels)
    return image, stored_size, orientation
