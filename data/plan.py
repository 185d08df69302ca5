"""Packing plan: assign photographs to shards, and fingerprint each shard's photographs."""

import hashlib
import json
from collections.abc import Container, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from data.manifest import SPLIT_NAME
from data.packing import TAR_BYTES, Packing
from data.photos import Photo, check_keys
from data.shards import key_order


@dataclass(frozen=True, slots=True)
class Plan:
    """Describe one shard to be written.

    Args:
        split: Its split.
        file: Its name.
        photos: What goes into it, in order.
        sizes: Bytes of each of them.
    """

    split: str
    file: str
    photos: Sequence[Photo]
    sizes: Sequence[int]

    def bytes(self) -> int:
        """Estimate the size of the shard, without a resize."""
        return sum(self.sizes) + TAR_BYTES * len(self.sizes)

    def fingerprint(self, skipped: Container[str] = ()) -> str:
        """Hash what decides the bytes of the shard, with the size of each image in place of its content.

        Args:
            skipped: Keys of broken photographs that were left out, whose sizes decide nothing.
        """
        digest = hashlib.sha256()
        for photo, size in zip(self.photos, self.sizes, strict=True):
            counted = None if photo.key in skipped else size
            digest.update(json.dumps([self.file, photo.key, photo.suffix, photo.facts(), counted]).encode())
        return digest.hexdigest()

    def stamp(self) -> str:
        """Hash when its photographs were changed last."""
        return hashlib.sha256(json.dumps([photo.stamp() for photo in self.photos]).encode()).hexdigest()


def plan_split(split: str, photos: Sequence[Photo], packing: Packing, shards: int | None = None) -> list[Plan]:
    """Spread the photographs of a split evenly over its shards.

    Args:
        split: Its name.
        photos: In any order.
        packing: Says how many shards there are.
        shards: How many there are where packing has begun: a repaired image does not change it.

    Raises:
        ValueError: There are no photographs, two of one key, or the split has a name that cannot name files.
    """
    if not photos:
        raise ValueError(f"split {split!r} has no photographs; leave it out or name another source")
    if not SPLIT_NAME.fullmatch(split):
        raise ValueError(
            f"the split {split!r}, of {photos[0].path} for one, cannot name files; use letters, digits, - and _"
        )
    check_keys(photos)
    ordered = sorted(photos, key=lambda photo: key_order(photo.key))
    sizes = [photo.size() for photo in ordered]
    shards = shards or packing.shards(len(ordered), sum(sizes))
    ends = [0, *accumulate(len(ordered[number::shards]) for number in range(shards))]
    return [
        Plan(split, f"{split}-{number:05d}.tar", ordered[start:end], sizes[start:end])
        for number, (start, end) in enumerate(pairwise(ends))
    ]
