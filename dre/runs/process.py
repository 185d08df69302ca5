"""Process of a run: memory allocation, silenced warnings, errors in one line, and the W&B key."""

import ctypes
import logging
import netrc
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
from urllib.parse import urlparse

import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from torch.distributed import DistError

from dre.runs.launch import is_first_to_say

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST_KEPT = 1 << 30
LOST_PEER = re.compile(r"\bgloo/transport|Gloo \w+ failed|NCCL", re.IGNORECASE)
"""Text in the errors of collectives, which have no type of their own."""

FATAL = 3
"""Level of torch's log below which its C++ side is silent; what it reports as an error, it also raises."""


def keep_freed_memory() -> None:
    """Ask glibc to reuse freed blocks of up to 1 GiB: on a CPU, fresh pages cost a tenth of a training step."""
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another C library
        return
    mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)
    mallopt(M_TRIM_THRESHOLD, 2 * LARGEST_KEPT - 1)


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
    """Turn errors into one line and exit status 1; DRE_TRACEBACK=1 shows where they arose.

    Of several processes of a machine that fail for the same reason, the first prints it; that other processes are gone
    is printed only where none of them printed a reason.
    """
    try:
        yield
    except (ValueError, TypeError, OSError, ImportError, FloatingPointError, MisconfigurationException) as error:
        if os.environ.get("DRE_TRACEBACK"):
            raise
        sys.exit(f"error: {error} (DRE_TRACEBACK=1 shows where)" if is_first_to_say(str(error)) else 1)
    except RuntimeError as error:
        if os.environ.get("DRE_TRACEBACK") or not (isinstance(error, DistError) or LOST_PEER.search(str(error))):
            raise
        reason = str(error).strip().splitlines()[0]
        lost = f"error: another process of this job is gone or out of reach; go on with {_way_on()}: {reason}"
        sys.exit(lost if is_first_to_say() else 1)


def _way_on() -> str:
    """Return the option by which a run of this command goes on."""
    is_evaluation = Path(sys.argv[0]).stem == "evaluate"
    return "--resume and the directory of the run" if is_evaluation else "--ckpt_path last"


def has_wandb_key() -> bool:
    """Return whether there is a W&B key, in the environment or where `wandb login` writes it."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc().authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


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
