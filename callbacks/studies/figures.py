"""Figures of a study: the maps of its first photographs as one picture, and its curves in W&B."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import pandas as pd
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import WandbLogger
from torch import Tensor

from callbacks.image_selection import StudyImage, first_keys, gathered
from callbacks.logged import log_pictures, log_table
from dre.checks import check_count
from dre.reporting.overlay import coloured, for_display, overlay_map
from dre.reporting.panel import Photograph, draw_panel
from dre.reporting.style import readable
from dre.runs.loggers import attempt

ROWS = 6
"""Conditions that are drawn of each explainer, at most."""

Pictures = dict[str, dict[str, dict[str, Tensor]]]
"""Heading -> label -> key -> uint8 [3, H, W]."""


class StudyMaps:
    """Keep the maps of a few photographs under several conditions, and draw them: explainers and conditions down.

    Args:
        photographs: Columns of the picture, the first of all that the study explains; 0 draws none.
        colours: A colour map of matplotlib in which maps are drawn alone; by default they lie over the photograph.

    Raises:
        ValueError: `photographs` is negative, or the colour map unknown.
    """

    def __init__(self, photographs: int, colours: str | None = None) -> None:
        check_count("photographs", photographs, 0)
        if colours is not None:
            coloured(torch.zeros(1, 1), colours)  # refuses an unknown name now
        self.photographs, self.colours = photographs, colours
        self.images: dict[str, Tensor] = {}
        self.captions: dict[str, str] = {}
        self.pictures: Pictures = {}
        self.caption = ""

    def wants(self, image: StudyImage) -> bool:
        """Return whether an image is one of the first that this rank explains."""
        return image.key in self.images or len(self.images) < self.photographs

    def keep(self, image: StudyImage, explainer: str, condition: str, saliency: Tensor, pixels: Tensor) -> None:
        """Keep the map [1, 1, H, W] of `pixels` [1, C, H, W], the image as the study changed it; NaN is drawn as 0."""
        if not self.wants(image):
            return
        shown = for_display(torch.where(saliency.isfinite(), saliency, 0.0))[0, 0].detach().cpu()
        if self.colours is not None:
            picture = coloured(shown, self.colours)
        else:
            picture = torch.from_numpy(overlay_map(pixels[0].cpu(), shown)).permute(2, 0, 1)
        self.keep_picture(image, explainer, condition, picture)

    def keep_picture(self, image: StudyImage, heading: str, label: str, picture: Tensor) -> None:
        """Keep a picture [C, H, W] in [0, 1] as it is, if its photograph is one of the first."""
        if not self.wants(image):
            return
        self.images[image.key], self.captions[image.key] = image.pixels[0], image.caption
        small = (picture * 255).round().to("cpu", torch.uint8).expand(3, -1, -1)
        self.pictures.setdefault(heading, {}).setdefault(label, {})[image.key] = small

    def gather(self) -> None:
        """Merge what all ranks kept into the first photographs of all; every rank must call it."""
        ranks = gathered([(self.images, self.captions, self.pictures)])
        everything = {key: image for [(images, _, _)] in ranks for key, image in images.items()}
        self.captions = {key: caption for [(_, captions, _)] in ranks for key, caption in captions.items()}
        self.images = {key: everything[key] for key in first_keys(everything, self.photographs)}
        merged: Pictures = {}
        for [(_, _, pictures)] in ranks:
            for heading, rows in pictures.items():
                for label, found in rows.items():
                    row = merged.setdefault(heading, {}).setdefault(label, {})
                    row |= {key: picture for key, picture in found.items() if key in self.images}
        self.pictures = merged

    def draw(self, path: Path, credit: Callable[[list[str]], str]) -> bool:
        """Draw the picture and return whether there was anything to draw.

        Args:
            path: The PNG file to write.
            credit: From keys to a line that names their photographers.
        """
        if not self.images:
            return False
        rows = [(heading, label) for heading, found in self.pictures.items() for label in found]
        names = {row: "\n".join(row) for row in rows}
        columns = [
            Photograph(key, image, {names[row]: self.pictures[row[0]][row[1]][key] / 255 for row in rows}, caption=said)
            for key, image, said in ((key, image, self.captions[key]) for key, image in self.images.items())
        ]
        first = {heading: names[heading, next(iter(found))] for heading, found in self.pictures.items()}
        draw_panel(
            columns,
            path,
            "\n".join(filter(None, [self.caption, credit(list(self.images))])),
            labels={names[row]: row[1] for row in rows},
            headings={name: readable(heading) for heading, name in first.items()},
        )
        return True


def spread(values: Sequence[float], most: int = ROWS) -> list[float]:
    """Return at most `most` values, evenly spaced by position, with the first and the last."""
    if len(values) <= most:
        return list(values)
    return [values[round(place * (len(values) - 1) / (most - 1))] for place in range(most)]


def log_points(trainer: pl.Trainer, name: str, points: pd.DataFrame, x_labels: Mapping[str, str], figure: Path) -> None:
    """Log the points that `dre.statistics.summarise_points` returns under `test/NAME`; on W&B as charts, too.

    Args:
        trainer: Of the run.
        name: Of the study.
        points: With a curve where a quantity has several places.
        x_labels: By quantity, what was changed along its curve.
        figure: Picture of the points.
    """
    log_table(trainer, f"test/{name}/points", points)
    log_pictures(trainer, {f"test/{name}/figure": figure})
    for logger in trainer.loggers if trainer.is_global_zero else ():
        if isinstance(logger, WandbLogger):
            attempt(logger, partial(_log_charts, logger, name, points, x_labels))


def _log_charts(logger: WandbLogger, name: str, points: pd.DataFrame, x_labels: Mapping[str, str]) -> None:
    import wandb

    charts = {}
    for quantity, part in points.groupby("quantity", sort=False):
        if part["x"].nunique() < 2:
            continue
        curves = [(explainer, curve.sort_values("x")) for explainer, curve in part.groupby("explainer", sort=False)]
        charts[f"test/{name}/{quantity}"] = wandb.plot.line_series(
            xs=[curve["x"].tolist() for _, curve in curves],
            ys=[curve["mean"].tolist() for _, curve in curves],
            keys=[str(explainer) for explainer, _ in curves],
            title=str(quantity).replace("_", " "),
            xname=x_labels.get(str(quantity)) or "x",
        )
    if charts:
        logger.experiment.log(charts)
