"""Tables of scores to compare: those of a DataFrame or of a run, checked, with what is known of how they were made."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd
import yaml

from dre.evaluation.objects import annotated_by
from dre.runs.results import RunResults

PRECISION = "sweep_precision"
"""Column of `scores.parquet`, of runs whose masked images were not scored in float32, with the precision."""

BFLOAT16 = (
    "Masked images were scored in bfloat16 (`sweep_precision`), maps made in the run's own precision. On 8 demo "
    "photographs with EfficientNet-Lite0, at 10 areas, M_F x 100 of Grad-CAM moved by -0.2 and of an edge detector "
    "by -0.7 on average, that of single photographs by up to 2.5 (standard deviation 1.0). These scores do not belong "
    "into one table with scores in float32."
)
"""What reports of such runs warn of."""

NEEDED = ("key", "explainer", "metric", "value")

Scores: TypeAlias = pd.DataFrame | str | Path
"""A table of `dre.evaluate`, `scores.parquet` as a table, or the directory of a run of evaluate.py."""


@dataclass(frozen=True, slots=True)
class Side:
    """Hold one table of scores and what is known of how they were made.

    Args:
        frame: Columns key, explainer, metric and value at least.
        name: What messages and rows call it.
        directions: By metric, whether higher is better, as far as it is known.
        settings: By metric, how it was computed, as far as it is known.
        made_of: What else decides scores: classifier, weights, data.
        precision: In which masked images were scored.
    """

    frame: pd.DataFrame
    name: str
    directions: Mapping[str, bool | None] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    made_of: Mapping[str, str] = field(default_factory=dict)
    precision: str = "float32"


def side_of(scores: Scores, name: str) -> Side:
    """Read a table or the directory of a run.

    Raises:
        ValueError: It lacks a column, or is damaged.
        FileNotFoundError: There is no finished run in a directory.
    """
    if isinstance(scores, pd.DataFrame):
        known = {what: scores.attrs.get(what) or {} for what in ("higher_is_better", "settings", "made_of")}
        table, given = _tidy(scores, name), (known["higher_is_better"], known["settings"], known["made_of"])
        return Side(table, name, *given, precision_of(table, name))
    if not isinstance(scores, str | Path):
        raise TypeError(f"give a table of scores or the directory of a run, got {type(scores).__name__}")
    try:
        run = RunResults(Path(scores))
        model, table = run.config["model"], _tidy(run.scores, str(scores))
        classifier, data = (one.get("init_args") or {} for one in (model["classifier"], run.config["data"]))
        made_of = {
            "classifier": run.network,
            "weights": str(classifier.get("weights")),
            "data": str(data.get("val_root") or data.get("root")),
            "target": str(model.get("target")),
            "score": str(model.get("score")),
        }
    except (AttributeError, KeyError, TypeError, yaml.YAMLError) as error:
        said = " ".join(str(error).split())
        raise ValueError(
            f"{scores} is a damaged run: {type(error).__name__}, {said}; compare tables instead"
        ) from error
    directions, settings = run.summary.get("directions") or {}, dict(model.get("metrics") or {})
    annotations = run.summary.get("annotations") or {}
    if annotations and (objects := annotated_by(annotations)):
        settings |= {metric: f"{settings.get(metric)} by {objects}" for metric in annotations["metrics"]}
    return Side(table, run.place, directions, settings, made_of, precision_of(table, run.place))


def precision_of(frame: pd.DataFrame, name: str) -> str:
    """Return the precision in which the masked images of a table were scored.

    Raises:
        ValueError: There are two.
    """
    if PRECISION not in frame or frame.empty:
        return "float32"
    found = sorted(frame[PRECISION].fillna("float32").astype(str).unique())
    if len(found) > 1:
        raise ValueError(f"{name} mixes scores of masked images in {' and '.join(found)}; keep them in tables apart")
    return str(found[0])


def _tidy(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return a table whose names are texts, with one row for each value.

    Raises:
        ValueError: A column or a name is missing, or a value is there twice.
    """
    missing = [column for column in NEEDED if column not in frame]
    if missing:
        raise ValueError(f"a table of scores needs the columns {', '.join(NEEDED)}, and {name} has no {missing[0]!r}")
    lead = ["key", "explainer", "metric"]
    if frame[lead].isna().any(axis=None):
        raise ValueError(f"{name} has rows without a key, an explainer or a metric")
    if not pd.api.types.is_numeric_dtype(frame["value"]):
        raise ValueError(f"the values of {name} are no numbers, but {frame['value'].dtype}; convert that column")
    found = frame.astype(dict.fromkeys(lead, str))
    twice = found[found.duplicated(lead)]
    if len(twice):
        first = ", ".join(repr(twice.iloc[0][column]) for column in lead)
        raise ValueError(
            f"{name} has {len(twice)} values twice, the first of {first}; give each image a key of its own"
        )
    return found


def chosen(names: Sequence[str] | None, known: Sequence[str], what: str) -> list[str]:
    """Return those that are asked for, in that order; all that are known by default.

    Raises:
        ValueError: One is not known.
    """
    if names is None:
        return list(known)
    wanted = list(dict.fromkeys([names] if isinstance(names, str) else names))
    for name in wanted:
        if name not in known:
            raise ValueError(f"there is no {what} {name!r} to compare; there are {', '.join(known) or 'none'}")
    return wanted


def names_in(frame: pd.DataFrame, column: str) -> list[str]:
    """Return the different values of a column, in their order."""
    return [str(name) for name in frame[column].unique()]
