"""Roots of data sets: a local folder, or a remote place from which files are fetched."""

import re
import tempfile
from abc import ABC, abstractmethod
from functools import cached_property
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

from data.cache import ShardCache
from data.manifest import FILE_NAME, INDEX, WAYS, Manifest, ShardInfo, Verify, checksum, keys_file, verify_shard
from data.photos import check_names
from data.transfer import PIPE, PLACE, Remote, fetch, is_remote, url_of
from dre.runs.process import mask_credentials

HERE = Remote()

LOCAL = "file://"
SHARDS = re.compile(r"\.tar$|\{\d+\.\.\d+\}|\{[^{}]*,[^{}]*\}")
"""Endings and patterns of addresses of shards themselves."""

LARGEST_MANIFEST, LARGEST_LIST = 1 << 28, 1 << 32
"""Bytes of a manifest, and of another file beside the shards, that are fetched at most."""


class Root(ABC):
    """Read a packed data set.

    Args:
        name: What messages call it.
        remote: How shards are fetched that lie elsewhere.
    """

    def __init__(self, name: str, remote: Remote = HERE) -> None:
        self.name = name
        self.remote = remote
        self._keys: dict[str, list[str] | None] = {}

    @abstractmethod
    def read(self, file: str) -> bytes | None:
        """Read one of the small files beside the shards; `None` where there is none of that name."""

    @cached_property
    def cache(self) -> ShardCache:
        """Return the folder of shards that were fetched."""
        return ShardCache(self.remote.cache, self.remote.cache_gigabytes)

    @abstractmethod
    def is_away(self, info: ShardInfo) -> bool:
        """Say whether a shard must be fetched before it is read."""

    @abstractmethod
    def open(self, info: ShardInfo) -> BinaryIO:
        """Open a shard, once it is on a local disk."""

    @abstractmethod
    def verify(self, info: ShardInfo, verify: Verify) -> None:
        """Refuse a shard that is missing or is not the one that the manifest describes, unless it can be fetched."""

    def manifest(self) -> Manifest:
        """Read the manifest.

        Raises:
            FileNotFoundError: There is no manifest.
            ValueError: The manifest is damaged.
        """
        text = self.read(FILE_NAME)
        if text is None:
            raise FileNotFoundError(f"no {FILE_NAME} in {self.name}; {WAYS}")
        return Manifest.parse(text, f"{self.name}/{FILE_NAME}")

    def keys(self, split: str) -> list[str] | None:
        """List the keys of a split in the order of its shards; `None` where the data set has no such list.

        Raises:
            ValueError: The list is damaged, or of another length than the manifest says.
        """
        if split not in self._keys:
            manifest = self.manifest()
            text = self.read(keys_file(split)) if keys_file(split) in manifest.files else None
            try:
                keys = None if text is None else text.decode().split("\n")[:-1]
            except UnicodeDecodeError as error:
                raise ValueError(f"{self.name}/{keys_file(split)} is not UTF-8 ({error}); copy it again") from error
            if keys is not None and len(keys) != manifest.count()[split]:
                raise ValueError(
                    f"{self.name}/{keys_file(split)} lists {len(keys)} keys, the manifest counts "
                    f"{manifest.count()[split]} images; copy it again, or pack the images again"
                )
            check_names(keys or (), f"{self.name}/{keys_file(split)}")
            self._keys[split] = keys
        return self._keys[split]


class LocalRoot(Root):
    """Read a data set in a folder on a disk of this machine; its manifest may say that the shards lie elsewhere.

    Args:
        path: The folder.
        remote: How shards are fetched that lie elsewhere.
    """

    def __init__(self, path: Path, remote: Remote = HERE) -> None:
        self.path = path.expanduser()
        super().__init__(str(self.path), remote)

    def read(self, file: str) -> bytes | None:
        """Read a file of the folder."""
        return (self.path / file).read_bytes() if (self.path / file).is_file() else None

    def is_away(self, info: ShardInfo) -> bool:
        """Say whether the manifest gives the URL of a shard."""
        return is_remote(info.place)

    def open(self, info: ShardInfo) -> BinaryIO:
        """Open a shard, and fetch it before where it lies elsewhere and is not in the cache."""
        if self.is_away(info):
            return _fetched(self, info.place, info)
        return (self.path / info.place / info.file).open("rb")

    def verify(self, info: ShardInfo, verify: Verify) -> None:
        """Compare a shard with its manifest."""
        if not self.is_away(info):
            verify_shard(self.path / info.place / info.file, info, verify)
        elif verify == "sha256":
            self.cache.drop_changed(info)


