"""One rank of an evaluation with studies, for tests with torchrun."""

import os
from pathlib import Path

from callbacks import BackgroundReplacement, JpegStability, NoiseStability, SaliencyPanel, WeightPerturbation
from tests.callbacks.studies.conditions import evaluation
from tests.training import quiet_trainer, small_data


def main(root: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    studies = [
        WeightPerturbation(images=5, levels=[0.0, 1.0]),
        BackgroundReplacement(images=1),  # a rank is left without any
        JpegStability(images=5),
        NoiseStability(images=5, draws=2),
        SaliencyPanel(images=4),
    ]
    devices = int(os.environ["LOCAL_WORLD_SIZE"])
    trainer = quiet_trainer(out, callbacks=studies, devices=devices, strategy="ddp")
    trainer.test(evaluation(), small_data(root, eval_batch_size=4), verbose=False)
