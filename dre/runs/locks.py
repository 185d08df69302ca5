"""Advisory locks on files, released when their holder ends, however it ends."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_HELD: set[BinaryIO] = set()


def _release() -> None:
    """Close the files in a forked process, so that a worker does not hold a lock longer than its parent lives."""
    for file in _HELD:
        file.close()
    _HELD.clear()


os.register_at_fork(after_in_child=_release)


@contextmanager
def locked(path: Path, *, wait: bool) -> Iterator[None]:
    """Hold the lock on a file, which is created if it does not exist.

    Args:
        path: The file; its content is left as it is.
        wait: Whether to wait for another holder.

    Raises:
        BlockingIOError: Another process holds it, and `wait` is false.
    """
    with path.open("ab", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        _HELD.add(file)
        try:
            yield
        finally:
            _HELD.discard(file)
