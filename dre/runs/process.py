"""Process of a run: memory allocation, silenced warnings, errors in one line, and the W&B key."""

import ctypes
import logging
import netrc
import os
import platform
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal
from urllib.parse import urlparse

import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
from torch.distributed import DistError

from dre.runs.launch import is_first_to_say

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST_KEPT = 1 << 30
LOST_PEER = re.compile(r"\bgloo/transport|Gloo \w+ failed|NCCL", re.IGNORECASE)
"""Text in the errors of collectives, which have no type of their own."""

NOT_DISABLED = ("", "0", "false", "no", "off")
"""Values of WANDB_DISABLED that disable nothing."""

MODES: dict[str, Literal["online", "offline"] | None] = {
    "": None,
    "online": "online",
    "run": "online",
    "shared": "online",
    "offline": "offline",
    "dryrun": "offline",
}
"""Values of WANDB_MODE beside `disabled`; `run` and `dryrun` are older names."""

CONNECT_SECONDS, FINISH_SECONDS = 30.0, 600.0
"""How long a run waits for the server of W&B when it begins, and when it ends."""

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
        said = "; ".join(line.strip().rstrip(";") for line in str(error).splitlines() if line.strip())
        line = f"error: {said or type(error).__name__} (DRE_TRACEBACK=1 shows where)"
        sys.exit(line if is_first_to_say(str(error)) else 1)
    except RuntimeError as error:
        if os.environ.get("DRE_TRACEBACK") or not is_lost_peer(error):
            raise
        reason = str(error).strip().splitlines()[0]
        lost = f"error: another process of this job is gone or out of reach; go on with --ckpt_path last: {reason}"
        sys.exit(lost if is_first_to_say() else 1)


def is_lost_peer(error: RuntimeError) -> bool:
    """Return whether an error says that another process of the job is gone or out of reach."""
    return isinstance(error, DistError) or LOST_PEER.search(str(error)) is not None


def has_wandb_key() -> bool:
    """Return whether there is a W&B key, in the environment or where `wandb login` writes it."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc().authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def wandb_mode() -> Literal["online", "offline", "off"]:
    """Return how W&B is used where nothing was said: as WANDB_DISABLED and WANDB_MODE decide, or else by the key.

    Raises:
        ValueError: WANDB_MODE has a value that W&B does not know.
    """
    mode = os.environ.get("WANDB_MODE", "").strip().lower()
    if os.environ.get("WANDB_DISABLED", "").strip().lower() not in NOT_DISABLED or mode == "disabled":
        return "off"
    if mode not in MODES:
        raise ValueError(f"WANDB_MODE must be online, offline or disabled, got {mode!r}; unset it, or use --wandb off")
    if (named := MODES[mode]) is not None:
        return named
    if has_wandb_key():
        return "online"
    rank_zero_info("no W&B key: logging offline; `wandb login` or --wandb off changes that")
    return "offline"


def wandb_logger(mode: Literal["online", "offline"], **options: Any) -> WandbLogger:
    """Return a logger to W&B, offline where the server cannot be reached or refuses the run.

    Args:
        mode: What is tried first.
        options: Of `wandb.init` and the logger.
    """
    if mode == "online":
        import wandb

        seconds = {"init_timeout": CONNECT_SECONDS, "finish_timeout": FINISH_SECONDS}
        known = {name: value for name, value in seconds.items() if name in wandb.Settings.model_fields}
        online = WandbLogger(mode="online", settings=wandb.Settings(**known), **options)
        try:
            online.experiment  # noqa: B018  # starts the run, on the first rank
            return online
        except Exception as error:  # of any kind: a server is not worth a training
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            rank_zero_warn(f"W&B cannot be reached ({reason}): logging offline; `wandb sync DIRECTORY` sends it later")
    return WandbLogger(mode="offline", **options)


def machine() -> str:
    """Return a description of this machine and its load, for records of measurements."""
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    return (
        f"{os.cpu_count()} cores ({platform.machine()}), {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"load {load} when it ended"
    )
