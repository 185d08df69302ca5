"""Saliency panels: pictures of the first evaluated photographs and the maps of their explainers."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pandas as pd
import pytorch_lightning as pl
import torch
from torch import Tensor

from callbacks.artifacts import scores_frame
from callbacks.explained_classes import class_caption
from callbacks.image_selection import first_images, first_rows, gathered
from callbacks.logged import log_pictures, log_table, takes_tables
from callbacks.outputs import OutputsCallback
from dre.checks import check_count
from dre.images.blur import gaussian_blur
from dre.images.fill import blend
from dre.reporting.overlay import coloured, for_display, picture_of, rgb
from dre.reporting.panel import Photograph, credits_caption, draw_panel
from dre.types import Explained


class FirstPhotographs(OutputsCallback):
    """Collect the first evaluated photographs for pictures, draw each into `TITLE.png`, and log it as `test/TITLE`.

    First means in the order of `callbacks.image_selection.place_of`. A subclass names its pictures with `titles` and
    makes their columns with `columns`.

    Args:
        images: Photographs to draw.
        explainers: Rows to draw, in this order; all that are evaluated when not given.

    Raises:
        ValueError: `images` is below 1.

    Attributes:
        photographs: Title -> the columns so far.
    """

    def __init__(self, images: int, explainers: list[str] | None) -> None:
        check_count("images", images, 1)
        self.images, self.explainers = images, explainers
        self.photographs: dict[str, list[Photograph]] = {}

    def titles(self) -> list[str]:
        """Return the names of the pictures, which are their files without `.png`."""
        raise NotImplementedError

    def columns(self, outputs: Any, names: list[str], rows: list[int]) -> dict[str, list[Photograph]]:
        """Return the columns of each title for some rows of a batch, with the maps of `names`; copies, not views."""
        raise NotImplementedError

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start empty."""
        self._check_explainers(list(cast(Any, pl_module).explainers))
        self.photographs = {title: [] for title in self.titles()}

    def update(self, pl_module: pl.LightningModule, outputs: Explained) -> None:
        """Keep the photographs that come before those that were kept so far."""
        candidates = {key: row for row, key in enumerate(outputs["key"])}
        rows = first_rows(candidates, self.photographs[self.titles()[0]], self.images)
        if rows:
            names = [name for name in self.explainers or outputs["saliency"] if name in outputs["saliency"]]
            self._add(self.columns(outputs, names, rows))

    def _add(self, columns: dict[str, list[Photograph]]) -> None:
        for title, found in columns.items():
            self.photographs[title] = first_images([*self.photographs[title], *found], self.images)

    def progress(self, pl_module: pl.LightningModule) -> dict[str, Any]:
        """See `callbacks.resume.Resumable`."""
        return {
            title: [
                {"key": one.key, "image": one.image, "maps": dict(one.maps), "values": dict(one.values)}
                | {"caption": one.caption}
                for one in found
            ]
            for title, found in self.photographs.items()
        }

    def resume(self, pl_module: pl.LightningModule, progress: dict[str, Any]) -> None:
        """See `callbacks.resume.Resumable`."""
        self._add({title: [Photograph(**one) for one in progress[title]] for title in self.photographs})

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Merge what all ranks kept."""
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
            log_pictures(trainer, {f"test/{title}": path})


def photographers(trainer: pl.Trainer, keys: list[str]) -> str:
    """Return a line that names the photographers of these keys, as far as the data know them."""
    return credits_caption(keys, authors(trainer))


def authors(trainer: pl.Trainer) -> dict[str, str]:
    """Return the photographer of each key, as far as the data know them."""
    data = getattr(trainer, "datamodule", None)
    return data.credits() if data is not None else {}


class SalientPixels(FirstPhotographs):
    """Draw `salient_PERCENT.png` for each share: photographs across, and below them what each explainer keeps.

    Kept are as many of the highest-ranked pixels as the share says; of equal values the first. The rest is blurred. W&B
    gets them as `test/salient_PERCENT`.

    Args:
        shares: Of the pixels, in (0, 1].
        images: Photographs to draw: the first that are evaluated.
        explainers: Rows to draw; all that are evaluated when not given.
        sigma: Of the blur in pixels.

    Raises:
        ValueError: There is no share or one outside (0, 1], or `images` is below 1.

    Source: Rahman et al. 2022, Figures 1, 4 and 9.
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
        super().__init__(images, explainers)
        self.shares, self.sigma = tuple(shares), sigma

    def titles(self) -> list[str]:
        """See `FirstPhotographs`."""
        return [f"salient_{100 * share:g}" for share in self.shares]

    def columns(self, outputs: Any, names: list[str], rows: list[int]) -> dict[str, list[Photograph]]:
        """See `FirstPhotographs`."""
        images = outputs["images"][rows].cpu()
        blurred = gaussian_blur(images, self.sigma)
        saliency = {name: outputs["saliency"][name][rows].cpu() for name in names}
        found: dict[str, list[Photograph]] = {}
        for title, share in zip(self.titles(), self.shares, strict=True):
            shown = {name: blend(images, best_pixels(one, share), blurred) for name, one in saliency.items()}
            pictures = [
                {name: one[place].expand(3, -1, -1).clone() for name, one in shown.items()}
                for place in range(len(rows))
            ]
            found[title] = [
                Photograph(
                    outputs["key"][row], images[place].clone(), pictures[place], caption=class_caption(outputs, row)
                )
                for place, row in enumerate(rows)
            ]
        return found