def _fetched(root: Root, place: str, info: ShardInfo) -> BinaryIO:
    """Open a shard of a server, and fetch it before where it is not in the cache."""
    url = url_of(place, info.file)

    def check(path: Path) -> None:
        verify_shard(path, info, "sha256")

    return root.cache.open(info, lambda path: fetch(url, path, root.remote, check, info.bytes))


class RemoteRoot(Root):
    """Read a data set on a server or in a bucket, or through a command that prints files.

    Args:
        url: See `url_of`; its credentials stay here, messages mask them.
        remote: How it is fetched.

    Raises:
        ValueError: A command does not say where the name of a file goes, the address is one of shards, or the cache is
            a file.
    """

    def __init__(self, url: str, remote: Remote) -> None:
        if url.startswith(PIPE) and PLACE not in url:
            shown = mask_credentials(url)
            raise ValueError(f"{shown!r} does not say where the name of a file goes; write {PLACE} there")
        if SHARDS.search(urlsplit(url).path) and not url.startswith(PIPE):
            shown = mask_credentials(url)
            raise ValueError(f"{shown} names shards, no folder with a {FILE_NAME}; `{INDEX.format(shown)}` writes one")
        super().__init__(mask_credentials(url), remote)
        self.url = url
        _ = self.cache  # refuses a file
        self._manifest: bytes | None = None

    def manifest(self) -> Manifest:
        """Read the manifest; refuse one that sends its readers elsewhere.

        Raises:
            FileNotFoundError: There is no manifest.
            ValueError: The manifest is damaged, or names other places, which only one on your own disk may.
        """
        manifest = super().manifest()
        for info in (info for infos in manifest.splits.values() for info in infos if info.place):
            raise ValueError(
                f"the manifest of {self.name} says that {info.file} lies in {info.place!r}; only a manifest on your "
                "own disk may name places: fetch it, and look at them"
            )
        return manifest

    def is_away(self, info: ShardInfo) -> bool:
        """Say that all shards are fetched."""
        return True

    def read(self, file: str) -> bytes | None:
        """Fetch a file that the manifest lists; the manifest itself once."""
        if self._manifest is None:
            self._manifest = self._fetch(FILE_NAME, sha256=None)
        if file == FILE_NAME:
            return self._manifest
        checksums = self.manifest().files
        return self._fetch(file, checksums[file]) if file in checksums else None

    def open(self, info: ShardInfo) -> BinaryIO:
        """Open a shard, and fetch it before where it is not in the cache."""
        return _fetched(self, self.url, info)

    def verify(self, info: ShardInfo, verify: Verify) -> None:
        """Compare a shard that is in the cache; others are compared with their manifest when they arrive."""
        if verify == "sha256":
            self.cache.drop_changed(info)

    def _fetch(self, file: str, sha256: str | None) -> bytes:
        """Fetch a small file; the manifest has no checksum, but must be one."""

        def check(path: Path) -> None:
            if sha256 is None:
                Manifest.parse(path.read_bytes(), "it")
            elif checksum(path) != sha256:
                raise ValueError("it has another sha256 than the manifest says")

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "fetched"
            most = LARGEST_MANIFEST if sha256 is None else LARGEST_LIST
            fetch(url_of(self.url, file), path, self.remote, check, most)
            return path.read_bytes()


def open_root(root: str | Path | Root, remote: Remote = HERE) -> Root:
    """Say where a data set lies from how its root is written.

    Raises:
        ValueError: It names shards instead of their folder, or a command that does not say where the name of a file
            goes.
    """
    if isinstance(root, Root):
        return root
    if isinstance(root, str) and is_remote(root) and not root.startswith(LOCAL):
        return RemoteRoot(root, remote)
    path = Path(str(root).removeprefix(LOCAL))
    if SHARDS.search(str(path)) and not path.is_dir():
        raise ValueError(f"{path} names shards, no folder with a {FILE_NAME}; `{INDEX.format(path)}` writes one")
    return LocalRoot(path, remote)


def is_folder(root: Root) -> bool:
    """Return whether a root is a plain folder of images, without a manifest."""
    return isinstance(root, LocalRoot) and not (root.path / FILE_NAME).is_file()
