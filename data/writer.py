"""Shard writer: pack photographs as webdataset shards; the same photographs give the same bytes.

Packing can stop and go on. `data.plan`, which decides what goes into which shard and reads no image, is a module of its
own: both together would be more than 300 lines.
"""

import errno
import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import webdataset as wds

from data.journal import Head, Journal, Origin, another, open_journal, planned_shards
from data.manifest import Manifest, ShardInfo, checksum, keys_file
from data.packing import BrokenPhotoError, Packing, encode_in_order
from data.photos import Photo, names_by_index
from data.plan import Plan, plan_split
from dre.images.segmentation_masks import SUFFIX

Track = Callable[[Iterable[Photo], int], Generator[Photo, None, None]]
"""Passes photographs on while it shows progress; the number is how many there will be."""


def in_silence(photos: Iterable[Photo], total: int) -> Generator[Photo, None, None]:
    """Show nothing."""
    yield from photos


@dataclass(frozen=True, slots=True)
class About:
    """Hold what a manifest says about a data set in words.

    Args:
        name: What it is called.
        source: Where it comes from.
        licence: Under which terms.
        recipe: Which recipe reads it.
        classes: Name of each class index; those of the photographs when not given.
    """

    name: str
    source: str
    licence: str
    recipe: str = ""
    classes: Sequence[str] | None = None


def write_dataset(
    splits: Mapping[str, Sequence[Photo]],
    out: Path,
    about: About,
    packing: Packing,
    *,
    files: Mapping[str, bytes] | None = None,
    track: Track = in_silence,
) -> Manifest:
    """Write shards, what lies beside them, and at last the manifest; go on where an earlier call stopped.

    A sample is the image file as it is, its mask where it has one, and a json entry with `label`, `boxes` and `size`
    (height, width). Samples lie in the order of a hash of their keys, so that every shard mixes all classes. A folder
    that holds another data set is refused and left as it is.

    Args:
        splits: The photographs of each split.
        out: Folder of the data set; made where it does not exist.
        about: What the manifest says in words.
        packing: How photographs become shards.
        files: What else lies beside the shards, by name.
        track: Shows progress.

    Raises:
        BrokenPhotoError: A photograph cannot be packed. The shards before it stay, and the next call goes on there.
        ValueError: A split is empty, keys or class names clash, or the folder cannot take the data set.
    """
    begun = planned_shards(out)
    plans = [plan for name, photos in splits.items() for plan in plan_split(name, photos, packing, begun.get(name))]
    classes = list(about.classes) if about.classes is not None else names_by_index(splits)
    files = dict(files or {})
    settings = _hash(_settings(about, classes, splits, packing), _checksums(files))
    fingerprint = _hash(settings, [plan.fingerprint() for plan in plans])
    head = Head(about.recipe, settings, dict(Counter(plan.split for plan in plans)))
    targets = [*files, *map(keys_file, splits)]
    is_new = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    try:
        with open_journal(out, head, fingerprint, targets) as journal, _room_in(out):
            _keep_finished(out, plans, journal, packing)
            _check_room(out, [plan for plan in plans if not journal.has(plan.file)], packing)
            _write_shards(out, plans, journal, packing, track)
            files |= {keys_file(split): _list_keys(split, plans, journal) for split in splits}
            manifest = _describe(about, classes, plans, files, journal, fingerprint)
            for name, content in files.items():
                (out / name).write_bytes(content)
            manifest.save(out)
            journal.close()
    finally:
        if is_new and not any(out.iterdir()):
            out.rmdir()
    return manifest


def _describe(
    about: About,
    classes: list[str] | None,
    plans: Sequence[Plan],
    files: Mapping[str, bytes],
    journal: Journal,
    fingerprint: str,
) -> Manifest:
    splits: dict[str, list[ShardInfo]] = {}
    for plan in plans:
        splits.setdefault(plan.split, []).append(journal.finished[plan.file])
    return Manifest(
        name=about.name,
        source=about.source,
        licence=about.licence,
        classes=classes,
        splits=splits,
        recipe=about.recipe,
        skipped={plan.file: journal.skipped[plan.file] for plan in plans if plan.file in journal.skipped},
        files=_checksums(files),
        fingerprint=fingerprint,
    )


