"""Artifacts of a run: log the checkpoints of a training, and the tables, pictures and files of an evaluation."""

import io
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytorch_lightning as pl
from PIL import Image
from pyarrow.parquet import read_schema
from pytorch_lightning.utilities import rank_zero_warn

from callbacks.annotations import NAME as ANNOTATION
from callbacks.explained_classes import CLASS_COLUMNS
from callbacks.image_selection import first_keys
from callbacks.logged import Picture, log_files, log_pictures, log_table, results_artifact, takes_tables
from dre.reporting.figures import curves_figure
from dre.reporting.style import png_bytes
from dre.runs.wandb_run import alias_of, checkpoint_artifact

MOST_ROWS = 20_000
"""Rows of `test/scores`: W&B's tables end at 200,000, and the artifact of the results has all of them anyway."""


class CheckpointArtifact(pl.Callback):
    """Log the checkpoints of a training: on W&B as versions of the artifact `RUN-checkpoint`, on MLflow as files.

    The version `best` has `best.ckpt`, where validation wrote one, and `latest` has `last.ckpt`. Other loggers have
    them in the run directory. List it after the callback that writes the checkpoints.
    """

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log on the first rank."""
        if not takes_tables(trainer):
            return
        folder = Path(trainer.default_root_dir) / "checkpoints"
        if not (folder / "last.ckpt").is_file():
            rank_zero_warn(
                f"no checkpoint at {folder / 'last.ckpt'} to log; list CheckpointArtifact after RunCheckpoints"
            )
            return
        for path in (folder / "best.ckpt", folder / "last.ckpt"):
            if path.is_file():
                log_files(trainer, "checkpoint", [path], partial(checkpoint_artifact, path=path), [alias_of(path)])


class ResultsArtifact(pl.Callback):
    """Log what an evaluation wrote as tables, pictures and files, on W&B the artifact `RUN-results`.

    Tables: `test/scores` (an image and explainer in each row, with the explained class; at most 20,000 rows, of the
    first images by a hash of their keys, while the artifact has them all), `test/summary` (mean and
    interval of each explainer and metric), `test/curves` (the points of all curves, with bands); pictures:
    `test/curve_panels` and the rank diagrams. Without a logger that takes them, or was asked for, it does nothing. List
    it last.
    """

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log on the first rank, from the files of the run directory."""
        directory = Path(trainer.default_root_dir)
        if not takes_tables(trainer):
            return
        if not (directory / "summary.json").is_file():
            rank_zero_warn(f"no summary.json in {directory} to log; list ResultsArtifact after ExplanationMetrics")
            return
        summary = json.loads((directory / "summary.json").read_text())
        curves = pd.read_parquet(directory / "curves.parquet")
        scores = directory / "scores.parquet"
        log_table(trainer, "test/scores", scores_frame(scores, logged_keys(scores)))
        log_table(trainer, "test/summary", summary_frame(summary))
        diagrams = sorted(directory.glob("critical_difference_*.png"))
        pictures: dict[str, Picture] = {f"test/{path.stem}": path for path in diagrams}
        if not curves.empty:
            log_table(trainer, "test/curves", curves)
            drawing = curves_figure(curves, summary["explainers"])
            pictures["test/curve_panels"] = Image.open(io.BytesIO(png_bytes(drawing)))
        log_pictures(trainer, pictures)
        kinds = (".parquet", ".json", ".md", ".html", ".png", ".yaml")
        files = [path for path in sorted(directory.iterdir()) if path.suffix in kinds]
        log_files(trainer, "results", files, lambda run: results_artifact(run, files, summary.get("data")))


def scores_frame(path: Path, keys: Sequence[str] | None = None) -> pd.DataFrame:
    """Read a table of scores with a row for each image and explainer: the class columns, and a column a metric.

    Args:
        path: Of scores.parquet.
        keys: Images to read; all when not given.
    """
    about = [name for name in (*CLASS_COLUMNS, ANNOTATION) if name in read_schema(path).names]
    some = None if keys is None else [("key", "in", list(keys))]
    scores = pd.read_parquet(path, columns=["key", "explainer", "metric", "value"], filters=some)
    wide = scores.pivot_table(index=["key", "explainer"], columns="metric", values="value", observed=True)
    wide = wide.rename_axis(columns=None).reset_index().astype({"key": str, "explainer": str})
    del scores
    classes = pd.read_parquet(path, columns=["key", *about], filters=some).drop_duplicates("key").astype(object)
    classes = classes.where(classes.notna(), None)  # W&B knows no other missing value of a whole number
    return wide.merge(classes, on="key", how="left")[["key", "explainer", *about, *wide.columns[2:]]]


def summary_frame(summary: dict[str, Any]) -> pd.DataFrame:
    """Return the means of a summary as a table, one row for each explainer and metric."""
    columns = ("mean", "low", "high", "standard_error", "count", "nan", "skipped")
    why = summary.get("without_value", {})
    rows = [
        {"explainer": name, "metric": metric, **{column: entry[column] for column in columns}}
        | {"no_value": why.get(metric, "")}
        for name, entries in summary["scores"].items()
        for metric, entry in entries.items()
    ]
    return pd.DataFrame(rows, columns=["explainer", "metric", *columns, "no_value"])


def logged_keys(path: Path, most: int = MOST_ROWS) -> list[str] | None:
    """Choose the images of the logged table by a hash of their keys; None where all their rows are few enough."""
    names = pd.read_parquet(path, columns=["key", "explainer"])
    images, explainers = names["key"].unique(), names["explainer"].nunique()
    return first_keys(images, max(1, most // explainers)) if len(images) * explainers > most else None
