"""Roots of data sets: a local folder, or a remote place from which files are fetched."""

import tempfile
from abc import ABC, abstractmethod
from pathlib import Path
from typing import BinaryIO

from data.cache import ShardCache
from data.manifest import FILE_NAME, Manifest, ShardInfo, Verify, checksum, keys_file, verify_shard
from data.photos import check_names
from data.transfer import PIPE, PLACE, Remote, fetch, is_remote, url_of
from dre.runs.process import mask_credentials

HERE = Remote()

LOCAL = "file://"

LARGEST_MANIFEST, LARGEST_LIST = 1 << 28, 1 << 32
"""Bytes of a manifest, and of another file beside the shards, that are fetched at most."""


class Root(ABC):
    """Read a packed data set.

    Args:
        name: What messages call it.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._keys: dict[str, list[str] | None] = {}

    @abstractmethod
    def read(self, file: str) -> bytes | None:
        """Read one of the small files beside the shards; `None` where there is none of that name."""

    @abstractmethod
    def open(self, info: ShardInfo) -> BinaryIO:
        """Open a shard, once it is on a local disk."""

    @abstractmethod
    def verify(self, info: ShardInfo, verify: Verify) -> None:
        """Refuse a shard that is missing or is not the one that the manifest describes, unless it can be fetched."""

    def manifest(self) -> Manifest:
        """Read the manifest, or say what is wrong with it."""
        text = self.read(FILE_NAME)
        if text is None:
            raise FileNotFoundError(f"no {FILE_NAME} in {self.name}; pack the images with `python -m data.prepare`")
        return Manifest.parse(text, f"{self.name}/{FILE_NAME}")

    def keys(self, split: str) -> list[str] | None:
        """List the keys of a split in the order of its shards; `None` where the data set has no such list."""
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
    """Read a data set in a folder on a disk of this machine.

    Args:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser()
        super().__init__(str(self.path))

    def read(self, file: str) -> bytes | None:
        """Read a file of the folder."""
        return (self.path / file).read_bytes() if (self.path / file).is_file() else None

    def open(self, info: ShardInfo) -> BinaryIO:
        """Open a shard."""
        return (self.path / info.file).open("rb")

    def verify(self, info: ShardInfo, verify: Verify) -> None:
        """Compare a shard with its manifest."""
        verify_shard(self.path / info.file, info, verify)


class RemoteRoot(Root):
    """Read a data set on a server or in a bucket, or through a command that prints files.

    Args:
        url: See `url_of`; its credentials stay here, messages mask them.
        remote: How it is fetched.
    """

    def __init__(self, url: str, remote: Remote) -> None:
        if url.startswith(PIPE) and PLACE not in url:
            shown = mask_credentials(url)
            raise ValueError(f"{shown!r} does not say where the name of a file goes; write {PLACE} there")
        super().__init__(mask_credentials(url))
        self.url = url
        self.remote = remote
        self.cache = ShardCache(remote.cache, remote.cache_gigabytes)
        self._manifest: bytes | None = None

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
        url = url_of(self.url, info.file)

        def check(path: Path) -> None:
            verify_shard(path, info, "sha256")

        return self.cache.open(info, lambda path: fetch(url, path, self.remote, check, info.bytes))

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
    """Say where a data set lies from how its root is written."""
    if isinstance(root, Root):
        return root
    if isinstance(root, str) and is_remote(root) and not root.startswith(LOCAL):
        return RemoteRoot(root, remote)
    return LocalRoot(Path(str(root).removeprefix(LOCAL)))
