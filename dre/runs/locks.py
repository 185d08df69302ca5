"""Advisory locks beside files, on every platform; files that are replaced in one stroke."""

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout


def lock_of(path: Path) -> Path:
    """Return the file that is there while a file is locked."""
    return path.with_name(f".{path.name}.lock")


@contextmanager
def locked(path: Path, *, wait: bool) -> Iterator[None]:
    """Hold the lock of a file, which need not exist and is left as it is.

    The lock is a file beside it while it is held, `.NAME.lock`: on Windows nobody else can read a file that is locked
    itself. Processes that are forked meanwhile let go of it, so a worker does not hold it longer than its parent lives.

    Args:
        path: The file.
        wait: Whether to wait for another holder.

    Raises:
        BlockingIOError: Another process holds it, and `wait` is false.
    """
    beside = lock_of(path)
    lock = FileLock(beside, thread_local=False)
    try:
        lock.acquire(blocking=wait)
    except Timeout:
        raise BlockingIOError(f"{path} is locked by another process") from None
    try:
        yield
    finally:
        with suppress(OSError):  # Windows does not delete a file that is open
            beside.unlink()  # while it is held: who waits for it looks whether it is still there
        lock.release()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside a file, which takes its place when the block has ended; after an error it is gone.

    A process that is killed leaves the old file, or none, and at most a file that ends in `.part`.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     with replacing(Path(folder) / "note.txt") as part:
        ...         _ = part.write_text("whole")
        ...     [path.name for path in Path(folder).iterdir()]
        ['note.txt']
    """
    part = path.with_name(f".{path.name}-{uuid.uuid4().hex[:8]}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file in one stroke, text as UTF-8."""
    with replacing(path) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)


def write_json(path: Path, content: Any, indent: int = 2) -> None:
    """Write plain values as JSON in one stroke."""
    write_whole(path, json.dumps(content, indent=indent, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object; empty where there is no file.

    Raises:
        ValueError: The file is empty, or holds something else.
    """
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text())
    except (ValueError, OSError) as error:
        size = path.stat().st_size
        raise ValueError(f"{path} is damaged ({size} bytes, {error}): restore it, or make the run anew") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds {type(content).__name__} where an object is expected; make the run anew")
    return content
