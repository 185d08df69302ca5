"""Run directories made from a table of scores, for tests of code that reads finished evaluations."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from dre.statistics import summarise

DIRECTIONS = {"faithfulness": True, "explainability": True, "deletion_samp": False}


def score_frame(values: dict[tuple[str, str], list[float]]) -> pd.DataFrame:
    """Return a table of scores from the values of each explainer and metric, one for each image."""
    rows = [
        {"key": f"image_{place:03d}", "explainer": explainer, "metric": metric, "value": value}
        for (explainer, metric), found in values.items()
        for place, value in enumerate(found)
    ]
    return pd.DataFrame(rows)


def write_run(
    directory: Path,
    values: dict[tuple[str, str], list[float]],
    *,
    name: str = "dre_table3",
    network: str = "tf_efficientnet_lite0",
    data: str = "data/demo",
    explainers: dict[str, dict[str, Any]] | None = None,
    **config: Any,
) -> Path:
    """Write scores.parquet, summary.json, config.yaml and run.json; options of explainers by name."""
    directory.mkdir(parents=True)
    frame = score_frame(values)
    frame.to_parquet(directory / "scores.parquet")
    names = list(dict.fromkeys(explainer for explainer, _ in values))
    summary = summarise(frame, DIRECTIONS, order=names)
    (directory / "summary.json").write_text(json.dumps(summary))
    options = {one: {"class_path": "X", "init_args": (explainers or {}).get(one, {})} for one in names}
    content = {
        "name": name,
        "model": {"classifier": {"init_args": {"name": network, "weights": "package"}}, "explainers": options},
        "data": {"init_args": {"root": data}},
        **config,
    }
    (directory / "config.yaml").write_text(yaml.safe_dump(content))
    record = {"command": f"python evaluate.py --config configs/evaluate/{name}.yaml", "commit": "abc", "started": "1"}
    (directory / "run.json").write_text(json.dumps(record | {"packages": {"torch": "2"}, "left_out": {"mgnet": "no"}}))
    return directory
