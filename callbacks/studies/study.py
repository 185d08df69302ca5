"""Base class of studies: explain a few images again under other conditions, and write what changes."""

import math
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, cast

import pandas as pd
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor

from callbacks.image_selection import ImageSelection, StudyImage
from callbacks.logged import log_pictures
from callbacks.outputs import OutputsCallback
from callbacks.panels import photographers
from callbacks.studies.figures import StudyMaps, log_points
from dre.checks import NonFiniteError, check_count
from dre.engine.scoring import score
from dre.metrics import ScoreTable
from dre.models import Classifier
from dre.modules import ExplainerEvaluation
from dre.modules.variants import Explain
from dre.reporting.figures import points_figure
from dre.reporting.style import png_bytes
from dre.runs.locks import replacing, write_json, write_whole
from dre.statistics import summarise_points
from dre.types import Explained

Compare = Callable[[Tensor, Tensor], Tensor]
"""From two maps [B, 1, H, W] to a number an image, [B]."""

CLASSIFIER = "classifier"
"""Stands in the column of explainers beside what was measured of the classifier itself."""


class Row(NamedTuple):
    """Hold one value of one image; `x` is its place on the curve, `draw` counts the draws of one condition."""

    key: str
    explainer: str
    quantity: str
    x: float
    value: float
    draw: int = 0


