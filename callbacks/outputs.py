"""Outputs of an evaluation step: base classes of callbacks that read them."""

from abc import abstractmethod
from typing import Any

import pytorch_lightning as pl

from dre.metrics.list_states import add_states, states_of
from dre.types import Batch, Explained


class OutputsCallback(pl.Callback):
    """Call `update` with the outputs of each step of `Trainer.test`; a step without a map to explain has none."""

    @abstractmethod
    def update(self, pl_module: pl.LightningModule, outputs: Explained) -> None:
        """Read the images, maps and, behind `ExplanationMetrics`, values of one batch."""

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Explained | None,  # type: ignore[override]
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Pass the outputs on, if there are any."""
        if outputs is not None and outputs["key"]:
            self.update(pl_module, outputs)


class MetricStates:
    """Make a callback resumable (`callbacks.resume.Resumable`) whose progress is the states of its metrics."""

    @abstractmethod
    def gathered(self) -> dict[str, Any]:
        """Return the metrics, in dicts of any depth."""

    def progress(self, pl_module: pl.LightningModule) -> dict[str, Any]:
        """Return the states of the metrics."""
        states: dict[str, Any] = states_of(self.gathered())
        return states

    def resume(self, pl_module: pl.LightningModule, progress: dict[str, Any]) -> None:
        """Add the states that `progress` returned for other images."""
        add_states(self.gathered(), progress)
