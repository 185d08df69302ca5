"""What a launcher tells its processes: which job they are, whether it started them again, and how many there are."""

import os
import socket
from datetime import timedelta

import pytorch_lightning as pl
from jsonargparse import Namespace
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities import rank_zero_warn

NO_ID = "none"
"""What torchrun calls a job without --rdzv_id and --standalone."""


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
