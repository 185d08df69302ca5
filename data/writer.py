"""Pack photographs into webdataset shards: the same photographs give the same bytes."""

import io
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import webdataset as wds
from PIL import Image

from data.boxes import check_boxes
from data.folder import Photo, refuse_duplicates
from data.manifest import Manifest, ShardInfo, checksum
from data.shards import key_order

Track = Callable[[Iterable[Photo], int], Iterable[Photo]]
"""Passes photographs on while it shows progress; the number is how many there will be."""


def write_dataset(
    splits: Mapping[str, Sequence[Photo]],
    out: Path,
    *,
    shard_size: int,
    name: str,
    source: str,
    licence: str,
    track: Track = lambda photos, total: photos,
) -> Manifest:
    """Write shards and manifest; nothing that lies in `out` already is touched before all shards are complete.

    A sample is the image file as it is plus a json entry with `label`, `boxes` and `size` (height, width). Samples lie
    in the order of a hash of their keys, so that every shard mixes all classes.

    Args:
        splits: The photographs of each split.
        out: Folder of the dataset; made where it does not exist.
        shard_size: How many photographs a shard holds at most; they are spread evenly.
        name: What the dataset is called.
        source: Where it comes from.
        licence: Under which terms.
        track: Shows progress.
    """
    if shard_size < 1:
        raise ValueError(f"a shard must hold at least one photograph, got {shard_size}")
    for split, photos in splits.items():
        if not photos:
            raise ValueError(f"split {split!r} has no photographs; leave it out or name another source")
        refuse_duplicates(photos)
    out.mkdir(parents=True, exist_ok=True)
    unfinished: list[Path] = []
    try:
        shards = {
            split: _write_split(split, photos, out, shard_size, track, unfinished) for split, photos in splits.items()
        }
        for part in unfinished:
            os.replace(part, part.with_suffix(""))
    finally:
        for part in unfinished:
            part.unlink(missing_ok=True)
    manifest = Manifest(name, source, licence, _class_names(splits), shards)
    manifest.save(out)
    return manifest


def _write_split(
    split: str, photos: Sequence[Photo], out: Path, shard_size: int, track: Track, unfinished: list[Path]
) -> list[ShardInfo]:
    ordered = sorted(photos, key=lambda photo: key_order(photo.key))
    shards = -(-len(ordered) // shard_size)
    tracked = iter(track(ordered, len(ordered)))
    infos = []
    for number in range(shards):
        samples = len(ordered[number::shards])
        part = out / f"{split}-{number:05d}.tar.part"
        unfinished.append(part)
        with part.open("wb") as file, _tar_writer(file) as tar:
            for _ in range(samples):
                tar.write(_sample(next(tracked)))
        infos.append(ShardInfo(part.stem, samples, part.stat().st_size, checksum(part)))
    for _ in tracked:  # lets the progress bar end
        pass
    return infos


def _tar_writer(file: io.BufferedWriter) -> wds.TarWriter:
    """Leave time, user and machine out of the bytes; PAX writes names of any length."""
    return wds.TarWriter(file, user="", group="", mode=0o644, mtime=0, encoder=False, format="PAX_FORMAT")


def _sample(photo: Photo) -> dict[str, str | bytes]:
    """Check a photograph and give it as webdataset writes it."""
    data = photo.path.read_bytes()
    try:
        with Image.open(io.BytesIO(data)) as image:
            size = (image.height, image.width)
        boxes = check_boxes(photo.boxes, size).tolist()
        if photo.key.startswith("_"):
            raise ValueError("webdataset skips names that start with an underscore; rename the file")
    except (OSError, ValueError) as error:
        reason = "not a readable image" if isinstance(error, OSError) else error
        raise ValueError(f"{photo.path}: {reason}") from error
    facts = {"label": photo.label, "boxes": boxes, "size": size}
    return {"__key__": photo.key, photo.suffix: data, "json": json.dumps(facts).encode()}


def _class_names(splits: Mapping[str, Sequence[Photo]]) -> list[str] | None:
    """List class names by index, empty for an index that no photograph has."""
    names: dict[int, str] = {}
    for photo in (photo for photos in splits.values() for photo in photos if photo.label >= 0):
        if names.setdefault(photo.label, photo.class_name) != photo.class_name:
            raise ValueError(
                f"{photo.path}: class {photo.label} is called {photo.class_name!r} here "
                f"and {names[photo.label]!r} elsewhere; one index needs one name"
            )
    return [names.get(index, "") for index in range(max(names) + 1)] if names else None
