"""A picture of the maps that an evaluation made: photographs across, explainers down."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from callbacks.artifacts import wandb_loggers
from dre.reporting.overlay import for_display
from dre.reporting.panel import Photograph, credits_caption, draw_panel
from dre.types import Batch


class SaliencyPanel(pl.Callback):
    """Draw the first evaluated photographs and their maps into `gallery.png`, and log it as `test/gallery`.

    Maps are scaled one by one (`dre.reporting.overlay.for_display`) and laid over the grey photograph; the caption
    credits the photographers when the data names them.

    Args:
        images: Photographs to draw.
        explainers: Rows to draw, in this order; all that are evaluated when not given.
    """

    def __init__(self, images: int = 8, explainers: list[str] | None = None) -> None:
        if images < 1:
            raise ValueError(f"`images` must be at least 1, got {images}")
        self.images, self.explainers = images, explainers
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
            self.photographs.append(Photograph(key, outputs["images"][place].cpu(), maps))

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
        draw_panel(self.photographs, path, _credits(trainer, [one.key for one in self.photographs]))
        for logger in wandb_loggers(trainer):
            logger.log_image("test/gallery", [str(path)])


def _credits(trainer: pl.Trainer, keys: list[str]) -> str:
    """Name the photographers of the drawn photographs, as far as the data knows them."""
    data = getattr(trainer, "datamodule", None)
    return credits_caption(keys, data.credits() if data is not None else {})
