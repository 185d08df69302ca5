"""Disk cache of remote shards: fetch each shard once for all processes of a machine, and delete the oldest first."""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from data.manifest import ShardInfo, checksum
from dre.runs.locks import locked

LOGGER = logging.getLogger(__name__)

LOCK = "cache.lock"


class ShardCache:
    """Keep shards in a folder, named by file and checksum, so that a file is the one that a manifest means.

    Args:
        folder: Made where it does not exist.
        gigabytes: See `Remote`.

    Raises:
        ValueError: `folder` is a file.
    """

    def __init__(self, folder: str, gigabytes: float | None = None) -> None:
        self.folder = Path(folder).expanduser()
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"the cache {self.folder} is a file; name a folder")
        self.limit = None if gigabytes is None else round(gigabytes * 1e9)

    def open(self, info: ShardInfo, fetch: Callable[[Path], None]) -> BinaryIO:
        """Open a shard; where it is not there yet, `fetch` brings it, one process at a time.

        An open file stays readable when another process deletes it to make room.
        """
        path = self._path(info)
        if file := self._take(path, info):
            return file
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(path.with_suffix(".lock"), wait=True):
            if file := self._take(path, info):
                return file
            part = path.with_suffix(".part")
            try:
                fetch(part)
                with locked(self.folder / LOCK, wait=True):
                    self._make_room(info)
                    os.replace(part, path)
                    return path.open("rb")
            finally:
                part.unlink(missing_ok=True)

    def _take(self, path: Path, info: ShardInfo) -> BinaryIO | None:
        """Open a shard that is there and whole, and note that it is read now."""
        try:
            file = path.open("rb")
            if os.fstat(file.fileno()).st_size == info.bytes:
                os.utime(path)
                return file
            file.close()
        except FileNotFoundError:
            pass
        return None

    def drop_changed(self, info: ShardInfo) -> None:
        """Delete a shard whose bytes have changed since it came, so that it is fetched again."""
        path = self._path(info)
        if path.is_file() and checksum(path) != info.sha256:
            LOGGER.warning("%s has changed since it was fetched; it is fetched again", path)
            path.unlink(missing_ok=True)

    def _path(self, info: ShardInfo) -> Path:
        return self.folder / f"{Path(info.file).stem}-{info.sha256[:16]}.tar"

    def _make_room(self, info: ShardInfo) -> None:
        """Delete the shards that were read longest ago until another one fits."""
        if self.limit is None:
            return
        self.refuse_more_than(info.bytes)
        held = sorted((file.stat().st_mtime_ns, file.stat().st_size, file) for file in self.folder.glob("*.tar"))
        total = sum(size for _, size, _ in held)
        for _, size, file in held:
            if total + info.bytes <= self.limit:
                break
            file.unlink(missing_ok=True)
            total -= size

    def refuse_more_than(self, size: int) -> None:
        """Refuse shards that must lie in the cache together and do not fit.

        Raises:
            ValueError: They have more bytes than the cache may hold.
        """
        if self.limit is not None and size > self.limit:
            raise ValueError(
                f"shards of {size / 1e9:.3g} GB are read together, the cache {self.folder} may hold "
                f"{self.limit / 1e9:.3g} GB; raise `cache_gigabytes`, or set `sampling: resampled`"
            )
