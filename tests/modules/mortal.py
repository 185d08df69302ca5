"""Callbacks that end a process of a training that tests start with torchrun."""

import os
import signal
import time
from pathlib import Path

import pytorch_lightning as pl


class Mortal(pl.Callback):
    """End one rank of the first attempt in the middle of an epoch, as a machine that fails does."""

    def __init__(self, rank: int, step: int) -> None:
        self.rank, self.step = rank, step

    def on_train_batch_start(self, trainer: pl.Trainer, *_: object) -> None:
        is_first = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"
        if is_first and (trainer.global_rank, trainer.global_step) == (self.rank, self.step):
            os.kill(os.getpid(), signal.SIGKILL)


class Waiting(pl.Callback):
    """Say which process has reached a step, and wait there until the test has done something to the machine."""

    def __init__(self, step: int, reached: str, go_on: str) -> None:
        self.step, self.reached, self.go_on = step, Path(reached), Path(go_on)

    def on_train_batch_start(self, trainer: pl.Trainer, *_: object) -> None:
        if trainer.global_step == self.step:
            self.reached.with_suffix(f".{trainer.global_rank}").write_text(str(os.getpid()))
            while not self.go_on.exists():
                time.sleep(0.1)


class Told(pl.Callback):
    """Send one rank a signal when a batch begins, as a scheduler or a user does."""

    def __init__(self, step: int, rank: int = 0, number: int = signal.SIGTERM) -> None:
        self.step, self.rank, self.number = step, rank, number

    def on_train_batch_start(self, trainer: pl.Trainer, *_: object) -> None:
        self._send(trainer, trainer.global_step)

    def on_test_batch_start(
        self, trainer: pl.Trainer, module: object, batch: object, batch_idx: int, *_: object
    ) -> None:
        self._send(trainer, batch_idx)

    def _send(self, trainer: pl.Trainer, step: int) -> None:
        if (trainer.global_rank, step) == (self.rank, self.step):
            os.kill(os.getpid(), self.number)


class Struck(pl.Callback):
    """Send this process a signal at the event that DRE_TEST_STRIKE names as `event:signal`, counted from its start."""

    def __init__(self) -> None:
        self.left, _, number = os.environ.get("DRE_TEST_STRIKE", "").partition(":")
        self.left, self.number = int(self.left or 0), int(number or 0)

    def _count(self, *_: object) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), self.number)

    on_train_batch_start = on_train_batch_end = on_train_epoch_end = _count
    on_validation_start = on_validation_batch_start = on_validation_batch_end = on_validation_end = _count
    on_test_batch_start = on_test_batch_end = on_save_checkpoint = _count
