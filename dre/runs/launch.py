"""Launchers (torchrun, SLURM): the job of a process, its restarts, and the number of processes."""

import hashlib
import os
import socket
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytorch_lightning as pl
from jsonargparse import Namespace
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities import rank_zero_warn

NO_ID = "none"
"""torchrun's name of a job without --rdzv_id and --standalone."""

ENDED = "dre-ended"
"""Prefix of temporary files that record that a process has printed why the job ends."""

KEPT_SECONDS = 60.0
"""Seconds after which such a file is deleted."""


def job_name() -> str | None:
    """Return the name of the job that a process and its restarts share; `None` where nothing would restart it."""
    run = os.environ.get("TORCHELASTIC_RUN_ID")
    if run == NO_ID:  # its agent on this machine outlives a restart
        return f"torchrun on {socket.gethostname()}, process {os.getppid()}"
    if run is not None:
        return f"torchrun {run}"
    return f"slurm {os.environ['SLURM_JOB_ID']}" if "SLURM_JOB_ID" in os.environ else None


def is_restarted() -> bool:
    """Return whether torchrun or SLURM has restarted this job."""
    return any(int(os.environ.get(f"{launcher}_RESTART_COUNT", "0")) > 0 for launcher in ("TORCHELASTIC", "SLURM"))


def follow_torchrun(trainer: Namespace) -> None:
    """Set the number of processes to torchrun's, which may differ after a restart."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return
    if int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) and os.environ["TORCHELASTIC_USE_AGENT_STORE"] == "True":
        rank_zero_warn("a restart finds addresses of ended processes: set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1")
    trainer.devices = int(os.environ["LOCAL_WORLD_SIZE"])
    trainer.num_nodes = int(os.environ["GROUP_WORLD_SIZE"])
    if trainer.strategy == "auto":
        trainer.strategy = "ddp"


def limit_waiting(trainer: pl.Trainer, seconds: float) -> None:
    """Set the seconds after which a process that waits for the others gives up."""
    if isinstance(trainer.strategy, DDPStrategy):
        # an argument of its constructor, which a strategy given by name, or by the trainer, does not get
        trainer.strategy._timeout = timedelta(seconds=seconds)


def launcher() -> int:
    """Return the id of the process that started this job's processes on this machine, which may be this one."""
    started = any(name in os.environ for name in ("TORCHELASTIC_RUN_ID", "SLURM_PROCID"))
    is_first = int(os.environ.get("LOCAL_RANK", "0")) == 0  # it starts the others itself
    return os.getpid() if is_first and not started else os.getppid()


def is_first_to_say(reason: str = "") -> bool:
    """Return whether no other process of this job and machine has printed the same reason for its end.

    Args:
        reason: Why it ends; without it, any reason that another has printed counts.
    """
    if max(int(os.environ.get(name, "1")) for name in ("WORLD_SIZE", "SLURM_NTASKS")) < 2:
        return True
    attempt = "/".join(os.environ.get(f"{name}_RESTART_COUNT", "0") for name in ("TORCHELASTIC", "SLURM"))
    job = hashlib.sha256(f"{launcher()} {job_name()} {attempt}".encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir())
    with suppress(OSError):  # another process deletes them, too
        _delete_old(folder.glob(f"{ENDED}-*"))
    if not reason and any(folder.glob(f"{ENDED}-{job}-*")):
        return False
    reason_hash = hashlib.sha256(reason.encode()).hexdigest()[:16]
    try:
        (folder / f"{ENDED}-{job}-{reason_hash}").touch(exist_ok=False)
    except OSError as error:
        return not isinstance(error, FileExistsError)
    return True


def _delete_old(files: Iterable[Path]) -> None:
    """Delete the files of earlier jobs, since the id of a process may be used again."""
    for file in files:
        if time.time() - file.stat().st_mtime > KEPT_SECONDS:
            file.unlink()
