"""Annotations of an evaluation: whether the object of each image was given by a mask, by boxes, or not at all."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from dre.evaluation.objects import KINDS, annotation_kinds, counted
from dre.metrics import ScoreTable
from dre.types import Explained

NAME = "annotation"
"""The column that `with_annotations` adds; `scores.parquet` of earlier versions has none."""


def annotation_table() -> ScoreTable:
    """Return a table of one row an image, which merges and is saved as that of the scores."""
    return ScoreTable(["image"], [NAME])


def note_annotations(table: ScoreTable, outputs: Explained) -> None:
    """Add what gives the object of each image of a test step."""
    table.update(outputs["key"], "image", NAME, annotation_kinds(outputs).double())


def with_annotations(frame: pd.DataFrame, facts: pd.DataFrame) -> pd.DataFrame:
    """Add the column `annotation` to a table of scores: mask, box or none, a category, one for each image.

    Args:
        frame: As `ScoreTable.to_frame` returns it.
        facts: Of what `note_annotations` filled, as `ScoreTable.by_key` returns it.
    """
    codes = facts[NAME].reindex(frame["key"].cat.categories).fillna(-1).astype("int8").to_numpy()
    return frame.assign(**{NAME: pd.Categorical.from_codes(codes[frame["key"].cat.codes.to_numpy()], list(KINDS))})


def describe_annotations(facts: pd.DataFrame, metrics: Sequence[str]) -> dict[str, Any]:
    """Count the explained images by what gives their object, and name the metrics that read objects."""
    return counted(facts[NAME].dropna().astype(int).tolist()) | {"metrics": list(metrics)}
