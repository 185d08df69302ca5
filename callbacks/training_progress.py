"""Progress of a training where no bar can be drawn: a line from time to time."""

import time
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from rich.console import Console

from callbacks.progress import clock
from dre.checks import check_number
from dre.types import Batch


class TrainingProgress(pl.Callback):
    """Print where a training stands: the first line of a run, then one from time to time, where the output is piped.

    A line has the epoch and its batches, the time that the run took and will take, and the loss. On a terminal the
    trainer's own bar says so; the callback is silent there and where that bar is switched off. The first rank speaks.

    Args:
        every: Seconds between two lines.

    Raises:
        ValueError: `every` is negative.
        TypeError: It is no number.
    """

    def __init__(self, every: float = 30.0) -> None:
        check_number("every", every, 0, 2**53, whole=False)
        self.every = every
        self.console = Console()
        self._start = self._printed = 0.0
        self._done = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock; what an earlier process did is not part of the rate."""
        self._start, self._printed, self._done = time.perf_counter(), -self.every, 0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Print a line when it is time."""
        self._done += 1
        now = time.perf_counter()
        is_shown = trainer.progress_bar_callback is not None and trainer.is_global_zero
        if is_shown and not self.console.is_terminal and now - self._printed >= self.every:
            self._printed = now
            self.console.print(self.line(trainer, batch_idx, outputs), highlight=False, markup=False, soft_wrap=True)

    def line(self, trainer: pl.Trainer, batch_idx: int, outputs: Any) -> str:
        """Say where it stands in one line."""
        seconds = time.perf_counter() - self._start
        epochs, known = trainer.max_epochs, trainer.num_training_batches
        batches = known if isinstance(known, int) else None
        text = f"epoch {trainer.current_epoch + 1}{_of(epochs)}, batch {batch_idx + 1}{_of(batches)}, {clock(seconds)}"
        left = _batches_left(trainer, batches, batch_idx)
        if left is not None:
            text += f" ({clock(seconds / self._done * left)} left)"
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if not isinstance(loss, torch.Tensor):
            return text
        return f"{text}, loss {float(loss) * trainer.accumulate_grad_batches:.3g}"  # which Lightning had divided


def _batches_left(trainer: pl.Trainer, batches: int | None, batch_idx: int) -> int | None:
    """Return how many batches the run still has, by its epochs and its steps; None where neither bounds it."""
    counts = []
    if batches is not None and trainer.max_epochs is not None and trainer.max_epochs > 0:
        counts.append((trainer.max_epochs - trainer.current_epoch) * batches - batch_idx - 1)
    if trainer.max_steps > 0:
        counts.append((trainer.max_steps - trainer.global_step) * trainer.accumulate_grad_batches)
    return max(0, min(counts)) if counts else None


def _of(count: int | None) -> str:
    return f" of {count}" if count is not None and count > 0 else ""
