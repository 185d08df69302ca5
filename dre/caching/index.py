"""Where saliency maps lie in the shards of a directory, whoever wrote them."""

import json
import re
import tarfile
from array import array
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO

import numpy as np

from dre.caching.shards import ABOUT, FILE, FORMAT, SUFFIX

NAME = re.compile(r"[0-9a-f]{32}" + re.escape(FILE))


class Index:
    """Where the maps of some explainers lie: 20 bytes for each map, and one open file while it is read.

    Files that are no shards, and shards with a damaged place, end up in `complaints`; an interrupted shard, or one that
    is being written, counts up to its last whole map.

    Args:
        directory: Of shards; may be missing.
        explainers: Fingerprints; shards of others are not looked through.
    """

    def __init__(self, directory: Path, explainers: Collection[str]) -> None:
        self.shards: list[Path] = []
        self.complaints: list[str] = []
        keys, offsets, shards = array("Q"), array("q"), array("i")
        for path in sorted(directory.iterdir()) if directory.is_dir() else []:
            try:
                for name, offset in self._maps(path, set(explainers)):
                    keys.append(_key(name))
                    offsets.append(offset)
                    shards.append(len(self.shards))
            except OSError as error:
                self.complaints.append(f"{path.name} cannot be read: {error.strerror}")
            self.shards.append(path)
        order = np.argsort(np.frombuffer(keys, dtype=np.uint64), kind="stable")
        self._keys = np.frombuffer(keys, dtype=np.uint64)[order]
        self._offsets = np.frombuffer(offsets, dtype=np.int64)[order]
        self._shards = np.frombuffer(shards, dtype=np.int32)[order]

    def __len__(self) -> int:
        return len(self._keys)

    def places(self, name: str) -> range:
        """Give where in the index a map may be: one place, more where runs made it at the same time, or none."""
        key = np.uint64(_key(name))
        return range(*(int(np.searchsorted(self._keys, key, side)) for side in ("left", "right")))

    def shard(self, place: int) -> Path:
        """Give the shard of a place."""
        return self.shards[int(self._shards[place])]

    def read(self, place: int, name: str) -> bytes:
        """Read the file of a map.

        Raises:
            OSError: The shard is gone.
            ValueError: Something else is in its place.
        """
        with self.shard(place).open("rb") as file:
            file.seek(int(self._offsets[place]))
            try:
                with tarfile.open(fileobj=file, mode="r:") as archive:
                    entry = archive.next()
                    content = archive.extractfile(entry) if entry is not None and entry.name == name + FILE else None
                    if content is None:
                        raise ValueError("another file is in its place")
                    return content.read()
            except tarfile.TarError as error:
                raise ValueError(str(error)) from error

    def _maps(self, path: Path, explainers: set[str]) -> Iterator[tuple[str, int]]:
        """Give the name and the offset of each whole map of a shard that may hold maps of these explainers."""
        if path.suffix != SUFFIX or not path.is_file():
            self.complaints.append(f"{path.name} is no shard")
            return
        with path.open("rb") as file:
            size = path.stat().st_size
            entries = _entries(file, size)
            first = next(entries, None)
            if first is None:
                if size >= tarfile.BLOCKSIZE and _is_damaged(file, 0):
                    self.complaints.append(f"{path.name} is no shard of maps")
                return
            about = _about(file, first)
            if about is None:
                self.complaints.append(f"{path.name} is a shard of something else")
                return
            if explainers.isdisjoint(about):
                return
            end = first
            for end in entries:
                if NAME.fullmatch(end.name):
                    yield end.name.removesuffix(FILE), end.offset
            if _is_damaged(file, _end(end)):
                self.complaints.append(f"{path.name} is damaged at byte {_end(end)} and read up to there")


def _entries(file: IO[bytes], size: int) -> Iterator[tarfile.TarInfo]:
    """Give the files of an archive of which nothing is missing."""
    with suppress(tarfile.ReadError), tarfile.open(fileobj=file, mode="r:") as archive:
        while (entry := archive.next()) is not None and entry.offset_data + entry.size <= size:
            archive.members.clear()  # type: ignore[attr-defined]  # it would remember every file
            yield entry


def _end(entry: tarfile.TarInfo) -> int:
    return entry.offset_data + -(-entry.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def _is_damaged(file: IO[bytes], place: int) -> bool:
    """Say whether something other than the end of an archive, or of an interrupted one, is there."""
    file.seek(place)
    block = file.read(tarfile.BLOCKSIZE)
    if len(block) < tarfile.BLOCKSIZE or not any(block):
        return False
    try:
        tarfile.TarInfo.frombuf(block, tarfile.ENCODING, "surrogateescape")
    except tarfile.TarError:
        return True
    return False  # the header of a file that is not whole


def _about(file: IO[bytes], entry: tarfile.TarInfo) -> set[str] | None:
    """Read the fingerprints in the first file of a shard; None when it is not of this format."""
    file.seek(entry.offset_data)
    try:
        content = json.loads(file.read(entry.size)) if entry.name == ABOUT else None
    except ValueError:
        return None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        return None
    return set(content.get("explainers", ()))


def _key(digest: str) -> int:
    return int(digest[:16], 16)
