"""Where samples are read from: tar shards with a manifest, or plain folders that pass for shards."""

import hashlib
import tarfile
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from webdataset.tariterators import base_plus_ext, group_by_keys, tar_file_expander

from data.folder import FolderShard, list_photos
from data.manifest import FILE_NAME, Manifest, ShardInfo, Verify, verify_shard

RawSample = dict[str, Any]
"""As webdataset gives it: `__key__`, `__url__` and the bytes of each file under its suffix."""


class Shard(Protocol):
    """A run of samples in a fixed order that can be streamed, or read one by one."""

    @property
    def name(self) -> str:
        """What messages call it."""

    @property
    def samples(self) -> int:
        """How many samples it holds."""

    def list_keys(self) -> list[str]:
        """Name its samples, in order, without reading their images."""

    def stream(self) -> Iterator[RawSample]:
        """Read all samples, in order."""

    def read(self, position: int) -> RawSample:
        """Read one sample."""


class TarShard:
    """A webdataset shard on a local disk.

    Args:
        root: Folder of the dataset.
        info: What its manifest says about the shard.
    """

    def __init__(self, root: Path, info: ShardInfo) -> None:
        self.path = root / info.file
        self.name = info.file
        self.samples = info.samples

    def list_keys(self) -> list[str]:
        """Name its samples, in order, from the headers of the tar file."""
        return list(self._members)

    def stream(self) -> Iterator[RawSample]:
        """Read all samples from start to end."""
        seen = 0
        try:
            with self.path.open("rb") as file:
                for raw in group_by_keys(tar_file_expander([{"url": self.name, "stream": file}])):
                    yield raw
                    seen += 1
        except tarfile.TarError as error:
            raise self._damaged(error) from error
        self._check_count(seen)

    def read(self, position: int) -> RawSample:
        """Read one sample."""
        key, parts = self._members_in_order[position]
        raw: RawSample = {"__key__": key, "__url__": self.name}
        with self.path.open("rb") as file:
            for suffix, (offset, size) in parts.items():
                file.seek(offset)
                raw[suffix] = file.read(size)
        return raw

    @cached_property
    def _members(self) -> dict[str, dict[str, tuple[int, int]]]:
        """Key -> suffix -> (offset, size): the headers of the tar file are read once, its images are not."""
        members: dict[str, dict[str, tuple[int, int]]] = {}
        try:
            with tarfile.open(self.path) as tar:
                for member in tar:
                    key, suffix = base_plus_ext(member.name)
                    if member.isreg() and key is not None:
                        members.setdefault(key, {})[suffix.lower()] = (member.offset_data, member.size)
        except tarfile.TarError as error:
            raise self._damaged(error) from error
        self._check_count(len(members))
        return members

    @cached_property
    def _members_in_order(self) -> list[tuple[str, dict[str, tuple[int, int]]]]:
        return list(self._members.items())

    def _damaged(self, error: tarfile.TarError) -> ValueError:
        return ValueError(f"{self.path} is not a readable tar file ({error.args[0]}); copy or pack it again")

    def _check_count(self, seen: int) -> None:
        if seen != self.samples:
            raise ValueError(f"{self.path} holds {seen} samples, its manifest says {self.samples}; pack it again")


def open_shards(roots: Sequence[Path], split: str, verify: Verify) -> list[Shard]:
    """List the shards of a split in every root, each checked against its manifest.

    Args:
        roots: Folders with a `manifest.json`, or plain image folders, see `data.folder`.
        split: Which part of the data.
        verify: `"sha256"` reads every shard once; `"size"` only looks at sizes.
    """
    shards: list[Shard] = []
    for root in roots:
        if not root.is_dir():
            raise FileNotFoundError(f"no folder {root}; set `root` to where the images are")
        if not (root / FILE_NAME).is_file():
            shards.extend(FolderShard.cut(list_photos(root, split)))
            continue
        for info in Manifest.load(root).shards(split):
            verify_shard(root, info, verify)
            shards.append(TarShard(root, info))
    return shards


def count(shards: Sequence[Shard]) -> int:
    """Add up the samples of some shards."""
    return sum(shard.samples for shard in shards)


def key_order(key: str) -> str:
    """Give the sort key that puts samples in a fixed random order, the same on every machine and for any packing."""
    return hashlib.sha256(key.encode()).hexdigest()
