"""One rank of an evaluation that tests start with torchrun: score the explainers and write the table."""

import os
import sys
from pathlib import Path

from callbacks import ExplanationMetrics
from tests.callbacks.evaluation import small_evaluation
from tests.training import quiet_trainer, small_data


def main(root: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    devices = int(os.environ["LOCAL_WORLD_SIZE"])
    trainer = quiet_trainer(out, callbacks=[ExplanationMetrics(show=False)], devices=devices, strategy="ddp")
    trainer.test(small_evaluation(), small_data(root, eval_batch_size=4), verbose=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
