"""Sample sources: tar shards with a manifest, and plain folders behind the same interface."""

import hashlib
import tarfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Any, Protocol

from rich.progress import track
from webdataset.tariterators import base_plus_ext, group_by_keys

from data.folder import FolderShard, Part, everything, folder_class_names, list_photos
from data.manifest import FILE_NAME, INDEX, ShardInfo, Verify
from data.photos import check_names, is_hidden
from data.roots import LocalRoot, Root, is_folder, open_root

FETCHERS = 4
"""Shards that are fetched at the same time."""

RawSample = dict[str, Any]
"""As webdataset gives it: `__key__`, `__url__` and the bytes of each file under its suffix."""

Told = Callable[[ValueError], Any] | None


class Shard(Protocol):
    """Describe a source of samples in a fixed order that can be streamed, or read one by one."""

    @property
    def name(self) -> str:
        """Return the name that messages use."""

    @property
    def samples(self) -> int:
        """Return how many samples it holds."""

    def list_keys(self) -> list[str]:
        """Name its samples, in order, without reading their images."""

    def stream(self) -> Iterator[RawSample]:
        """Read all samples, in order."""

    def read(self, position: int) -> RawSample:
        """Read one sample."""

    def fetch(self) -> None:
        """Bring it to a local disk, where it is not on one."""

    def index(self) -> None:
        """Learn where its samples lie, as the first `read` does: once for all workers that are started afterwards."""


class TarShard:
    """Read a webdataset shard.

    Args:
        root: Where the data set lies.
        info: What its manifest says about the shard.
        split: The split that it belongs to.
        start: How many samples of the split lie in the shards before it.
    """

    def __init__(self, root: Root, info: ShardInfo, split: str, start: int) -> None:
        self.root = root
        self.info = info
        self.split = split
        self.start = start
        self.name = info.file
        self.samples = info.samples

    def fetch(self) -> None:
        """Bring it to the local cache where its root is a remote one."""
        self.root.open(self.info).close()

    def index(self) -> None:
        """Read the headers of the tar file."""
        _ = self._members_in_order

    def list_keys(self) -> list[str]:
        """Name its samples, in order, from the list beside the shards, or else from the headers of the tar file."""
        keys = self.root.keys(self.split)
        return list(self._members) if keys is None else keys[self.start : self.start + self.samples]

    def stream(self, told: Told = None) -> Iterator[RawSample]:
        """Read all samples from start to end.

        Args:
            told: Hears of a name that is there twice, and the first file of that name is read; by default it is raised.

        Raises:
            ValueError: The file is damaged, holds a name twice that is not told, or another number of samples than its
                manifest says.
        """

        def handle(error: Exception) -> bool:
            name, duplicate, _ = str(error.args[0]).partition(": duplicate file name")
            if not duplicate:
                raise error
            twice = ValueError(f"{self._place} holds {name} twice; pack it again")
            if told is None:
                raise twice from error
            told(twice)
            return True

        seen = 0
        try:
            with self.root.open(self.info) as file, tarfile.open(fileobj=file, mode="r|") as tar:
                for raw in group_by_keys(self._contents(tar, told), handler=handle):
                    yield raw
                    seen += 1
        except tarfile.TarError as error:
            raise self._damaged(error) from error
        self._check_count(seen)

    def _contents(self, tar: tarfile.TarFile, told: Told) -> Iterator[dict[str, Any]]:
        """Read the files of a tar file as `group_by_keys` takes them, and forget their headers."""
        for member in self._files(tar, told):
            content = tar.extractfile(member)
            yield {"fname": member.name, "data": content.read() if content else b"", "__url__": self.name}
            tar.members = []  # type: ignore[attr-defined]

    def _files(
        self, tar: tarfile.TarFile, told: Callable[[ValueError], Any] | None = None
    ) -> Iterator[tarfile.TarInfo]:
        """List the files of a tar file that belong to samples, without hidden ones; refuse odd names and sizes."""
        for member in tar:
            key, _ = base_plus_ext(member.name)
            if not member.isreg() or key is None or is_hidden(member.name):
                continue
            try:
                if member.name.removeprefix("./").startswith("_"):
                    raise ValueError(
                        f"{self._place} holds {member.name!r}: webdataset skips names that start with an underscore; "
                        "rename the file and write the shard again"
                    )
                if member.issparse() or member.size > self.info.bytes:
                    raise ValueError(
                        f"{self._place} holds {member.name!r}, which is larger than the shard; pack it again"
                    )
                check_names((key,), self._place)
            except ValueError as error:
                if told is None:
                    raise
                told(error)
            else:
                yield member

    def read(self, position: int) -> RawSample:
        """Read one sample."""
        key, parts = self._members_in_order[position]
        raw: RawSample = {"__key__": key, "__url__": self.name}
        with self.root.open(self.info) as file:
            for suffix, (offset, size) in parts.items():
                file.seek(offset)
                raw[suffix] = file.read(size)
        return raw

    @cached_property
    def _members(self) -> dict[str, dict[str, tuple[int, int]]]:
        """Key -> suffix -> (offset, size): the headers of the tar file are read once, its images are not."""
        members: dict[str, dict[str, tuple[int, int]]] = {}
        try:
            with self.root.open(self.info) as file, tarfile.open(fileobj=file, mode="r:") as tar:
                for member in self._files(tar):
                    key, suffix = base_plus_ext(member.name)
                    members.setdefault(key, {})[suffix.lower()] = (member.offset_data, member.size)
        except tarfile.TarError as error:
            raise self._damaged(error) from error
        self._check_count(len(members))
        return members

    @cached_property
    def _members_in_order(self) -> list[tuple[str, dict[str, tuple[int, int]]]]:
        return list(self._members.items())

    def _damaged(self, error: tarfile.TarError) -> ValueError:
        return ValueError(
            f"{self._place} is not a readable tar file ({error.args[0]}); copy or pack it again (a compressed "
            "one must be unpacked)"
        )

    def _check_count(self, seen: int) -> None:
        if seen != self.samples:
            raise ValueError(f"{self._place} holds {seen} samples, its manifest says {self.samples}; pack it again")

    @property
    def _place(self) -> str:
        return f"{self.root.name}/{self.name}"


