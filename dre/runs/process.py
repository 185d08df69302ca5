"""Process of a run: memory allocation, silenced warnings, errors in one line, masked credentials, and the W&B key."""

import ctypes
import errno
import logging
import os
import platform
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException

from dre.runs.launch import is_first_to_say, is_lost_peer

WORKER = re.compile(r"DataLoader worker \(pid")
"""Text in the errors for workers that have ended; they arise wherever the process is at that moment."""

MORE_FILES = "raise the limit with `ulimit -n 4096`, or take fewer workers (--data.workers)"

MASK = "***"
"""What is written in place of a credential."""

USER = re.compile(r"(?<=://)(?:[^\s/?#]*@|[^\s/@:]+:(?!\d+(?:[/?#]|$))[^\s@]*@)")
QUERY = re.compile(r"(?<=\?)(?!\*\*\*)\S+")
ADDRESS = re.compile(r"^[\w.+-]+://\S+$|[\w.+-]+://[^\s'\"]+")
COMMAND = re.compile(r"pipe:.*")
OPTION = re.compile(
    r"((?:^|\s)(?:-u|-U|-H|--(?:proxy-)?(?:user|header|password|passwd|token|oauth2-bearer|http-password|http-user))"
    r"(?:=|\s+|(?<=-[uUH])))('[^']*'|\"[^\"]*\"|[^\s'\"]+)"
)
SETTING = re.compile(
    r"([\w-]*(?:token|secret|passw|pwd|api_?-?key|access_?-?key|authorization|bearer|signature|credential)[\w-]*"
    r"\s*[=:]\s*)(?:bearer\s+|basic\s+)?('[^']*'|\"[^\"]*\"|[^\s'\"]+)",
    re.IGNORECASE,
)

PIPE, ALLOW = "pipe:", "--allow_pipe"
"""How a root that is a command begins, and the option that allows it."""

FATAL = 3
"""Level of torch's log below which its C++ side is silent; what it reports as an error, it also raises."""


def quiet_known_noise() -> None:
    """Silence warnings of libraries about things that are intended."""
    quiet_stacks()
    for message in (
        r"Found \d+ module\(s\) in eval mode",  # the classifier is frozen
        r".*does not have many workers",  # one decodes faster than a CPU trains
        r".*isinstance\(treespec, LeafSpec\)",
        r"Experiment logs directory .* exists",  # it was made for this run
    ):
        warnings.filterwarnings("ignore", message)
    messages = logging.getLogger("pytorch_lightning.utilities.rank_zero")
    messages.addFilter(lambda record: "litlogger" not in record.getMessage())


