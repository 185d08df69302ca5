"""Keep a run resumable: last.ckpt by the clock, best.ckpt by validation, both written at once or not at all."""

import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.utilities import rank_zero_info
from pytorch_lightning.utilities.exceptions import SIGTERMException

from dre.types import Batch


class RunCheckpoints(Checkpoint):
    """Write `checkpoints/last.ckpt` every few minutes and after each epoch, `best.ckpt` when validation improves.

    A file is replaced only by a complete new one. An interrupted run leaves a last.ckpt that it can go on from.

    Args:
        minutes: Longest time between two writes of last.ckpt.
        monitor: Logged value whose maximum marks the best checkpoint.
    """

    def __init__(self, minutes: float = 2.0, monitor: str = "val/faithfulness") -> None:
        if minutes <= 0:
            raise ValueError(f"`minutes` must be positive, got {minutes}")
        self.minutes, self.monitor = minutes, monitor
        self.best: float | None = None
        self._written_at = time.monotonic()
        self._written_step = -1

    def state_dict(self) -> dict[str, Any]:
        """Give the best value so far."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the best value of the parent run."""
        self.best = state_dict["best"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._written_at = time.monotonic()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Write last.ckpt when the clock says so; rank zero's clock decides for all."""
        due = time.monotonic() - self._written_at >= 60 * self.minutes
        if trainer.world_size > 1:  # every rank takes part in a save, so they must agree
            due = trainer.strategy.reduce_boolean_decision(due, all=False)
        if due:
            self._save_last(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write last.ckpt, and best.ckpt when this epoch's validation is the best so far."""
        self._save_last(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write best.ckpt when validation is the best so far."""
        value = trainer.callback_metrics.get(self.monitor)
        if trainer.sanity_checking or value is None or not torch.isfinite(value):
            return
        if self.best is None or float(value) > self.best:
            self.best = float(value)
            self._save(trainer, "best.ckpt")

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leave a usable checkpoint behind when the run is interrupted; after an error the last one stays as it is."""
        if not isinstance(exception, KeyboardInterrupt | SIGTERMException) or not trainer.training:
            return
        if trainer.world_size == 1:  # with several ranks the others may be gone, and the clock's checkpoint must do
            self._save_last(trainer)
        rank_zero_info(
            f"interrupted at step {trainer.global_step}; go on with: python train.py --ckpt_path {self.path(trainer)}"
        )

    def path(self, trainer: pl.Trainer, name: str = "last.ckpt") -> Path:
        """Where a checkpoint of this run lies."""
        return Path(trainer.default_root_dir) / "checkpoints" / name

    def _save_last(self, trainer: pl.Trainer) -> None:
        self._written_at = time.monotonic()
        if trainer.global_step != self._written_step:
            self._written_step = trainer.global_step
            self._save(trainer, "last.ckpt")

    def _save(self, trainer: pl.Trainer, name: str) -> None:
        path = self.path(trainer, name)
        try:
            trainer.save_checkpoint(path, weights_only=False)
        except OSError as error:
            raise OSError(
                f"cannot write {path}: {error.strerror or error}; what was saved before is untouched: free some space, "
                f"then go on from {self.path(trainer)}"
            ) from None
