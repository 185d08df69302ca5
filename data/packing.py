"""Encoding of one photograph for a shard: read it, decode it once as a check, and shrink it where asked."""

import io
import json
import math
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from PIL import Image

from data.photos import Photo
from data.samples import decode, reason
from dre.images.boxes import Boxes, check_boxes, reorient, shift_and_scale
from dre.images.decode import open_picture
from dre.images.segmentation_masks import SUFFIX, Mask, png_of, read_mask, resize_mask, turn

QUALITY = 90
"""Of the JPEG files that a resize writes."""

TAR_BYTES = 2048
"""What a sample takes in a tar file beside its image: two headers, the json entry and padding, rounded up."""

LOOK_AHEAD = 4
"""Photographs that each worker may be ahead of the writer."""


class BrokenPhotoError(ValueError):
    """Signal a photograph that cannot be packed; the message is one line, `file: reason`."""


@dataclass(frozen=True, slots=True)
class Packing:
    """Hold the settings by which photographs become shards.

    Args:
        shard_size: Photographs in a shard, at most; by default as many as fill `shard_megabytes`.
        shard_megabytes: Size that shards should have, counted before a resize.
        resize: Length of the shorter side of larger images, in pixels; `None` copies every file byte for byte.
        skip_broken: Leave broken photographs out and name them in the manifest, rather than stop at the first.
        workers: Threads that read and decode; the bytes of the shards do not depend on them.

    Raises:
        ValueError: A count is below 1, or `shard_megabytes` is not above 0 and finite.
    """

    shard_size: int | None = None
    shard_megabytes: float = 64
    resize: int | None = None
    skip_broken: bool = False
    workers: int = 1

    def __post_init__(self) -> None:
        for name in ("shard_size", "resize", "workers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}")
        if not 0 < self.shard_megabytes < math.inf:
            raise ValueError(f"`shard_megabytes` must be above 0 and finite, got {self.shard_megabytes}")

    def shards(self, photos: int, size: int) -> int:
        """Say how many shards hold that many photographs of `size` bytes together."""
        if self.shard_size is not None:
            return -(-photos // self.shard_size)
        return min(photos, -(-(size + photos * TAR_BYTES) // max(1, round(self.shard_megabytes * 1e6))))


Sample = dict[str, str | bytes]
"""As webdataset writes it."""


def encode(photo: Photo, resize: int | None = None) -> Sample:
    """Check a photograph and give what a shard holds of it: the image, its mask, and label, boxes and size as json.

    Args:
        photo: What to pack.
        resize: See `Packing`. A smaller copy stands upright, is RGB or grey and a JPEG; its boxes and its mask are
            scaled with it.

    Raises:
        BrokenPhotoError: A file cannot be read or decoded to its end, a box or the mask is bad, or the key cannot be
            packed.
    """
    try:
        if photo.key.startswith("_"):
            raise ValueError("webdataset skips names that start with an underscore; rename the file")
        data, suffix = photo.read(), photo.suffix
        size = _check_readable(data)
        boxes = check_boxes(photo.boxes, size)
        masks = {} if photo.mask is None else {SUFFIX: photo.mask.read_bytes()}
        mask = read_mask(masks[SUFFIX], size, photo.least) if masks else None
        is_new = photo.least > 1
        if resize is not None and min(size) > resize:
            data, size, boxes, mask = _shrink(data, boxes, mask, resize)
            suffix, is_new = "jpg", True
        if mask is not None and is_new:
            masks = {SUFFIX: png_of(mask)}
    except Exception as error:  # Pillow's readers raise errors of many types for malformed bytes
        why = f"not a readable image ({reason(error)})" if isinstance(error, OSError) else reason(error)
        raise BrokenPhotoError(f"{photo.path}: {why}") from error
    facts = photo.facts() | {"boxes": boxes.tolist(), "size": size}
    return {"__key__": photo.key, suffix: data, "json": json.dumps(facts).encode(), **masks}


def encode_in_order(photos: Iterable[Photo], packing: Packing) -> Iterator[tuple[Photo, Sample | BrokenPhotoError]]:
    """Encode photographs in parallel and give each with its sample, in their order; a broken one with its error."""
    waiting: deque[tuple[Photo, Future[Sample | BrokenPhotoError]]] = deque()
    with ThreadPoolExecutor(packing.workers) as pool:
        try:
            for photo in photos:
                waiting.append((photo, pool.submit(_encode_or_error, photo, packing.resize)))
                if len(waiting) > LOOK_AHEAD * packing.workers:
                    first, future = waiting.popleft()
                    yield first, future.result()
            for first, future in waiting:
                yield first, future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _encode_or_error(photo: Photo, resize: int | None) -> Sample | BrokenPhotoError:
    try:
        return encode(photo, resize)
    except BrokenPhotoError as error:
        return error


def _check_readable(data: bytes) -> tuple[int, int]:
    """Decode an image to its last byte, at an eighth of its size where JPEG allows; give its height and width."""
    with open_picture(data) as image:
        size = (image.height, image.width)
        image.draft(image.mode, (1, 1))
        image.load()
    return size


def _shrink(
    data: bytes, boxes: Boxes, mask: Mask | None, resize: int
) -> tuple[bytes, tuple[int, int], Boxes, Mask | None]:
    image, stored_size, orientation = decode(data)
    boxes = reorient(boxes, stored_size, orientation)
    width, height = image.size
    scale = resize / min(width, height)
    new = (max(resize, round(width * scale)), max(resize, round(height * scale)))
    buffer = io.BytesIO()
    image.resize(new, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=QUALITY)
    if mask is not None:
        mask = resize_mask(turn(mask, orientation), new[::-1])
    boxes = shift_and_scale(boxes, 0, 0, new[0] / width, new[1] / height)
    return buffer.getvalue(), new[::-1], boxes, mask
