"""File transfer: fetch files from a server, a bucket or a command, and try again where that fails."""

import errno
import logging
import os
import re
import shlex
import time
from collections.abc import Callable, MutableMapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

import fsspec
import webdataset as wds
from pytorch_lightning.utilities import rank_zero_only

from dre.checks import check_number
from dre.runs.process import mask_credentials


class RankAdapter(logging.LoggerAdapter[logging.Logger]):
    """Name the rank in front of a message where there are several."""

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """See `logging.LoggerAdapter`."""
        several = any(int(os.environ.get(name, "1")) > 1 for name in ("WORLD_SIZE", "SLURM_NTASKS"))
        return (f"[rank: {getattr(rank_zero_only, 'rank', 0)}] {msg}" if several else msg), kwargs


LOGGER = RankAdapter(logging.getLogger(__name__))

PIPE = "pipe:"
PLACE = "{}"
"""Stands for the name of the file in a command."""

PLAIN = re.compile(r"[\w./-]+")
"""Names that a shell reads as they are, within quotes of the command and outside."""

PIECE = 1 << 16
"""Bytes of a command that are read at once."""

FINAL_STATUS = (400, 401, 403, 404, 405, 410, 416)
"""HTTP answers that another attempt would not change."""

FINAL_ERRORS = ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "DefaultCredentialsError")
"""Errors of the libraries of s3 and gs, by name: they need not be installed."""

FULL = (errno.ENOSPC, errno.EDQUOT)

LONGEST_PAUSE = 60.0

LARGEST = 1 << 40
"""Bytes of a file about whose size nothing is said."""

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Remote:
    """Hold the settings by which remote data sets are fetched; local folders need none of them.

    Args:
        cache: Folder on a local disk that keeps shards between runs; processes of one machine share it.
        cache_gigabytes: Size at which the shards that were read longest ago are deleted; by default never.
        attempts: How often a file is asked for before a run gives up.
        pause: Seconds before the second attempt, twice as many before each further one, at most a minute.
        timeout: Seconds without a byte from a http(s) server after which an attempt has failed; s3 and gs have their
            own, and commands (`curl --max-time 60`) too.

    Raises:
        ValueError: `attempts` is below 1, or another number is not above 0.
        TypeError: One is no number.
    """

    cache: str = "~/.cache/dre"
    cache_gigabytes: float | None = None
    attempts: int = 6
    pause: float = 1.0
    timeout: float = 60.0

    def __post_init__(self) -> None:
        check_number("attempts", self.attempts, 1, 1_000_000)
        for name in ("pause", "timeout", "cache_gigabytes"):
            value = getattr(self, name)
            if value is not None:
                check_number(name, value, -1e9, 1e9, whole=False)
                if value <= 0:
                    raise ValueError(f"`{name}` must be above 0, got {value}")


@dataclass(frozen=True, slots=True)
class BoundedRemote(Remote):
    """Hold the settings by which one file is fetched.

    Args:
        most: Bytes that it may have.
    """

    most: int = LARGEST


class TransferError(OSError):
    """Signal a file that cannot be fetched; the message is one line."""


def is_remote(root: str) -> bool:
    """Say whether a root is a URL or a command, not a local folder."""
    return root.startswith(PIPE) or "://" in root


def url_of(root: str, file: str) -> str:
    """Return the address of a file of a data set.

    A command names the file by `{}`: `pipe:aws s3 cp s3://bucket/birds/{} -`; it is quoted. A URL gets the name at the
    end of its path; what follows a question mark stays.
    """
    if root.startswith(PIPE):
        return root.replace(PLACE, file if PLAIN.fullmatch(file) else shlex.quote(file))
    parts = urlsplit(root)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{file}"))


