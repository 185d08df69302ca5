"""Class columns of the table of scores: the explained class of each image, its probability, the data's class."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from dre.metrics import ScoreTable
from dre.models.class_names import names_of
from dre.reporting.cells import class_text
from dre.types import Explained

KIND, FACTS = "class", ("target", "probability", "label", "correct")

CLASS_COLUMNS = ("target", "target_name", "probability", "label", "correct")
"""Columns that `with_classes` adds; `scores.parquet` of earlier versions has none of them."""


def class_table() -> ScoreTable:
    """Return a table of one row an image, which merges and is saved as that of the scores."""
    return ScoreTable([KIND], FACTS)


def note_classes(table: ScoreTable, outputs: Explained) -> None:
    """Add what a test step says of the classes of its images, if it does: a fact that there is not is NaN."""
    if "probability" not in outputs or "correct" not in outputs:
        return
    unknown = outputs["probability"].isnan()
    facts = {
        "target": outputs["targets"].masked_fill(unknown, -1),
        "probability": outputs["probability"],
        "label": outputs["labels"],
        "correct": outputs["correct"],
    }
    for name, values in facts.items():
        table.update(outputs["key"], KIND, name, values.double().masked_fill(values < 0, torch.nan))


def with_classes(frame: pd.DataFrame, facts: pd.DataFrame, class_names: Sequence[str] | None) -> pd.DataFrame:
    """Add the class columns to a table of scores, one value for each image.

    - `target`: the explained class, an index; missing where the logits were not finite, so nothing was explained.
    - `target_name`: its name, a category; the index as text where the classifier has no name.
    - `probability`: of that class, float64.
    - `label`: the class that the data name; missing where they name none.
    - `correct`: whether the classifier's prediction is that class; missing where they name none of the classifier's.

    Args:
        frame: As `ScoreTable.to_frame` returns it.
        facts: Of what `note_classes` filled, as `ScoreTable.by_key` returns it.
        class_names: Of the classifier, by index.
    """
    facts = facts.reindex(frame["key"].cat.categories)
    rows = frame["key"].cat.codes.to_numpy()
    targets = facts["target"].fillna(-1).astype(int)
    codes, known = pd.factorize(np.array(names_of(targets, class_names), dtype=object))
    if (targets < 0).any():
        nothing = known.tolist().index("")
        codes, known = np.where(codes == nothing, -1, codes - (codes > nothing)), np.delete(known, nothing)
    codes = codes.astype(np.min_scalar_type(-max(len(known), 1)))
    return frame.assign(
        target=_whole(facts["target"], "Int32", rows),
        target_name=pd.Categorical.from_codes(codes[rows], categories=known),
        probability=facts["probability"].to_numpy()[rows],
        label=_whole(facts["label"], "Int32", rows),
        correct=_whole(facts["correct"], "boolean", rows),
    )


def class_of(outputs: Explained, row: int) -> dict[str, Any]:
    """Return what a test step says of the class of one image: `target`, `probability` and `correct`, or nothing."""
    if "target_names" not in outputs or not outputs["target_names"][row]:
        return {}
    correct = int(outputs["correct"][row])
    found = {"target": outputs["target_names"][row], "probability": float(outputs["probability"][row])}
    return found | {"correct": bool(correct) if correct >= 0 else None}


def class_caption(outputs: Explained, row: int) -> str:
    """Return the lines of `class_text` for one image; nothing where the step does not say its class."""
    found = class_of(outputs, row)
    return "\n".join(class_text(*found.values())) if found else ""


def _whole(facts: pd.Series, kind: Any, rows: np.ndarray) -> Any:
    """Return whole numbers or claims, one of each image, at the rows of a table; NaN is missing."""
    return facts.astype(kind).array[rows]
