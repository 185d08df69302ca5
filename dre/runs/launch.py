"""What a launcher tells its processes: which job they are, whether it started them again, and how many there are."""

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
"""What torchrun calls a job without --rdzv_id and --standalone."""

ENDED = "dre-ended"
"""Begins the names of the files, in the folder for temporary ones, that say that a process gave a reason."""

MEMORABLE = 60.0
"""Seconds for which processes of a machine remember that one of them said why the job ends."""


def job_name() -> str | None:
    """Name the job that a process and its restarts share; `None` where nothing would start it again."""
    run = os.environ.get("TORCHELASTIC_RUN_ID")
    if run == NO_ID:  # its agent on this machine outlives a restart
        return f"torchrun on {socket.gethostname()}, process {os.getppid()}"
    if run is not None:
        return f"torchrun {run}"
    return f"slurm {os.environ['SLURM_JOB_ID']}" if "SLURM_JOB_ID" in os.environ else None


def is_restarted() -> bool:
    """Say whether torchrun or SLURM has started this job before."""
    return any(int(os.environ.get(f"{launcher}_RESTART_COUNT", "0")) > 0 for launcher in ("TORCHELASTIC", "SLURM"))


def follow_torchrun(trainer: Namespace) -> None:
    """Take the number of processes from torchrun, which may start fewer or more of them again."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return
    if int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) and os.environ["TORCHELASTIC_USE_AGENT_STORE"] == "True":
        rank_zero_warn("a restart finds addresses of ended processes: set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1")
    trainer.devices = int(os.environ["LOCAL_WORLD_SIZE"])
    trainer.num_nodes = int(os.environ["GROUP_WORLD_SIZE"])
    if trainer.strategy == "auto":
        trainer.strategy = "ddp"


def limit_waiting(trainer: pl.Trainer, seconds: float) -> None:
    """Let a process give up when the others have not been heard of for so long."""
    if isinstance(trainer.strategy, DDPStrategy):
        # an argument of its constructor, which one that was chosen by name, or by the trainer, is not given
        trainer.strategy._timeout = timedelta(seconds=seconds)


def launcher() -> int:
    """Give the process that started the processes of this job on this machine, which may be this one."""
    started = any(name in os.environ for name in ("TORCHELASTIC_RUN_ID", "SLURM_PROCID"))
    is_first = int(os.environ.get("LOCAL_RANK", "0")) == 0  # it starts the others itself
    return os.getpid() if is_first and not started else os.getppid()


def is_first_to_say(reason: str = "") -> bool:
    """Say whether no other process of this job and machine has given the same reason for its end.

    Args:
        reason: Why it ends; without it, any reason that another has given counts.
    """
    if max(int(os.environ.get(name, "1")) for name in ("WORLD_SIZE", "SLURM_NTASKS")) < 2:
        return True
    attempt = "/".join(os.environ.get(f"{name}_RESTART_COUNT", "0") for name in ("TORCHELASTIC", "SLURM"))
    job = hashlib.sha256(f"{launcher()} {job_name()} {attempt}".encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir())
    with suppress(OSError):  # another process forgets, too
        _forget(folder.glob(f"{ENDED}-*"))
    if not reason and any(folder.glob(f"{ENDED}-{job}-*")):
        return False
    digest = hashlib.sha256(reason.encode()).hexdigest()[:16]
    try:
        (folder / f"{ENDED}-{job}-{digest}").touch(exist_ok=False)
    except OSError as error:
        return not isinstance(error, FileExistsError)
    return True


def _forget(files: Iterable[Path]) -> None:
    """Delete what earlier jobs left, as the number of a process may come up again."""
    for file in files:
        if time.time() - file.stat().st_mtime > MEMORABLE:
            file.unlink()
