"""Training throughput: log images per second and the share of waiting for data, and count unreadable samples."""

import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn

from dre.checks import check_number
from dre.types import Batch

LEAST_TO_JUDGE = 100
"""Images before the share of broken samples is judged within an epoch."""


class Throughput(pl.Callback):
    """Log `train/images_per_second` (all ranks) and `train/data_wait` (share of wall time), and count broken samples.

    Before training it says, and logs as `train/images_per_step`, how many images a step of the optimiser sees.

    Args:
        every: Steps between two logged values.
        broken_share: Largest share of unreadable training samples; above it the run stops.

    Raises:
        ValueError: `every` is below 1, or `broken_share` outside [0, 1].
        TypeError: One of them is no number.
    """

    def __init__(self, every: int = 10, broken_share: float = 0.01) -> None:
        check_number("every", every, 1, 2**53)
        check_number("broken_share", broken_share, 0, 1, whole=False)
        self.every, self.broken_share = every, broken_share
        self.broken: dict[str, None] = {}  # in order, each once, however often it is drawn
        self.images = 0
        self.seconds = 0.0
        self.waited = 0.0
        self._window = (0, 0.0, 0.0)
        self._batch_end = 0.0
        self._batch_start = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print and log how many images a step of the optimiser sees."""
        data, steps = getattr(trainer, "datamodule", None), trainer.accumulate_grad_batches
        if data is None:
            return
        images = data.batch_size
        over = f" over {trainer.world_size} ranks" if trainer.world_size > 1 else ""
        added = f", {steps} batches to a step" if steps > 1 else ""
        rank_zero_info(f"each step of the optimiser sees {images * steps} images: batches of {images}{over}{added}")
        pl_module.log("train/images_per_step", float(images * steps))

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock; time between epochs (validation, checkpoints) does not count."""
        self._batch_end = time.perf_counter()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Note how long the batch took to come."""
        self._batch_start = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Add the batch to the counts."""
        now = time.perf_counter()
        images = len(batch["images"]) * trainer.world_size
        waited, lasted = self._batch_start - self._batch_end, now - self._batch_end
        self._batch_end = now
        self.images, self.seconds, self.waited = self.images + images, self.seconds + lasted, self.waited + waited
        self.broken |= dict.fromkeys(batch.get("broken", []))
        if self.images >= LEAST_TO_JUDGE * trainer.world_size:
            self._refuse_too_many_broken(trainer)
        if (batch_idx + 1) % self.every == 0:
            images_then, seconds_then, waited_then = self._window
            seconds = self.seconds - seconds_then
            pl_module.log("train/images_per_second", (self.images - images_then) / seconds, prog_bar=True)
            pl_module.log("train/data_wait", (self.waited - waited_then) / seconds)
            self._window = (self.images, self.seconds, self.waited)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Judge the broken samples of a short epoch too."""
        self._refuse_too_many_broken(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say how fast it went and what was skipped."""
        if self.seconds:
            rank_zero_info(
                f"trained on {self.images} images at {self.images / self.seconds:.1f} a second; "
                f"{100 * self.waited / self.seconds:.1f} % of that time was spent waiting for data"
            )
        if self.broken:
            rank_zero_warn(f"{len(self.broken)} samples were skipped, the first of them: {next(iter(self.broken))}")

    def _refuse_too_many_broken(self, trainer: pl.Trainer) -> None:
        """Compare the different samples that this rank could not read with the different ones that it drew."""
        data = getattr(trainer, "datamodule", None)
        drawn = self.images // trainer.world_size + len(self.broken)
        if data is not None:
            drawn = min(drawn, data.expected_images("train"))
        if len(self.broken) > self.broken_share * drawn:
            raise ValueError(
                f"{len(self.broken)} of {drawn} training samples cannot be read, more than "
                f"{100 * self.broken_share:g} %; the first: {next(iter(self.broken))}"
            )
