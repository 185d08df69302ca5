"""A picture of the maps: photographs down, explainers across."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytorch_lightning as pl
from matplotlib.axes import Axes
from torch import Tensor

from callbacks.artifacts import wandb_loggers
from dre.imaging import min_max
from dre.types import Batch

CELL_INCHES = 1.5


class SaliencyPanel(pl.Callback):
    """Draw the first evaluated photographs and their maps into `gallery.png`, and log it as `test/gallery`.

    Maps are scaled to [0, 1] one by one and laid over the grey photograph; the caption credits the photographers
    when the data names them.

    Args:
        images: Photographs to draw.
        explainers: Columns to draw, in this order; all that are evaluated when not given.
    """

    def __init__(self, images: int = 8, explainers: list[str] | None = None) -> None:
        if images < 1:
            raise ValueError(f"`images` must be at least 1, got {images}")
        self.images, self.explainers = images, explainers
        self.rows: list[dict[str, Any]] = []

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start empty."""
        self.rows = []

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
        missing = self.images - len(self.rows)
        if outputs is None or missing <= 0 or not trainer.is_global_zero:
            return
        names = self.explainers or list(outputs["saliency"])
        names = [name for name in names if name in outputs["saliency"]]
        for place, key in enumerate(outputs["key"][:missing]):
            maps = {name: min_max(outputs["saliency"][name][place : place + 1])[0, 0].cpu() for name in names}
            self.rows.append({"key": key, "image": outputs["images"][place].cpu(), "maps": maps})

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw on the first rank."""
        if not trainer.is_global_zero or not self.rows:
            return
        path = Path(trainer.default_root_dir) / "gallery.png"
        draw_panel(self.rows, path, _credits(trainer, [row["key"] for row in self.rows]))
        for logger in wandb_loggers(trainer):
            logger.log_image("test/gallery", [str(path)])


def draw_panel(rows: list[dict[str, Any]], path: Path, caption: str = "") -> None:
    """Draw rows of {key, image [C, H, W], maps {name: [H, W] in [0, 1]}} as one PNG, photographs across when many."""
    names = list(rows[0]["maps"])
    figure, axes = plt.subplots(
        len(names) + 1,
        len(rows),
        figsize=(CELL_INCHES * len(rows) + 0.9, CELL_INCHES * (len(names) + 1) + 0.2 + 0.12 * caption.count("\n")),
        squeeze=False,
    )
    for column, row in enumerate(rows):
        axes[0, column].imshow(_displayable(row["image"]), cmap="gray", vmin=0, vmax=1)
        grey = row["image"].mean(0).numpy()
        for place, name in enumerate(names, start=1):
            _overlay(axes[place, column], grey, row["maps"][name].numpy())
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
        for spine in axis.spines.values():
            spine.set_visible(False)
    for axis, name in zip(axes[:, 0], ["photograph", *names], strict=True):
        axis.set_ylabel(name.replace("_", " "), fontsize=8)
    figure.text(0.01, 0.004, caption, fontsize=5, va="bottom", color="0.35")
    margin = 0.02 + 0.075 * (caption.count("\n") + bool(caption)) / figure.get_figheight()
    figure.tight_layout(pad=0.3, rect=(0, margin, 1, 1))
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _displayable(image: Tensor) -> np.ndarray:
    return (image[0] if len(image) == 1 else image.permute(1, 2, 0)).numpy()


def _overlay(axis: Axes, grey: np.ndarray, saliency: np.ndarray) -> None:
    """Show where the map is high, in colour, over the faded photograph."""
    axis.imshow(0.5 + 0.5 * grey, cmap="gray", vmin=0, vmax=1)
    axis.imshow(saliency, cmap="inferno", vmin=0, vmax=1, alpha=0.25 + 0.65 * saliency)


def _credits(trainer: pl.Trainer, keys: list[str]) -> str:
    """Name the photographers of the drawn photographs, as far as the data knows them, a few to a line."""
    data = getattr(trainer, "datamodule", None)
    authors: dict[str, str] = data.credits() if data is not None else {}
    named = [f"{place}: {authors[key]}" for place, key in enumerate(keys, start=1) if key in authors]
    if not named:
        return ""
    lines = [", ".join(named[start : start + 4]) for start in range(0, len(named), 4)]
    return "Photographs, left to right: " + "\n".join(lines)
