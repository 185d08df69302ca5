"""One process at a time: advisory locks on files, given back when their holder ends, however it ends."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(path: Path, *, wait: bool) -> Iterator[None]:
    """Hold the lock on a file, which is made where it does not exist.

    Args:
        path: The file; its content is left as it is.
        wait: Whether to wait for another holder.

    Raises:
        BlockingIOError: Another process holds it, and `wait` is false.
    """
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
