"""A picture of the maps that an evaluation made: photographs across, explainers down."""

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from callbacks.artifacts import wandb_loggers
from dre.reporting.overlay import coloured, for_display
from dre.reporting.panel import Photograph, credits_caption, draw_panel
from dre.types import Batch


class SaliencyPanel(pl.Callback):
    """Draw the first evaluated photographs and their maps into `gallery.png`, and log it as `test/gallery`.

    Maps are scaled one by one (`dre.reporting.overlay.for_display`) and laid over the grey photograph; the caption
    credits the photographers when the data names them.

    Args:
        images: Photographs to draw.
        explainers: Rows to draw, in this order; all that are evaluated when not given.
        values: Metric whose value, scaled between the worst and the best explainer of the image, is a coloured square
            on each map, from blue (0) to yellow (1); list the panel after the metrics.
        colours: A colour map of matplotlib (`gray`, `inferno`, `coolwarm`, `Reds`, ...) in which maps are drawn alone;
            by default they lie over the photograph.

    Source: figures 7 to 9 of paper 003 have such squares of M_F, figures 13 to 23 of paper 004 such colours.
    """

    def __init__(
        self,
        images: int = 8,
        explainers: list[str] | None = None,
        values: str | None = None,
        colours: str | None = None,
    ) -> None:
        if images < 1:
            raise ValueError(f"`images` must be at least 1, got {images}")
        if colours is not None:
            coloured(torch.zeros(1, 1), colours)  # refuses an unknown name now
        self.images, self.explainers, self.values, self.colours = images, explainers, values, colours
        self.photographs: list[Photograph] = []

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start empty."""
        self.photographs = []

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the photographs that are still wanted; the first rank draws what it saw itself."""
        missing = self.images - len(self.photographs)
        if outputs is None or missing <= 0 or not trainer.is_global_zero:
            return
        names = self.explainers or list(outputs["saliency"])
        names = [name for name in names if name in outputs["saliency"]]
        for place, key in enumerate(outputs["key"][:missing]):
            maps = {name: for_display(outputs["saliency"][name][place : place + 1])[0, 0].cpu() for name in names}
            if self.colours is not None:
                maps = {name: coloured(one, self.colours) for name, one in maps.items()}
            values = self._scaled(outputs, place) if self.values is not None else {}
            self.photographs.append(Photograph(key, outputs["images"][place].cpu(), maps, values))

    def _scaled(self, outputs: Any, place: int) -> dict[str, float]:
        """Scale the values of an image's maps to [0, 1]; none where they all tie."""
        if "values" not in outputs:
            raise ValueError("the step has no values to draw; list SaliencyPanel after ExplanationMetrics")
        known = {name: found for name, found in outputs["values"].items() if self.values in found}
        if not known:
            raise ValueError(f"`values` of SaliencyPanel names {self.values!r}, which is not computed")
        values = {name: float(found[self.values][place]) for name, found in known.items()}
        values = {name: value for name, value in values.items() if math.isfinite(value)}
        low, high = min(values.values(), default=0.0), max(values.values(), default=0.0)
        return {name: (value - low) / (high - low) for name, value in values.items()} if high > low else {}

    def progress(self, pl_module: pl.LightningModule) -> dict[str, Any]:
        """See `callbacks.resume.Resumable`."""
        return {"photographs": [asdict(one) for one in self.photographs]}

    def resume(self, pl_module: pl.LightningModule, progress: dict[str, Any]) -> None:
        """See `callbacks.resume.Resumable`."""
        self.photographs = [*self.photographs, *(Photograph(**one) for one in progress["photographs"])][: self.images]

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw on the first rank."""
        if not trainer.is_global_zero or not self.photographs:
            return
        path = Path(trainer.default_root_dir) / "gallery.png"
        draw_panel(self.photographs, path, photographers(trainer, [one.key for one in self.photographs]))
        for logger in wandb_loggers(trainer):
            logger.log_image("test/gallery", [str(path)])


def photographers(trainer: pl.Trainer, keys: list[str]) -> str:
    """Name the photographers of the drawn photographs, as far as the data knows them."""
    data = getattr(trainer, "datamodule", None)
    return credits_caption(keys, data.credits() if data is not None else {})
