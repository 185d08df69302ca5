"""Training checkpoints: write last.ckpt every few minutes and best.ckpt when validation improves, each atomically."""

import copy
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities import rank_zero_info
from pytorch_lightning.utilities.exceptions import SIGTERMException

from callbacks.logged import log_best
from dre.models.checkpoint_files import steps_of
from dre.models.weights import CHECKSUM_KEY, checksum
from dre.runs.locks import replacing
from dre.types import Batch

STEPS_BETWEEN_AGREEMENTS = 50
"""Several ranks compare their clocks only so often: it is a collective, and a save may wait for a few steps."""


class RunCheckpoints(Checkpoint):
    """Write `checkpoints/last.ckpt` every few minutes and after each epoch, `best.ckpt` when validation improves.

    A file is replaced only by a complete new one. An interrupted run leaves a last.ckpt that it can go on from;
    one that was stopped before the validation that was due, or during it, validates before it goes on.

    Args:
        minutes: Longest time between two writes of last.ckpt.
        monitor: Logged value whose maximum marks the best checkpoint.

    Raises:
        ValueError: `minutes` is not positive.
    """

    def __init__(self, minutes: float = 2.0, monitor: str = "val/faithfulness") -> None:
        if minutes <= 0:
            raise ValueError(f"`minutes` must be positive, got {minutes}")
        self.minutes, self.monitor = minutes, monitor
        self.best: float | None = None
        self._parents_best = ""
        self._best_path = ""
        self._is_due = self._was_due = False
        self._written_at = time.monotonic()
        self._written: tuple[int, float | None, bool] = (-1, None, False)

    def state_dict(self) -> dict[str, Any]:
        """Return the best value so far, where its checkpoint lies, and whether a validation is due."""
        return {"best": self.best, "best_path": self._best_path, "validation_is_due": self._is_due}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the best value of the parent run."""
        self.best, self._parents_best = state_dict.get("best"), str(state_dict.get("best_path") or "")
        self._was_due = bool(state_dict.get("validation_is_due", False))

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock, and take over the best checkpoint of the parent run."""
        self._written_at = time.monotonic()
        best = self.path(trainer, "best.ckpt")
        if trainer.is_global_zero and self._parents_best and Path(self._parents_best).is_file() and not best.exists():
            best.parent.mkdir(parents=True, exist_ok=True)
            with replacing(best) as part:
                shutil.copy2(self._parents_best, part)
            self._best_path = str(best)
            if self.best is not None:
                log_best(trainer, {f"best/{self.monitor}": self.best, "best/step": steps_of(best)})

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Write last.ckpt when a clock says so; with several ranks, any rank's clock is enough."""
        loop = trainer.fit_loop
        self._is_due = loop.epoch_loop._should_check_val_fx(loop._data_fetcher)  # type: ignore[arg-type]
        due = time.monotonic() - self._written_at >= 60 * self.minutes
        if trainer.world_size > 1:
            if trainer.global_step % STEPS_BETWEEN_AGREEMENTS:
                return
            due = trainer.strategy.reduce_boolean_decision(due, all=False)
        if due:
            self._save_last(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write last.ckpt; before that validate, where the parent run was stopped when it should have."""
        if self._was_due:
            rank_zero_info("the run was stopped before its validation had ended: validating before it goes on")
            _validate(trainer)
        self._is_due = self._was_due = False
        self._save_last(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write best.ckpt when validation is the best so far."""
        if not trainer.sanity_checking:
            self._is_due = False
        value = trainer.callback_metrics.get(self.monitor)
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking or value is None:
            return
        if torch.isfinite(value) and (self.best is None or float(value) > self.best):
            self.best = float(value)
            self._best_path = str(self.path(trainer, "best.ckpt"))
            self._save(trainer, "best.ckpt")
            log_best(trainer, {f"best/{self.monitor}": self.best, "best/step": trainer.global_step})

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leave a usable checkpoint behind when the run is interrupted; after an error the last one stays as it is."""
        told_to_stop = isinstance(exception, SIGTERMException)  # all ranks are told together
        if not isinstance(exception, KeyboardInterrupt | SIGTERMException) or trainer.state.fn != TrainerFn.FITTING:
            return
        if told_to_stop or trainer.world_size == 1:  # after Ctrl-C the other ranks may be gone
            self._save_last(trainer)
        if self.path(trainer).is_file():
            rank_zero_info(f"interrupted at step {trainer.global_step}; go on with: {self.resume_command(trainer)}")

    def path(self, trainer: pl.Trainer, name: str = "last.ckpt") -> Path:
        """Return the path of a checkpoint of this run."""
        return Path(trainer.default_root_dir) / "checkpoints" / name

    def resume_command(self, trainer: pl.Trainer) -> str:
        """Say what to type to go on from the last checkpoint with this run's own configuration."""
        config = Path(trainer.default_root_dir) / "config.yaml"
        return f"python train.py --config {config} --ckpt_path {self.path(trainer)}"

    def _save_last(self, trainer: pl.Trainer) -> None:
        self._written_at = time.monotonic()
        state = trainer.global_step, self.best, self._is_due
        if state != self._written:
            self._written = state
            self._save(trainer, "last.ckpt")

    def _save(self, trainer: pl.Trainer, name: str) -> None:
        """Write beside the old file, then take its place: the old one is whole until the new one is."""
        path = self.path(trainer, name)
        self._refuse_broken_weights(trainer, path)
        part = path.with_suffix(".part")
        try:
            content = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
            content[CHECKSUM_KEY] = checksum(content)
            trainer.strategy.save_checkpoint(content, part)
            trainer.strategy.barrier("a checkpoint is written")
            if trainer.is_global_zero:
                os.replace(part, path)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise OSError(
                f"cannot write {path}: {error.strerror or error}; what was saved before is untouched: free some space, "
                f"then go on with {self.resume_command(trainer)}"
            ) from None

    def _refuse_broken_weights(self, trainer: pl.Trainer, path: Path) -> None:
        parameters = (p for p in trainer.lightning_module.parameters() if p.requires_grad)
        if not all(bool(parameter.isfinite().all()) for parameter in parameters):
            raise FloatingPointError(
                f"weights are not finite at step {trainer.global_step}; {path.name} keeps what was saved before: go on "
                f"with a lower --model.lr: {self.resume_command(trainer)}"
            )


def _validate(trainer: pl.Trainer) -> None:
    """Run a whole validation; the trainer's counters of the validation that was stopped stay."""
    loop = trainer.fit_loop.epoch_loop.val_loop
    counted, is_restarting = copy.deepcopy(loop.batch_progress), loop.restarting
    loop.restarting = False
    trainer.validating = True
    loop.run()
    trainer.training = True
    loop.batch_progress, loop.restarting = counted, is_restarting
