"""Outputs of an evaluation step: base classes of callbacks that read them, and what metrics are given of them."""

from abc import abstractmethod
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from dre.metrics import ImageMean
from dre.metrics.base import arguments_of, reads_other_class, reads_transfer, rows_of_value
from dre.metrics.list_states import add_states, states_of
from dre.types import Batch, Explained, Sweep


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


def rows_for(metric: ImageMean, outputs: Explained, explainer: str) -> tuple[Tensor, Tensor]:
    """Return of which images of a test step a metric is updated, and of which a map that it reads is broken: bool [B].

    Of neither kind are images whose target the second classifier does not know, where the metric reads its scores.
    """
    broken = outputs["broken"][explainer]
    if reads_other_class(metric):
        broken = broken | outputs["other_broken"][explainer]
    known = outputs["known"] if reads_transfer(metric) else torch.ones_like(broken)
    return known & ~broken, known & broken


def of_explainer(outputs: Explained, explainer: str, rows: Tensor) -> tuple[dict[str, Any], dict[Sweep, Tensor]]:
    """Select from a test step what `feed` needs for one explainer and some images: the batch, and what sweeps read.

    Args:
        outputs: Of the step.
        explainer: Its name.
        rows: Which images, bool [B].
    """
    places = rows.nonzero()[:, 0].tolist()
    batch: dict[str, Any] = {"keys": outputs["key"], "saliency": outputs["saliency"][explainer]}
    batch |= {name: value for name, value in outputs.items() if name in ("images", "targets", "objects")}
    if "other_saliency" in outputs:
        batch["other_saliency"] = outputs["other_saliency"][explainer]
    batch = {name: rows_of_value(value, places) for name, value in batch.items()}
    return batch, {sweep: rows_of_value(read, places) for sweep, read in outputs["scores"][explainer].items()}


def why_no_value(metric: ImageMean) -> str:
    """Say why a metric has no value for any image."""
    if "objects" in arguments_of(metric):
        return "no image that was explained has a box"
    if reads_transfer(metric):
        return "the second classifier knows the target of no image"
    return "it is not defined for the map of any image"