def _settings(
    about: About, classes: list[str] | None, splits: Mapping[str, Sequence[Photo]], packing: Packing
) -> dict[str, Any]:
    """Return what decides the bytes of a data set beside its images; skipping broken ones may begin later."""
    photos = {split: len(photos) for split, photos in splits.items()}
    size = {"shard_size": packing.shard_size, "shard_megabytes": packing.shard_megabytes, "resize": packing.resize}
    return asdict(about) | size | {"classes": classes, "photos": photos}


def _checksums(files: Mapping[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(content).hexdigest() for name, content in sorted(files.items())}


def _hash(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _keep_finished(out: Path, plans: Sequence[Plan], journal: Journal, packing: Packing) -> None:
    """Refuse finished shards of other images, and forget those whose images have changed since."""
    planned = {plan.file: plan for plan in plans}
    for file in list(journal.finished):
        skipped, origin, plan = journal.skipped.get(file, {}), journal.origins.get(file), planned.get(file)
        if plan is None or (origin is not None and origin.fingerprint != plan.fingerprint(skipped)):
            raise ValueError(another(out))
        if origin is None and skipped and not packing.skip_broken:
            raise ValueError(
                f"{out} was packed without {len(skipped)} broken images of {file}; pass --skip-broken, or delete it to "
                "pack again"
            )
        if origin is not None and (origin.stamp != plan.stamp() or (skipped and not packing.skip_broken)):
            journal.forget(file)


def _write_shards(out: Path, plans: Sequence[Plan], journal: Journal, packing: Packing, track: Track) -> None:
    """Write the shards that are not finished yet."""
    photos = [photo for plan in plans for photo in plan.photos]
    with closing(track(photos, len(photos))) as tracked:  # a bar that is left to the garbage collector may block it
        for plan in plans:
            mine = islice(tracked, len(plan.photos))
            if journal.has(plan.file):
                for _ in mine:
                    pass
            else:
                stamp = plan.stamp()
                info, skipped = _write_shard(out / plan.file, mine, packing)
                journal.add(info, skipped, Origin(plan.fingerprint(skipped), stamp))
        for _ in tracked:  # lets the bar end
            pass


def _write_shard(path: Path, photos: Iterable[Photo], packing: Packing) -> tuple[ShardInfo, dict[str, str]]:
    """Write one shard, whole or not at all; give what the manifest says about it, and what was skipped, by key."""
    part = path.with_suffix(".tar.part")
    samples, masks, skipped = 0, 0, {}
    try:
        with part.open("wb") as file, _tar_writer(file) as tar:
            for photo, result in encode_in_order(photos, packing):
                if not isinstance(result, BrokenPhotoError):
                    tar.write(result)
                    samples, masks = samples + 1, masks + (SUFFIX in result)
                elif packing.skip_broken:
                    skipped[photo.key] = str(result)
                else:
                    raise result
        info = ShardInfo(path.name, samples, part.stat().st_size, checksum(part), masks=masks)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return info, skipped


def _tar_writer(file: BinaryIO) -> wds.TarWriter:
    """Leave time, user and machine out of the bytes; PAX writes names of any length."""
    return wds.TarWriter(file, user="", group="", mode=0o644, mtime=0, encoder=False, format="PAX_FORMAT")


def _list_keys(split: str, plans: Sequence[Plan], journal: Journal) -> bytes:
    """Name the samples of a split in the order of its shards, one a line."""
    mine = [plan for plan in plans if plan.split == split]
    keys = [photo.key for plan in mine for photo in plan.photos if photo.key not in journal.skipped.get(plan.file, {})]
    return "".join(f"{key}\n" for key in keys).encode()


def _check_room(out: Path, plans: Sequence[Plan], packing: Packing) -> None:
    """Refuse a disk that is too small before hours are spent; after a resize the size is not known beforehand."""
    needed, free = sum(plan.bytes() for plan in plans), shutil.disk_usage(out).free
    if packing.resize is None and needed > free:
        raise ValueError(f"{out} has room for {_gigabytes(free)}, the shards need {_gigabytes(needed)}; {_GO_ON}")


_GO_ON = "make room and run the same command again: finished shards are kept"


@contextmanager
def _room_in(out: Path) -> Iterator[None]:
    """Say in one line that a disk is full."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise ValueError(f"no space is left in {out}; {_GO_ON}") from error


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.3g} GB"
