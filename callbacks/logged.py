"""Tables, pictures and files of a run, logged in the form that each logger takes, or else written as files."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytorch_lightning as pl
from PIL import Image
from pytorch_lightning.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from dre.runs.locks import replacing
from dre.runs.loggers import GuardedCSVLogger, attempt
from dre.runs.wandb_run import artifact_name

Picture = Path | Image.Image

FOLDER = "logged"
"""Folder in the run directory for the tables and pictures of loggers that take none."""


def takes_tables(trainer: pl.Trainer) -> bool:
    """Return whether a logger of the first rank gets tables, in itself or as files."""
    kinds = WandbLogger | MLFlowLogger | TensorBoardLogger
    return trainer.is_global_zero and any(isinstance(one, kinds) or _has_files(one) for one in trainer.loggers)


def log_table(trainer: pl.Trainer, name: str, frame: pd.DataFrame) -> None:
    """Log a table on the first rank, whose cells may be pictures; into `logged/NAME.csv` where a logger takes none.

    Args:
        trainer: Of the run.
        name: Key on the loggers, such as `test/scores`.
        frame: The table; pictures in it are those of Pillow.
    """
    _each(trainer, WandbLogger, lambda logger: _table_on_wandb(logger, name, frame))
    _each(trainer, MLFlowLogger, lambda logger: _table_on_mlflow(logger, name, frame))
    _in_files(trainer, lambda folder: _write_table(folder, name, frame), of_pictures=False)


def log_pictures(trainer: pl.Trainer, pictures: Mapping[str, Picture]) -> None:
    """Log pictures on the first rank; of those that are no files yet, one is written where a logger takes none.

    Args:
        trainer: Of the run.
        pictures: By their keys, such as `test/gallery`.
    """
    for name, picture in pictures.items():
        _each(trainer, WandbLogger, partial(_picture_on_wandb, name=name, picture=picture))
        _each(trainer, MLFlowLogger, partial(_picture_on_mlflow, name=name, picture=picture))
        _each(trainer, TensorBoardLogger, partial(_picture_on_tensorboard, trainer, name=name, picture=picture))
        if isinstance(picture, Image.Image):
            _in_files(trainer, partial(_write_picture, name=name, picture=picture), of_pictures=True)


def log_files(
    trainer: pl.Trainer, kind: str, paths: Sequence[Path], make: Callable[[str], Any], aliases: Sequence[str] = ()
) -> None:
    """Log files on the first rank: on W&B as an artifact, on MLflow below the folder `KIND`.

    Other loggers have them in the run directory.

    Args:
        trainer: Of the run.
        kind: Such as `checkpoint`.
        paths: Files.
        make: From the run's name on W&B to the artifact.
        aliases: Of the artifact's version.
    """
    names = list(aliases) or None
    _each(
        trainer,
        WandbLogger,
        lambda logger: logger.experiment.log_artifact(make(str(logger.experiment.name)), aliases=names),
    )
    _each(
        trainer,
        MLFlowLogger,
        lambda logger: [logger.experiment.log_artifact(logger.run_id, str(path), kind) for path in paths],
    )


def log_best(trainer: pl.Trainer, values: Mapping[str, float]) -> None:
    """Log values that stand for a whole run: in the summary on W&B, as metrics on MLflow."""
    _each(trainer, WandbLogger, lambda logger: logger.experiment.summary.update(dict(values)))
    _each(trainer, MLFlowLogger, lambda logger: logger.log_metrics(values, trainer.global_step))


def results_artifact(run: str, paths: Sequence[Path], facts: Mapping[str, Any] | None) -> Any:
    """Return the artifact of W&B with what an evaluation wrote."""
    import wandb

    artifact = wandb.Artifact(artifact_name(run, "results"), type="results", metadata=facts)
    for path in paths:
        artifact.add_file(str(path), policy="immutable")
    return artifact


def _each(trainer: pl.Trainer, kind: type[Logger], action: Callable[[Any], object]) -> None:
    """Do something with each logger of a kind, on the first rank; what fails is left."""
    for logger in trainer.loggers if trainer.is_global_zero else ():
        if isinstance(logger, kind):
            attempt(logger, partial(action, logger))


def _has_files(logger: Logger) -> bool:
    """Return whether a logger was asked for whose tables become files."""
    return isinstance(logger, GuardedCSVLogger) and logger.has_tables


def _in_files(trainer: pl.Trainer, write: Callable[[Path], None], of_pictures: bool) -> None:
    """Write a file once for all loggers that take no tables, or no pictures."""
    for logger in trainer.loggers if trainer.is_global_zero else ():
        if _has_files(logger) or (isinstance(logger, TensorBoardLogger) and not of_pictures):
            attempt(logger, partial(write, Path(trainer.default_root_dir) / FOLDER))
            return


def _table_on_wandb(logger: WandbLogger, name: str, frame: pd.DataFrame) -> None:
    import wandb

    pictured = _pictured(frame)
    if not pictured:
        logger.log_table(name, dataframe=frame)
        return
    rows = [
        [wandb.Image(value, file_type="jpg") if column in pictured else value for column, value in row.items()]
        for row in frame.astype(object).to_dict("records")
    ]
    logger.log_table(name, columns=list(frame.columns), data=rows)


def _picture_on_wandb(logger: WandbLogger, name: str, picture: Picture) -> None:
    logger.log_image(name, [str(picture) if isinstance(picture, Path) else picture])


def _table_on_mlflow(logger: MLFlowLogger, name: str, frame: pd.DataFrame) -> None:
    plain = frame.astype(
        {column: str for column, kind in frame.dtypes.items() if isinstance(kind, pd.CategoricalDtype)}
    )
    if getattr(logger, "is_continued", False):  # MLflow adds rows to a table that is there; those of before go
        empty = plain.iloc[:0].to_json(orient="split", index=False)
        logger.experiment.log_text(logger.run_id, empty, f"{name}.json")
    logger.experiment.log_table(logger.run_id, plain, artifact_file=f"{name}.json")


def _picture_on_mlflow(logger: MLFlowLogger, name: str, picture: Picture) -> None:
    logger.experiment.log_image(logger.run_id, _opened(picture), artifact_file=f"{name}.png")


def _picture_on_tensorboard(trainer: pl.Trainer, logger: TensorBoardLogger, name: str, picture: Picture) -> None:
    pixels = np.asarray(_opened(picture).convert("RGB"))
    logger.experiment.add_image(name, pixels, trainer.global_step, dataformats="HWC")


def _opened(picture: Picture) -> Image.Image:
    return picture if isinstance(picture, Image.Image) else Image.open(picture)


def _pictured(frame: pd.DataFrame) -> list[str]:
    """Name the columns that hold pictures."""
    return [column for column in frame if len(frame) and isinstance(frame[column].iloc[0], Image.Image)]


def _write_table(folder: Path, name: str, frame: pd.DataFrame) -> None:
    path = folder / f"{name}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    for column in _pictured(frame):
        names = [f"{Path(name).name}/{place}_{column}.png" for place in range(len(frame))]
        for own, picture in zip(names, frame[column], strict=True):
            _write_picture(path.parent, own.removesuffix(".png"), picture)
        frame = frame.assign(**{column: names})
    with replacing(path) as part:
        frame.to_csv(part, index=False)


def _write_picture(folder: Path, name: str, picture: Image.Image) -> None:
    path = folder / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        picture.save(part, "PNG")
