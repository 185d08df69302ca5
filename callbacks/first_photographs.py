"""Pictures of a few photographs of an evaluation: the same ones whatever the batches and the ranks."""

from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl

from callbacks.artifacts import wandb_loggers
from callbacks.chosen import gathered, place_of
from dre.checks import check_count
from dre.reporting.panel import Photograph, credits_caption, draw_panel
from dre.types import Batch


class FirstPhotographs(pl.Callback):
    """Collect the first evaluated photographs for pictures, draw each into `TITLE.png`, and log it as `test/TITLE`.

    First in the order of `callbacks.chosen.place_of`. A subclass names its pictures with `titles` and makes their
    columns with `columns`.

    Args:
        images: Photographs to draw.
        explainers: Rows to draw, in this order; all that are evaluated when not given.

    Attributes:
        photographs: Title -> the columns so far.
    """

    def __init__(self, images: int, explainers: list[str] | None) -> None:
        check_count("images", images, 1)
        self.images, self.explainers = images, explainers
        self.photographs: dict[str, list[Photograph]] = {}

    def titles(self) -> list[str]:
        """Name the pictures."""
        raise NotImplementedError

    def columns(self, outputs: Any, names: list[str], rows: list[int]) -> dict[str, list[Photograph]]:
        """Make the columns of each title from some images of a step, with the maps of `names`; copies, not views."""
        raise NotImplementedError

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start empty."""
        self._check_explainers(list(cast(Any, pl_module).explainers))
        self.photographs = {title: [] for title in self.titles()}

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the photographs that come before those that were kept so far."""
        if outputs is None:
            return
        places = [place_of(key) for key in outputs["key"]]
        kept = [place_of(one.key) for one in self.photographs[self.titles()[0]]]
        first = set(sorted(places + kept)[: self.images])
        rows = [row for row, place in enumerate(places) if place in first]
        if rows:
            names = [name for name in self.explainers or outputs["saliency"] if name in outputs["saliency"]]
            self._add(self.columns(outputs, names, rows))

    def _add(self, columns: dict[str, list[Photograph]]) -> None:
        for title, found in columns.items():
            everything = sorted([*self.photographs[title], *found], key=lambda one: place_of(one.key))
            self.photographs[title] = everything[: self.images]

    def progress(self, pl_module: pl.LightningModule) -> dict[str, Any]:
        """See `callbacks.resume.Resumable`."""
        return {
            title: [
                {"key": one.key, "image": one.image, "maps": dict(one.maps), "values": dict(one.values)}
                for one in found
            ]
            for title, found in self.photographs.items()
        }

    def resume(self, pl_module: pl.LightningModule, progress: dict[str, Any]) -> None:
        """See `callbacks.resume.Resumable`."""
        self._add({title: [Photograph(**one) for one in progress[title]] for title in self.photographs})

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Bring together what all ranks kept."""
        for title, found in self.photographs.items():
            self.photographs[title] = []
            self._add({title: [one for rank in gathered(found) for one in rank]})

    def _check_explainers(self, known: list[str]) -> None:
        """Refuse rows of which none is evaluated; single ones may be absent: an evaluation may leave explainers out."""
        if self.explainers is not None and not set(self.explainers) & set(known):
            raise ValueError(
                f"`explainers` of {type(self).__name__} names {', '.join(map(repr, self.explainers)) or 'nothing'}, "
                f"of which nothing is evaluated; choose among {', '.join(known)}"
            )

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw on the first rank."""
        for title, photographs in self.photographs.items():
            if not photographs or not trainer.is_global_zero:
                continue
            path = Path(trainer.default_root_dir) / f"{title}.png"
            draw_panel(photographs, path, photographers(trainer, [one.key for one in photographs]))
            for logger in wandb_loggers(trainer):
                logger.log_image(f"test/{title}", [str(path)])


def photographers(trainer: pl.Trainer, keys: list[str]) -> str:
    """Name the photographers of the drawn photographs, as far as the data knows them."""
    return credits_caption(keys, authors(trainer))


def authors(trainer: pl.Trainer) -> dict[str, str]:
    """Photographer of each photograph, by key, as far as the data knows them."""
    data = getattr(trainer, "datamodule", None)
    return data.credits() if data is not None else {}
