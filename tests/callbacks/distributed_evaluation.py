"""One rank of an evaluation that tests start with torchrun: score the explainers, compare their maps, write both."""

import os
import sys
from pathlib import Path

from callbacks import ExplanationMetrics, MapDistances
from dre.metrics import MapMixtures
from tests.callbacks.evaluation import small_evaluation
from tests.training import quiet_trainer, small_data

MODEL = MapMixtures(components=4)


def compared() -> MapDistances:
    return MapDistances(comparisons=["kullback_leibler", "structural_similarity"], model=MODEL)


def main(root: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    devices = int(os.environ["LOCAL_WORLD_SIZE"])
    callbacks = [ExplanationMetrics(show=False), compared()]
    trainer = quiet_trainer(out, callbacks=callbacks, devices=devices, strategy="ddp")
    trainer.test(small_evaluation(), small_data(root, eval_batch_size=4), verbose=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
