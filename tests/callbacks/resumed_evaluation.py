"""One rank of an evaluation that tests interrupt, started with torchrun."""

import os
import sys
from pathlib import Path

from tests.callbacks.test_resume import evaluate
from tests.training import small_data


def main(root: Path, out: Path, fail_at: int | None) -> None:
    devices = int(os.environ["LOCAL_WORLD_SIZE"])
    evaluate(out, small_data(root, eval_batch_size=4), fail_at, devices=devices, strategy="ddp")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), None if sys.argv[3] == "never" else int(sys.argv[3]))