def open_shards(roots: Sequence[Root | Path | str], split: str, verify: Verify, part: Part = everything) -> list[Shard]:
    """List the shards of a split in every root, each checked against its manifest.

    Args:
        roots: Data sets with a `manifest.json`, or plain image folders, see `data.folder`.
        split: Which part of the data.
        verify: `"sha256"` reads every shard once; `"size"` only looks at sizes. Remote shards are verified when they
            arrive, and with `"sha256"` those that are in the cache are too, and fetched again where they have changed.
        part: Takes some of the photographs of a folder that nothing divides into splits.

    Raises:
        FileNotFoundError: There is no such folder, no manifest beside its shards, or a shard is missing.
        ValueError: There is no such split, or a shard is not the one that its manifest describes.
    """
    shards: list[Shard] = []
    for root in map(open_root, roots):
        if isinstance(root, LocalRoot) and not root.path.is_dir():
            raise FileNotFoundError(f"no folder {root.path}; set `root` to where the images are")
        if isinstance(root, LocalRoot) and is_folder(root):
            if any(root.path.glob("*.tar")):
                raise FileNotFoundError(
                    f"{root.path} holds shards and no {FILE_NAME}; `{INDEX.format(root.path)}` writes one, "
                    "without packing them again; then set `root` to that folder"
                )
            shards.extend(FolderShard.cut(list_photos(root.path, split, part)))
            continue
        start = 0
        for info in root.manifest().shards(split):
            root.verify(info, verify)
            shards.append(TarShard(root, info, split, start))
            start += info.samples
    return shards


def class_names(roots: Sequence[Root]) -> list[str] | None:
    """Name each class index of some data sets, empty where no image shows it; `None` where none of them has classes.

    Raises:
        ValueError: They give one index different names.
    """
    merged: list[str] = []
    for root in dict.fromkeys(roots):
        names = _class_names(root) or []
        for index, (before, name) in enumerate(zip(merged, names, strict=False)):
            if before and name and before != name:
                raise ValueError(
                    f"class {index} is {name!r} in {root.name} and {before!r} in another root; "
                    "choose data sets that number the same classes"
                )
        merged = [before or name for before, name in zip_longest(merged, names, fillvalue="")]
    return merged or None


def _class_names(root: Root) -> list[str] | None:
    if isinstance(root, LocalRoot) and is_folder(root):
        return folder_class_names(root.path)
    return root.manifest().classes


def fetch_all(shards: Sequence[Shard]) -> None:
    """Bring shards to a local disk, a few at a time; those that must all be there together fit the cache or none do."""
    away = [shard for shard in shards if isinstance(shard, TarShard) and shard.root.is_away(shard.info)]
    if not away:
        return
    for root in {shard.root for shard in away}:
        root.cache.refuse_more_than(sum(shard.info.bytes for shard in away))
    with ThreadPoolExecutor(FETCHERS) as pool:
        for _ in track(pool.map(TarShard.fetch, away), description="fetching", total=len(away)):
            pass


def fetch_ahead(shards: Iterable[Shard]) -> Iterator[Shard]:
    """Return shards one by one, each on a local disk, while the next one is brought there."""
    with ThreadPoolExecutor(1) as pool:
        coming: deque[tuple[Shard, Future[None]]] = deque()
        for shard in shards:
            coming.append((shard, pool.submit(shard.fetch)))
            if len(coming) > 1:
                first, fetched = coming.popleft()
                fetched.result()
                yield first
        for shard, fetched in coming:
            fetched.result()
            yield shard


def count(shards: Sequence[Shard]) -> int:
    """Add up the samples of some shards."""
    return sum(shard.samples for shard in shards)


def key_order(key: str) -> str:
    """Return the sort key that puts samples in a fixed random order, the same on every machine and for any packing."""
    return hashlib.sha256(key.encode()).hexdigest()
