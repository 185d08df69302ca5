"""Tar shards of saliency maps: one writer each, readable up to the last whole map."""

import json
import os
import tarfile
import uuid
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

SUFFIX = ".tar"
FILE = ".safetensors"
ABOUT = "about.json"
FORMAT = "saliency maps 1"
LARGEST = 1 << 30
"""Bytes after which a writer begins another shard."""


class ShardWriter:
    """Append files to shards that are this writer's alone; a shard begins with what `about` says.

    Args:
        directory: Made where it does not exist.
        rank: Part of the shards' names.
        about: Plain values; `explainers` must list the fingerprints whose maps follow.
        largest: Bytes after which another shard begins.
    """

    def __init__(self, directory: Path, rank: int, about: dict[str, Any], largest: int = LARGEST) -> None:
        self.directory, self.largest = directory, largest
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
        self.stem = f"{stamp}-rank{rank}-{uuid.uuid4().hex[:12]}"
        self.about = json.dumps({"format": FORMAT, **about}, indent=1).encode()
        self.shards = 0
        self.whole = 0
        self._file: IO[bytes] | None = None

    def write(self, name: str, content: bytes) -> None:
        """Append a file.

        Raises:
            OSError: It could not be written whole; call `abandon`.
        """
        if self._file is None or self.whole >= self.largest:
            self.close()
            self.directory.mkdir(parents=True, exist_ok=True)
            self._file = (self.directory / f"{self.stem}-{self.shards:05d}{SUFFIX}").open("xb")
            self.shards, self.whole = self.shards + 1, 0
            self._add(self._file, ABOUT, self.about)
        self._add(self._file, name, content)

    def flush(self) -> None:
        """Hand what was written to the system, so that it outlives the process."""
        if self._file is not None:
            self._file.flush()

    def close(self) -> None:
        """End the shard."""
        if self._file is not None:
            self._file.write(bytes(2 * tarfile.BLOCKSIZE))
            self._file.close()
        self._file = None

    def abandon(self) -> None:
        """Give up a shard that cannot be written on, and cut off what is not whole."""
        if self._file is None:
            return
        path = Path(self._file.name)
        with suppress(OSError):
            self._file.close()  # tries once more to write what it holds
        with suppress(OSError):
            os.truncate(path, min(self.whole, path.stat().st_size))
            if not self.whole:
                path.unlink()
        self._file = None

    def _add(self, file: IO[bytes], name: str, content: bytes) -> None:
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        file.write(entry.tobuf(tarfile.USTAR_FORMAT))
        file.write(content)
        file.write(bytes(-len(content) % tarfile.BLOCKSIZE))
        self.whole = file.tell()
