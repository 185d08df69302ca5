"""Advisory locks beside files, on every platform; released when their holder ends, however it ends."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout


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
    beside = path.with_name(f".{path.name}.lock")
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
