"""What an explainer would show: the best-ranked pixels of a few photographs over their blur, as a picture."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from callbacks.artifacts import wandb_loggers
from callbacks.panel import photographers
from dre.imaging import blend, gaussian_blur
from dre.reporting.panel import Photograph, draw_panel
from dre.types import Batch


class SalientPixels(pl.Callback):
    """Draw `salient_PERCENT.png` for each share: photographs across, and below them what each explainer keeps.

    Kept are as many of the highest-ranked pixels as the share says; of equal values the first. The rest is blurred. W&B
    gets them as `test/salient_PERCENT`.

    Args:
        shares: Of the pixels, in (0, 1].
        images: Photographs to draw: the first that are evaluated.
        explainers: Rows to draw; all that are evaluated when not given.
        sigma: Of the blur in pixels.

    Source: paper 004, figures 1, 4 and 9.
    """

    def __init__(
        self,
        shares: Sequence[float] = (0.05, 0.1),
        images: int = 8,
        explainers: list[str] | None = None,
        sigma: float = 10.0,
    ) -> None:
        if not shares or any(not 0 < share <= 1 for share in shares):
            raise ValueError(f"`shares` must lie above 0 and not above 1, got {list(shares)}")
        if images < 1:
            raise ValueError(f"`images` must be at least 1, got {images}")
        self.shares, self.images, self.explainers, self.sigma = tuple(shares), images, explainers, sigma
        self.photographs: dict[float, list[Photograph]] = {}

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start empty."""
        self.photographs = {share: [] for share in self.shares}

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the first photographs; the first rank draws what it saw itself."""
        missing = self.images - len(self.photographs[self.shares[0]])
        if outputs is None or missing <= 0 or not trainer.is_global_zero:
            return
        images = outputs["images"][:missing].cpu()
        blurred = gaussian_blur(images, self.sigma)
        names = [name for name in self.explainers or outputs["saliency"] if name in outputs["saliency"]]
        for share in self.shares:
            shown = {
                name: blend(images, best_pixels(outputs["saliency"][name][:missing].cpu(), share), blurred)
                for name in names
            }
            for place, key in enumerate(outputs["key"][:missing]):
                maps = {name: pictures[place].expand(3, -1, -1) for name, pictures in shown.items()}
                self.photographs[share].append(Photograph(key, images[place], maps))

    def progress(self, pl_module: pl.LightningModule) -> dict[str, Any]:
        """See `callbacks.resume.Resumable`."""
        return {f"{share}": [asdict(one) for one in found] for share, found in self.photographs.items()}

    def resume(self, pl_module: pl.LightningModule, progress: dict[str, Any]) -> None:
        """See `callbacks.resume.Resumable`."""
        for share, found in self.photographs.items():
            earlier = [Photograph(**one) for one in progress[f"{share}"]]
            self.photographs[share] = [*found, *earlier][: self.images]

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw on the first rank."""
        for share, photographs in self.photographs.items():
            if not photographs or not trainer.is_global_zero:
                continue
            path = Path(trainer.default_root_dir) / f"salient_{100 * share:g}.png"
            draw_panel(photographs, path, photographers(trainer, [one.key for one in photographs]))
            for logger in wandb_loggers(trainer):
                logger.log_image(f"test/{path.stem}", [str(path)])


def best_pixels(saliency: Tensor, share: float) -> Tensor:
    """Mask of the highest-ranked share of each map's pixels, [B, 1, H, W]: at least one; the first of equal ones."""
    values = saliency.flatten(1)
    count = max(1, round(share * values.shape[1]))
    order = values.argsort(dim=1, descending=True, stable=True)[:, :count]
    return torch.zeros_like(values).scatter_(1, order, 1.0).view_as(saliency)
