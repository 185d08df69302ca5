"""One rank of an evaluation for tests of ranks: writes scores, distances between maps and cost."""

import os
from pathlib import Path

from callbacks import ExplanationCost, ExplanationMetrics, MapDistances
from dre.metrics import MapMixtures
from tests.callbacks.evaluation import small_evaluation
from tests.training import quiet_trainer, small_data

MODEL = MapMixtures(components=4)


def compared() -> MapDistances:
    return MapDistances(comparisons=["kullback_leibler", "structural_similarity"], model=MODEL)


def main(root: Path, out: Path, batch_size: int = 4, cache: str | None = None) -> None:
    out.mkdir(parents=True, exist_ok=True)
    callbacks = [ExplanationMetrics(show=False), ExplanationCost(), compared()]
    devices = int(os.environ["LOCAL_WORLD_SIZE"])
    trainer = quiet_trainer(out, callbacks=callbacks, devices=devices, strategy="ddp")
    trainer.test(small_evaluation(cache=cache), small_data(root, eval_batch_size=batch_size), verbose=False)
