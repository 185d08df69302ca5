"""Launchers (torchrun, SLURM): the job of a process, its restarts, the number of processes, and how they stop."""

import hashlib
import os
import re
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from jsonargparse import Namespace
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch.distributed import DistError

NO_ID = "none"
"""torchrun's name of a job without --rdzv_id and --standalone."""

ENDED = "dre-ended"
"""Prefix of temporary files that record that a process has printed why the job ends."""

KEPT_SECONDS = 60.0
"""Seconds after which such a file is deleted."""


STOP_SECONDS = 30.0
"""Seconds after which an evaluation that was told to stop leaves the batch that it is in."""

STOP_KEY = "dre-stop"


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


LOST_PEER = re.compile(r"\bgloo/transport|Gloo \w+ failed|NCCL", re.IGNORECASE)
"""Text in the errors of collectives, which have no type of their own."""


def is_lost_peer(error: RuntimeError) -> bool:
    """Return whether an error says that another process of the job is gone or out of reach."""
    return isinstance(error, DistError) or LOST_PEER.search(str(error)) is not None


class StopTogether(pl.Callback):
    """Stop a run between two batches, on all ranks, when SIGTERM or Ctrl-C reaches any of them; list it last.

    Ranks of a training agree after each batch. Those of an evaluation have different numbers of batches: a rank that is
    told to stop leaves a note in the store of the job, and all agree once, when they find it or come to their last
    batch. A second Ctrl-C stops at once.
    """

    def __init__(self) -> None:
        self.signal = 0
        self.process = os.getpid()
        self.trainer: pl.Trainer | None = None

    def on_sanity_check_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Listen to signals, in place of Lightning, whose answer is a collective in the middle of others."""
        self._listen(trainer)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Listen to signals."""
        self._listen(trainer)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Listen to signals."""
        self._listen(trainer)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Agree with the other ranks; Lightning stops where its flag is set."""
        if trainer.world_size > 1 and self._agree(trainer):
            trainer._signal_connector.received_sigterm = True

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Stop where this rank or another was told to."""
        if trainer.world_size == 1:
            told = self.signal > 0
        else:
            is_last = trainer.test_loop.batch_progress.is_last_batch
            told = (is_last or self._is_noted()) and self._agree(trainer)
        if told:
            _stop_waiting()
            raise SIGTERMException

    def code(self) -> int:
        """Return the exit status of a run that was stopped: 143 after SIGTERM, 130 after Ctrl-C."""
        return 128 + (self.signal or signal.SIGTERM)

    @contextmanager
    def exiting(self, advice: Callable[[], str] | None = None) -> Iterator[None]:
        """Exit with 143 after SIGTERM and 130 after Ctrl-C, when all ranks have written what they had to write.

        Args:
            advice: What to say about how to go on.

        Raises:
            SystemExit: The run was told to stop.
        """
        try:
            yield
        except SIGTERMException:
            code = self.leave()
            if advice is not None:
                rank_zero_info(advice())
            raise SystemExit(code) from None
        except RuntimeError as error:
            if self.signal and is_lost_peer(error):  # of several that were told to stop, another was faster
                raise SystemExit(self.code()) from None
            raise

    def leave(self) -> int:
        """Wait until all ranks have written what they had to write, and return the exit status.

        Of processes that the first rank started itself it is 0: where one fails, Lightning kills the first rank.
        """
        if dist.is_available() and dist.is_initialized():
            with suppress(RuntimeError):  # another is gone already
                dist.barrier()
        started = any(name in os.environ for name in ("TORCHELASTIC_RUN_ID", "SLURM_PROCID"))
        return self.code() if started or int(os.environ.get("LOCAL_RANK", "0")) == 0 else 0

    def _listen(self, trainer: pl.Trainer) -> None:
        self.trainer = trainer
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, self._told)

    def _told(self, number: int, frame: FrameType | None) -> None:
        """Remember the signal; what waits for this process longer than half a minute kills it."""
        if os.getpid() != self.process:  # a process that was forked from this one
            os._exit(128 + number)
        if self.signal and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = self.signal or number
        trainer = self.trainer
        if trainer is None:
            return
        if trainer.world_size == 1:
            trainer._signal_connector.received_sigterm = True
        if trainer.testing and hasattr(signal, "setitimer"):
            signal.signal(signal.SIGALRM, self._waited)
            signal.setitimer(signal.ITIMER_REAL, STOP_SECONDS, 1.0)

    def _waited(self, number: int, frame: FrameType | None) -> None:
        """Leave a batch in the middle of its explanation, where nothing is half written."""
        while frame is not None and frame.f_code.co_name != "test_step":
            frame = frame.f_back
        if frame is None:
            return
        _stop_waiting()
        if self.trainer is not None and self.trainer.world_size > 1:
            self._agree(self.trainer)
        raise SIGTERMException

    def _is_noted(self) -> bool:
        """Return whether a rank was told to stop, and leave a note for the others where it is this one."""
        store = dist.distributed_c10d._get_default_store()
        if self.signal:
            store.set(STOP_KEY, str(self.signal))
        return self.signal > 0 or bool(store.check([STOP_KEY]))

    def _agree(self, trainer: pl.Trainer) -> bool:
        """Return whether any rank was told to stop, and take over the signal that it was told by; a collective."""
        signals = torch.tensor([self.signal], device=trainer.strategy.root_device)
        dist.all_reduce(signals, op=dist.ReduceOp.MAX)
        self.signal = int(signals)
        return self.signal > 0


def _stop_waiting() -> None:
    """Cancel the timer of a batch that may last too long: at the end of the run it would kill the process."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, 0)
