"""W&B artifacts: log the checkpoint of a training and the tables, pictures and files of an evaluation."""

import io
import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import pytorch_lightning as pl
from PIL import Image
from pyarrow.parquet import read_schema
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities import rank_zero_warn

from callbacks.annotations import NAME as ANNOTATION
from callbacks.explained_classes import CLASS_COLUMNS
from callbacks.image_selection import first_keys
from dre.models.checkpoint_files import steps_of
from dre.reporting.figures import curves_figure
from dre.reporting.style import png_bytes

MOST_ROWS = 20_000
"""Rows of `test/scores`: W&B's tables end at 200,000, and the artifact of the results has all of them anyway."""


class CheckpointArtifact(pl.Callback):
    """Log the checkpoints of a training as versions of the artifact `RUN-checkpoint`; without W&B it does nothing.

    The version `best` has `best.ckpt`, where validation wrote one, and `latest` has `last.ckpt`. List it after the
    callback that writes the checkpoints.
    """

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log on the first rank."""
        loggers = wandb_loggers(trainer)
        if not loggers or not trainer.is_global_zero:
            return
        import wandb

        folder = Path(trainer.default_root_dir) / "checkpoints"
        if not (folder / "last.ckpt").is_file():
            rank_zero_warn(
                f"no checkpoint at {folder / 'last.ckpt'} to log; list CheckpointArtifact after RunCheckpoints"
            )
            return
        versions = {"best": folder / "best.ckpt", "latest": folder / "last.ckpt"}
        for logger, (alias, path) in product(loggers, versions.items()):
            if path.is_file():
                facts = {"step": steps_of(path)}
                artifact = wandb.Artifact(f"{logger.experiment.name}-checkpoint", type="model", metadata=facts)
                artifact.add_file(str(path), policy="immutable")  # it stays where it is: no copy in W&B's staging
                logger.experiment.log_artifact(artifact, aliases=[alias])


class ResultsArtifact(pl.Callback):
    """Log what an evaluation wrote as tables, pictures and the artifact `RUN-results`; without W&B it does nothing.

    Tables: `test/scores` (an image and explainer in each row, with the explained class; at most 20,000 rows, of the
    first images by a hash of their keys, while the artifact has them all), `test/summary` (mean and
    interval of each explainer and metric), `test/curves` (the points of all curves, with bands); pictures:
    `test/curve_panels` and the rank diagrams. List it last.
    """

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log on the first rank, from the files of the run directory."""
        directory = Path(trainer.default_root_dir)
        loggers = wandb_loggers(trainer)
        if not loggers or not trainer.is_global_zero:
            return
        if not (directory / "summary.json").is_file():
            rank_zero_warn(f"no summary.json in {directory} to log; list ResultsArtifact after ExplanationMetrics")
            return
        for logger in loggers:
            self._log(logger, directory)

    def _log(self, logger: WandbLogger, directory: Path) -> None:
        import wandb

        summary = json.loads((directory / "summary.json").read_text())
        curves = pd.read_parquet(directory / "curves.parquet")
        scores = directory / "scores.parquet"
        logger.log_table("test/scores", dataframe=scores_frame(scores, logged_keys(scores)))
        logger.log_table("test/summary", dataframe=summary_frame(summary))
        pictures = {path.stem: wandb.Image(str(path)) for path in sorted(directory.glob("critical_difference_*.png"))}
        if not curves.empty:
            logger.log_table("test/curves", dataframe=curves)
            drawing = curves_figure(curves, summary["explainers"])
            pictures["curve_panels"] = wandb.Image(Image.open(io.BytesIO(png_bytes(drawing))))
        logger.experiment.log({f"test/{name}": picture for name, picture in pictures.items()})
        artifact = wandb.Artifact(f"{logger.experiment.name}-results", type="results", metadata=summary.get("data"))
        for path in sorted(directory.iterdir()):
            if path.suffix in (".parquet", ".json", ".md", ".html", ".png", ".yaml"):
                artifact.add_file(str(path), policy="immutable")
        logger.experiment.log_artifact(artifact)


def wandb_loggers(trainer: pl.Trainer) -> list[WandbLogger]:
    """Return the loggers that write to W&B."""
    return [logger for logger in trainer.loggers if isinstance(logger, WandbLogger)]


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