def best_pixels(saliency: Tensor, share: float) -> Tensor:
    """Return the mask [B, 1, H, W] of each map's highest-ranked pixels: at least one; of equal values the first."""
    values = saliency.flatten(1)
    count = max(1, round(share * values.shape[1]))
    order = values.argsort(dim=1, descending=True, stable=True)[:, :count]
    return torch.zeros_like(values).scatter_(1, order, 1.0).view_as(saliency)


class SaliencyPanel(FirstPhotographs):
    """Draw the first evaluated photographs and their maps into `gallery.png`, and log it as `test/gallery`.

    The table `test/examples` has the same photographs and maps one by one, with the explained class and the scores.

    Maps are scaled one by one (`dre.reporting.overlay.for_display`) and laid over the grey photograph; the caption
    credits the photographers when the data names them. Under each photograph stands the explained class, its
    probability, and whether the prediction was right.

    Args:
        images: Photographs to draw.
        explainers: Rows to draw, in this order; all that are evaluated when not given.
        values: Metric whose value, scaled between the worst and the best explainer of the image, is a coloured square
            on each map, from blue (0) to yellow (1); list the panel after the metrics.
        colours: A colour map of matplotlib (`gray`, `inferno`, `coolwarm`, `Reds`, ...) in which maps are drawn alone;
            by default they lie over the photograph.

    Raises:
        ValueError: `images` is below 1, or the colour map unknown.

    Source: squares of M_F as in Fu et al. 2021, Figures 7 to 9; colours as in Rahman et al. 2022, Figures 13 to 23.
    """

    def __init__(
        self,
        images: int = 8,
        explainers: list[str] | None = None,
        values: str | None = None,
        colours: str | None = None,
    ) -> None:
        super().__init__(images, explainers)
        if colours is not None:
            coloured(torch.zeros(1, 1), colours)  # refuses an unknown name now
        self.values, self.colours = values, colours

    def titles(self) -> list[str]:
        """See `FirstPhotographs`."""
        return ["gallery"]

    def columns(self, outputs: Any, names: list[str], rows: list[int]) -> dict[str, list[Photograph]]:
        """See `FirstPhotographs`."""
        found = []
        for place in rows:
            maps = {name: for_display(outputs["saliency"][name][place : place + 1])[0, 0].cpu() for name in names}
            if self.colours is not None:
                maps = {name: coloured(one, self.colours) for name, one in maps.items()}
            values = self._scaled(outputs, place) if self.values is not None else {}
            image, caption = outputs["images"][place].cpu().clone(), class_caption(outputs, place)
            found.append(Photograph(outputs["key"][place], image, maps, values, caption))
        return {"gallery": found}

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw on the first rank, and log a table of what is drawn."""
        super().on_test_end(trainer, pl_module)
        photographs = self.photographs["gallery"]
        if photographs and takes_tables(trainer):
            log_table(trainer, "test/examples", examples_frame(photographs, Path(trainer.default_root_dir)))

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


def examples_frame(photographs: Sequence[Photograph], directory: Path) -> pd.DataFrame:
    """Return a row for each photograph and map, as pictures of Pillow, with what scores.parquet says of them.

    Args:
        photographs: Columns of a panel.
        directory: Of the run; without scores.parquet the table has the pictures alone.
    """
    rows = [
        {"key": one.key, "explainer": name, "photograph": photograph, "map": picture_of(one.drawn(name))}
        for one in photographs
        for photograph in [picture_of(rgb(one.image))]
        for name in one.maps
    ]
    frame, scores = pd.DataFrame(rows), directory / "scores.parquet"
    if not scores.is_file():
        return frame
    known = scores_frame(scores, [one.key for one in photographs]).astype(object)
    merged = frame.merge(known, on=["key", "explainer"], how="left").astype(object)
    return merged.where(merged.notna(), None)