class Study(OutputsCallback, ABC):
    """Explain the first images again, one by one, when `Trainer.test` has seen all of them.

    Images are selected by a hash of their keys and explained one by one: neither ranks nor batches change a number.
    Stored maps (`Precomputed`) are left out: there are none of other conditions. The run directory gets `NAME.parquet`
    (a row for each image, point and draw), `NAME.json` (means, intervals, what was left out), `NAME.png` and, of kept
    maps, `NAME_maps.png`. Logs `test/EXPLAINER/QUANTITY`; loggers get curves and maps, too.

    Args:
        images: Images to study.
        explainers: Evaluated explainers to study; all when not given.
        photographs: Images whose maps are drawn.
        colours: A colour map of matplotlib in which they are drawn alone; by default they lie over the photograph.

    Raises:
        ValueError: `images` is below 1, `photographs` negative, `explainers` empty, or the colour map unknown.
    """

    name: ClassVar[str]
    panels_in_a_line: ClassVar[int] = 3
    with_objects: ClassVar[bool] = False
    directions: ClassVar[Mapping[str, bool]] = {}
    """Quantities that have a better direction, and whether that is up: `dre.agreement` compares them as metrics."""
    draws: int = 1
    """How often each condition is drawn; intervals are over images and draws."""

    def __init__(
        self,
        images: int = 16,
        explainers: list[str] | None = None,
        photographs: int = 0,
        colours: str | None = None,
    ) -> None:
        check_count("images", images)
        if explainers is not None and not explainers:
            raise ValueError(f"`explainers` of {type(self).__name__} is empty; name some, or leave it out for all")
        self.images, self.explainers = images, explainers
        self.maps = StudyMaps(photographs, colours)
        self.selection = self.select()

    def select(self) -> ImageSelection:
        """Return an empty selection of the images to study."""
        return ImageSelection(self.images, self.with_objects)

    @abstractmethod
    def points(self, evaluation: ExplainerEvaluation) -> list[tuple[str, float]]:
        """Name each quantity with each place where it is measured."""

    @abstractmethod
    def measure(self, evaluation: ExplainerEvaluation, images: Sequence[StudyImage]) -> Iterator[Row]:
        """Measure the images of this rank."""

    def names(self, evaluation: ExplainerEvaluation) -> list[str]:
        """Return the names of the explainers to study: those that can make a map of what is changed."""
        asked = list(evaluation.explainers) if self.explainers is None else self.explainers
        return [name for name in asked if not evaluation.variants.is_stored(name)]

    def unsupported(self, evaluation: ExplainerEvaluation) -> str:
        """Say why there is nothing to study here, in a line; nothing where there is."""
        return ""

    def x_label(self, quantity: str) -> str:
        """Say what was changed along the curve of a quantity."""
        return ""

    def is_drawn(self, quantity: str) -> bool:
        """Return whether a quantity is in the figure; one that needs another axis is in the files alone."""
        return True

    def settings(self, evaluation: ExplainerEvaluation) -> dict[str, Any]:
        """Say what decides the numbers, as plain values."""
        return {}

    def remarks(self) -> dict[str, Any]:
        """Return what else belongs in the file, as plain values, of all ranks; every rank must call it."""
        return {}

    def headlines(self, quantity: str, curve: pd.DataFrame) -> dict[str, float]:
        """Return what is logged of a quantity, by the suffix of its name: the mean where the change is greatest."""
        return {"": float(curve["mean"].iloc[-1])}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse what cannot be studied before anything is explained.

        Raises:
            ValueError: An explainer is not evaluated, reads stored maps, or is called `classifier`.
        """
        if stage != "test":
            return
        evaluation = cast(ExplainerEvaluation, pl_module)
        known = list(evaluation.explainers)
        if CLASSIFIER in known:
            raise ValueError(f"no explainer may be called {CLASSIFIER!r} beside {type(self).__name__}; rename it")
        unknown = [name for name in self.explainers or [] if name not in known]
        if unknown:
            raise ValueError(
                f"`explainers` of {type(self).__name__} names {unknown[0]!r}, which is not evaluated; "
                f"choose among {', '.join(known)}"
            )
        stored = [name for name in self.explainers or [] if evaluation.variants.is_stored(name)]
        if stored:
            raise ValueError(
                f"`explainers` of {type(self).__name__} names {stored[0]!r}, whose maps are read by key: there are "
                "none of changed images or classifiers; leave it out"
            )

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start empty."""
        self.selection = self.select()
        self.maps = StudyMaps(self.maps.photographs, self.maps.colours)

    def update(self, pl_module: pl.LightningModule, outputs: Explained) -> None:
        """Keep those images of a batch that are among the first so far."""
        self.selection.update(outputs)

    def progress(self, pl_module: pl.LightningModule) -> dict[str, Any]:
        """See `callbacks.resume.Resumable`."""
        return self.selection.progress()

    def resume(self, pl_module: pl.LightningModule, progress: dict[str, Any]) -> None:
        """See `callbacks.resume.Resumable`."""
        self.selection.resume(progress)

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Study on all ranks, merge, log on all of them, write on the first."""
        evaluation = cast(ExplainerEvaluation, pl_module)
        seen, suited = self.selection.counts()
        unsupported = self.unsupported(evaluation) or ("" if suited else f"none of {seen} images is suited")
        if not unsupported and not self.names(evaluation):
            unsupported = "no explainer of the evaluation can make maps anew"
        if unsupported:
            rank_zero_info(f"{self.name} is left out: {unsupported}")
            return
        start = time.perf_counter()
        frame = self._measured(trainer, evaluation)
        self.maps.gather()
        points = summarise_points(frame)
        counts = {"seen": seen, "suited": suited, "studied": int(frame["key"].nunique())}
        rank_zero_info(_line(self.name, counts, points, time.perf_counter() - start))
        logged, remarks = self._headlines(points), self.remarks()
        for name, value in logged.items():
            if math.isfinite(value):
                pl_module.log(f"test/{name}", value)
        if trainer.is_global_zero:
            self._write(trainer, evaluation, frame, points, {"images": counts, "logged": logged, **remarks})

    def _measured(self, trainer: pl.Trainer, evaluation: ExplainerEvaluation) -> pd.DataFrame:
        draws = range(self.draws)
        labels = [_label(quantity, x, draw) for quantity, x in self.points(evaluation) for draw in draws]
        table = ScoreTable([*self.names(evaluation), CLASSIFIER], labels).to(evaluation.device)
        images = self.selection.share()
        with trainer.precision_plugin.test_step_context(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "the gradient of the")  # that it vanishes is what is counted here
            for row in self.measure(evaluation, images):
                value = torch.tensor([row.value], dtype=torch.float64)
                table.update([row.key], row.explainer, _label(row.quantity, row.x, row.draw), value)
        frame = table.to_frame()
        parts = frame["metric"].str.rpartition("@")
        places = parts[2].str.partition("#")
        frame = frame.assign(quantity=parts[0].astype(object), x=places[0].astype(float), draw=places[2].astype(int))
        columns = ["key", "explainer", "quantity", "x", *(["draw"] if self.draws > 1 else [])]
        return frame[[*columns, "value"]].sort_values(columns, kind="stable").reset_index(drop=True)

    def _headlines(self, points: pd.DataFrame) -> dict[str, float]:
        found = {}
        for (explainer, quantity), curve in points.groupby(["explainer", "quantity"]):
            for suffix, value in self.headlines(quantity, curve.sort_values("x")).items():
                found[f"{explainer}/{quantity}{suffix}"] = value
        return found

    def _write(
        self,
        trainer: pl.Trainer,
        evaluation: ExplainerEvaluation,
        frame: pd.DataFrame,
        points: pd.DataFrame,
        found: dict[str, Any],
    ) -> None:
        path = Path(trainer.default_root_dir) / self.name
        with replacing(path.with_suffix(".parquet")) as part:
            frame.to_parquet(part)
        order = list(dict.fromkeys(quantity for quantity, _ in self.points(evaluation)))
        points = points.sort_values("quantity", key=lambda column: column.map(order.index), kind="stable")
        labels = {quantity: self.x_label(quantity) for quantity in order}
        content = {
            "study": self.name,
            "x_labels": labels,
            "directions": dict(self.directions),
            "settings": {"explainers": self.names(evaluation), **self.settings(evaluation)},
            **found,
            "points": points.to_dict("records"),
        }
        write_json(path.with_suffix(".json"), _plain(content))
        shown = [*self.names(evaluation), CLASSIFIER]
        if points["x"].nunique() == 1:  # what is measured once, of the classifier, is in the file
            shown, points = shown[:-1], points[points["explainer"] != CLASSIFIER]
        drawn = points[points["quantity"].map(self.is_drawn)]
        figure = points_figure(drawn, shown, labels, self.panels_in_a_line)
        write_whole(path.with_suffix(".png"), png_bytes(figure))
        pictured = path.with_name(f"{self.name}_maps.png")
        is_pictured = self.maps.draw(pictured, lambda keys: photographers(trainer, keys))
        if is_pictured:
            log_pictures(trainer, {f"test/{self.name}/maps": pictured})
        log_points(trainer, self.name, points, labels, path.with_suffix(".png"))


def explain(explainer: Explain, image: StudyImage, pixels: Tensor) -> Tensor:
    """Explain `pixels`, one image as the study changed it: saliency [1, 1, H, W], NaN where a value is not finite."""
    try:
        return explainer(pixels, image.target.to(pixels.device), [image.key])
    except NonFiniteError:
        return torch.full_like(pixels[:, :1], torch.nan)


def compared(compare: Compare, saliency: Tensor, reference: Tensor) -> float:
    """Compare two maps of one image; NaN where either is not finite."""
    if not (saliency.isfinite().all() and reference.isfinite().all()):
        return math.nan
    return float(compare(saliency, reference))


@torch.no_grad()
def probability(classifier: Classifier, image: StudyImage, pixels: Tensor) -> float:
    """Probability of the explained class; NaN where the classifier's output is not finite."""
    return float(score(classifier(pixels), image.target.to(pixels.device), "probability"))


def _label(quantity: str, x: float, draw: int) -> str:
    return f"{quantity}@{float(x)!r}#{draw}"


def _line(name: str, counts: Mapping[str, int], points: pd.DataFrame, seconds: float) -> str:
    line = f"{name}: {counts['studied']} of {counts['seen']} images, {seconds:.0f} s"
    for what in ("undefined", "infinite"):
        missing = points.groupby("explainer")[what].sum()
        missing = missing[missing > 0]
        if len(missing):
            line += f"; {what} values: " + ", ".join(f"{explainer} {count}" for explainer, count in missing.items())
    return line


def _plain(content: Any) -> Any:
    """Write NaN and infinity, for which JSON has no word, as null."""
    if isinstance(content, dict):
        return {name: _plain(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_plain(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