class Limit(fsspec.callbacks.Callback):  # type: ignore[misc]
    """Stop a transfer that brings more bytes than the file may have.

    Args:
        most: That many.
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def relative_update(self, inc: int = 1) -> None:
        """Count the bytes that have arrived."""
        super().relative_update(inc)
        if self.value > self.most:
            raise ValueError(f"it is longer than the {self.most} bytes that it may have")


def fetch(
    url: str, target: Path, remote: Remote, check: Callable[[Path], None] = lambda path: None, most: int = LARGEST
) -> None:
    """Bring a file to `target`; an attempt that fails, or whose file `check` refuses, costs a warning and another one.

    Args:
        url: Its address; messages mask its credentials.
        target: Where it goes.
        remote: How it is fetched.
        check: Raises for a file that is not the right one.
        most: Bytes that it may have.

    Raises:
        TransferError: The answer was final, as 404 is, or all attempts failed.
    """
    shown, bounded = mask_credentials(url), BoundedRemote(**asdict(remote), most=most)
    for attempt in range(1, remote.attempts + 1):
        try:
            _copy(url, target, bounded)
            check(target)
        except Exception as error:  # libraries of every protocol raise errors of their own
            target.unlink(missing_ok=True)
            why = mask_credentials(_reason(error, target.parent))
            if _is_final(error) or attempt == remote.attempts:
                tries = "" if _is_final(error) else f" after {attempt} attempts"
                line = f"cannot fetch {shown}{tries}: {why}"
                raise TransferError(line) from (error if shown == url else None)
            pause = min(LONGEST_PAUSE, remote.pause * 2 ** (attempt - 1))
            LOGGER.warning(
                "%s: attempt %d of %d failed (%s), next in %g s", shown, attempt, remote.attempts, why, pause
            )
            time.sleep(pause)
        else:
            return


def _copy(url: str, target: Path, remote: BoundedRemote) -> None:
    limit = Limit(remote.most)
    if url.startswith(PIPE):
        _copy_from_command(url, target, limit)
        return
    filesystem, path = fsspec.core.url_to_fs(url, **_options(urlsplit(url).scheme, remote))
    filesystem.get_file(path, str(target), callback=limit)


def _copy_from_command(url: str, target: Path, limit: Limit) -> None:
    stream = wds.gopen(url)
    try:
        with target.open("wb") as file, stream:
            while piece := stream.read(PIECE):
                file.write(piece)
                limit.relative_update(len(piece))
    except OSError as error:
        if not stream.status or error.errno in FULL:  # a full disk ends the command too, with a broken pipe
            raise
        raise OSError(f"the command ended with exit status {stream.status}") from error


def _options(scheme: str, remote: Remote) -> dict[str, Any]:
    """Return fsspec's file system of http(s) a time-out that counts silence, and the proxies of the environment."""
    if scheme not in ("http", "https"):
        return {}
    from aiohttp import ClientTimeout  # comes with fsspec[http]; slow to import, and needed by few runs

    timeout = ClientTimeout(total=None, sock_connect=remote.timeout, sock_read=remote.timeout)
    return {"client_kwargs": {"timeout": timeout, "trust_env": True}}


def _is_final(error: Exception) -> bool:
    """Say whether another attempt is in vain."""
    return (
        isinstance(error, FileNotFoundError | PermissionError | ImportError | NotADirectoryError)
        or getattr(error, "status", None) in FINAL_STATUS
        or getattr(error, "errno", None) in FULL
        or type(error).__name__ in FINAL_ERRORS
        or str(error).startswith("Protocol not known")
    )


def _reason(error: Exception, folder: Path) -> str:
    """Say in a few words why an attempt failed."""
    if isinstance(error, ImportError) or str(error).startswith("Protocol not known"):
        return f"{error}; `pip install -e '.[remote]'` adds s3:// and gs://"
    if isinstance(error, FileNotFoundError):
        return "not found"
    if getattr(error, "errno", None) in FULL:
        return f"no space is left in {folder}; make room, or set another `cache` or `cache_gigabytes`"
    status = getattr(error, "status", None)
    text = f"{status} {getattr(error, 'message', '')}" if status is not None else str(error)
    return " ".join(text.split()) or type(error).__name__
