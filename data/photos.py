"""Description of one image before packing: its name, the place of its bytes, its class, its boxes and its mask.

Names are keys of webdataset: it cuts them at their first dot, so dots become underscores.
"""

import io
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SEGMENT = r"(?!\.{1,2}(?:/|\Z))[^/\\\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]+"
KEY = re.compile(rf"(?:\./)?{SEGMENT}(?:/{SEGMENT})*")
"""Keys of samples: a shard or a list of keys may come from anyone, so others are refused."""

LONGEST_KEY = 1000

MASK_BYTES = 1024
"""What a mask takes in a tar file beside its content: a header and padding, rounded up."""


@dataclass(frozen=True, slots=True)
class Photo:
    """Describe one image file before it is packed.

    Args:
        key: Unique name in its split.
        path: The file.
        label: Its class index, -1 without one.
        boxes: x0, y0, x1, y1 in pixels of the stored file.
        class_name: Name of that class, empty without one.
        mask: Its segmentation mask, a PNG file, see `dre.images.segmentation_masks`.
        least: Lowest value of the mask that is object.
    """

    key: str
    path: Path
    label: int = -1
    boxes: tuple[tuple[float, ...], ...] = ()
    class_name: str = ""
    mask: Path | None = None
    least: int = 1

    @property
    def suffix(self) -> str:
        """Its kind of file, in lower case."""
        return self.path.suffix[1:].lower()

    def facts(self) -> dict[str, Any]:
        """Return what a shard's json entry says about it."""
        return {"label": self.label, "boxes": self.boxes}

    def size(self) -> int:
        """Count the bytes of its file, and of its mask."""
        return self.path.stat().st_size + (0 if self.mask is None else self.mask.stat().st_size + MASK_BYTES)

    def stamp(self) -> int:
        """Return a number that changes with its content: when its file, and its mask, were changed last."""
        return self.path.stat().st_mtime_ns + (0 if self.mask is None else self.mask.stat().st_mtime_ns)

    def read(self) -> bytes:
        """Read its file."""
        return self.path.read_bytes()


@dataclass(frozen=True, slots=True, eq=False)
class ArrayPhoto(Photo):
    """Describe one image of a file that holds many; it is packed as PNG, which loses nothing.

    Args:
        pixels: uint8 [H, W] or [H, W, 3].
    """

    pixels: NDArray[np.uint8] = field(kw_only=True)

    @property
    def suffix(self) -> str:
        """Its kind of file."""
        return "png"

    def size(self) -> int:
        """Count its bytes before compression."""
        return self.pixels.nbytes

    def stamp(self) -> int:
        """Return a checksum of its pixels."""
        return zlib.crc32(self.pixels.tobytes())

    def read(self) -> bytes:
        """Encode its pixels."""
        buffer = io.BytesIO()
        Image.fromarray(self.pixels).save(buffer, "PNG")
        return buffer.getvalue()


def key_of(name: str) -> str:
    """Turn the name of a file, without its suffix, into a key."""
    return name.replace(".", "_")


def is_hidden(name: str) -> bool:
    """Say whether a path is, or lies in, what systems and editors hide: `.ipynb_checkpoints`, `._a.jpg`, `__MACOSX`.

    Example:
        >>> [is_hidden(name) for name in ("cats/.thumbs/a.jpg", "__MACOSX/a.jpg", "./cats/a.jpg")]
        [True, True, False]
    """
    return any(part == "__MACOSX" or (part.startswith(".") and part not in (".", "..")) for part in name.split("/"))


def check_keys(photos: Sequence[Photo]) -> None:
    """Refuse two photographs of one key, and keys that no list of lines in UTF-8 can hold.

    Raises:
        ValueError: A key is there twice, has a line break or is not UTF-8, or might leave its folder.
    """
    first: dict[str, Path] = {}
    for photo in photos:
        if "\n" in photo.key or not _is_utf8(photo.key):
            raise ValueError(f"the name {str(photo.path)!r} has a line break or is not UTF-8; rename the file")
        check_names((photo.key,), str(photo.path))
        if photo.key in first:
            raise ValueError(f"{first[photo.key]} and {photo.path} have the same key {photo.key!r}; rename one of them")
        first[photo.key] = photo.path


def check_names(keys: Iterable[str], where: str) -> None:
    """Check that keys can be names of files below a folder.

    Raises:
        ValueError: One is empty or too long, has control characters or a backslash, or leaves its folder.
    """
    for key in keys:
        if len(key) > LONGEST_KEY or not KEY.fullmatch(key):
            raise ValueError(
                f"{where}: {key[:100]!r} cannot be the key of an image: it is empty, has control characters or a "
                "backslash, or leaves its folder; rename the file and pack it again"
            )


def _is_utf8(text: str) -> bool:
    """Say whether a name has no bytes that Python could not read, which it writes as surrogates."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def names_by_index(splits: Mapping[str, Sequence[Photo]]) -> list[str] | None:
    """List class names by index, empty for an index that no photograph has.

    Raises:
        ValueError: One index has two names.
    """
    names: dict[int, str] = {}
    for photo in (photo for photos in splits.values() for photo in photos if photo.label >= 0):
        if names.setdefault(photo.label, photo.class_name) != photo.class_name:
            raise ValueError(
                f"{photo.path}: class {photo.label} is called {photo.class_name!r} here "
                f"and {names[photo.label]!r} elsewhere; one index needs one name"
            )
    return [names.get(index, "") for index in range(max(names) + 1)] if names else None
