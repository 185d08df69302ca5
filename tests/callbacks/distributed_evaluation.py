"""One rank of an evaluation for tests of ranks: writes scores, distances between maps and cost."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from callbacks import ExplanationCost, ExplanationMetrics, MapDistances
from dre.metrics import ClassSensitivity, Faithfulness, MapMixtures
from tests.callbacks.evaluation import small_evaluation
from tests.networks import small_classifier
from tests.training import quiet_trainer, small_data

MODEL = MapMixtures(components=4)


def compared() -> MapDistances:
    return MapDistances(comparisons=["kullback_leibler", "structural_similarity"], model=MODEL)


def robust() -> dict[str, Any]:
    """Give options of an evaluation with a second classifier and maps of another class."""
    metrics = {"transfer": Faithfulness(4, by="transfer"), "class_sensitivity": ClassSensitivity()}
    return {"metrics": metrics, "transfer": small_classifier(size=(48, 48), seed=1)}


def main(
    root: Path, out: Path, batch_size: int = 4, cache: str | None = None, make: Callable[[], dict[str, Any]] = dict
) -> None:
    out.mkdir(parents=True, exist_ok=True)
    callbacks = [ExplanationMetrics(show=False), ExplanationCost(), compared()]
    devices = int(os.environ["LOCAL_WORLD_SIZE"])
    trainer = quiet_trainer(out, callbacks=callbacks, devices=devices, strategy="ddp")
    trainer.test(small_evaluation(cache=cache, **make()), small_data(root, eval_batch_size=batch_size), verbose=False)