def quiet_stacks() -> None:
    """Silence the C++ stacks that torch prints beside the errors that it raises, unless DRE_TRACEBACK is set."""
    if os.environ.get("DRE_TRACEBACK") or "TORCH_CPP_LOG_LEVEL" in os.environ:
        return
    try:  # the variable is read when torch is imported, which was long ago
        ctypes.c_int.in_dll(ctypes.CDLL("libc10.so"), "FLAGS_caffe2_log_level").value = FATAL
    except (OSError, ValueError):  # another system, or another torch
        return


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn errors into one line and exit status 1, Ctrl-C into 130; DRE_TRACEBACK=1 shows where they arose.

    Of several processes of a machine that fail for the same reason, the first prints it; that other processes are gone
    is printed only where none of them printed a reason.
    """
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(130)
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):  # Lightning says 1
            sys.exit(130)
        raise
    except (ValueError, TypeError, OSError, ImportError, FloatingPointError, MisconfigurationException) as error:
        if os.environ.get("DRE_TRACEBACK"):
            raise
        more = f"; {MORE_FILES}" if getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE) else ""
        said = "; ".join(line.strip().rstrip(";") for line in str(error).splitlines() if line.strip())
        line = mask_credentials(f"{said or type(error).__name__}{more}")
        sys.exit(f"error: {line} (DRE_TRACEBACK=1 shows where)" if is_first_to_say(line) else 1)
    except RuntimeError as error:
        ended = ended_worker(error)
        if ended and not os.environ.get("DRE_TRACEBACK"):
            sys.exit(f"error: {ended} (DRE_TRACEBACK=1 shows where)" if is_first_to_say(ended) else 1)
        if os.environ.get("DRE_TRACEBACK") or not is_lost_peer(error):
            raise
        reason = str(error).strip().splitlines()[0]
        lost = f"error: another process of this job is gone or out of reach; go on with {_way_on()}: {reason}"
        sys.exit(lost if is_first_to_say() else 1)


def mask_credentials(value: Any) -> Any:
    """Replace credentials in all texts of a nested value: user and password of a URL, its query, a command's secrets.

    Args:
        value: A text, or mappings and lists of texts; other values are returned as they are.

    Example:
        >>> mask_credentials("https://user:secret@host/birds?signature=abc")
        'https://***@host/birds?***'
        >>> mask_credentials({"root": ["pipe:curl -u user:secret https://host/{}"], "workers": 1})
        {'root': ['pipe:curl -u *** https://host/{}'], 'workers': 1}
    """
    if isinstance(value, str):
        return COMMAND.sub(_mask_command, ADDRESS.sub(_mask_address, value))
    if isinstance(value, dict):
        return {key: mask_credentials(one) for key, one in value.items()}
    if type(value) in (list, tuple):
        return type(value)(mask_credentials(one) for one in value)
    return value


def _mask_address(match: re.Match[str]) -> str:
    return QUERY.sub(MASK, USER.sub(f"{MASK}@", match[0]), count=1)


def _mask_command(match: re.Match[str]) -> str:
    return SETTING.sub(rf"\1{MASK}", OPTION.sub(rf"\1{MASK}", match[0]))


def refuse_pipes(value: Any, allowed: bool) -> None:
    """Refuse roots that are commands, unless these are allowed on the command line.

    Args:
        value: A root, or a nested value whose texts may be roots.
        allowed: Whether `--allow_pipe` was given.

    Raises:
        ValueError: A root is a command, and `--allow_pipe` was not given.
    """
    if allowed:
        return
    if isinstance(value, str) and value.startswith(PIPE):
        raise ValueError(
            f"{mask_credentials(value)!r} runs a command on this machine; if you trust it, add {ALLOW} to the command "
            "line (a run file cannot)"
        )
    for one in value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ():
        refuse_pipes(one, allowed)


@contextmanager
def masked_arguments() -> Iterator[None]:
    """Mask the credentials in this process's arguments for a while, for libraries that record them."""
    given = sys.argv
    sys.argv = mask_credentials(given)
    try:
        yield
    finally:
        sys.argv = given


def ended_worker(error: BaseException) -> str | None:
    """Return in one line that processes that load data have failed, and what to do; `None` for any other error."""
    if isinstance(error, RuntimeError) and "Too many open files" in str(error):
        return f"Too many open files for the workers that load images; {MORE_FILES}"
    if not isinstance(error, RuntimeError) or not WORKER.search(str(error)):
        return None
    why = re.search(r"killed by signal: ([\w ]+)", f"{error} {error.__cause__ or error.__context__ or ''}")
    how = f"was killed ({why[1].strip()})" if why else "ended unexpectedly"
    return (
        f"a worker process that loads images {how}: most often the memory, or /dev/shm, is full; take fewer workers "
        "(--data.workers 0 loads in the main process), or smaller batches, and go on with --resume or --ckpt_path last"
    )


def _way_on() -> str:
    """Return the option by which a run of this command goes on."""
    is_evaluation = Path(sys.argv[0]).stem == "evaluate"
    return "--resume and the directory of the run" if is_evaluation else "--ckpt_path last"


def machine() -> str:
    """Return a description of this machine and its load, for records of measurements."""
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    return (
        f"{os.cpu_count()} cores ({platform.machine()}), {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"load {load} when it ended"
    )


def own_version() -> str | None:
    """Return the version of the package; None where it is not installed."""
    try:
        return version("dre")
    except PackageNotFoundError:
        return None


def commit() -> str | None:
    """Return the commit of the sources; None outside a repository."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
