"""One rank of a mask training that tests start with torchrun: fit, then write validation and weights."""

import os
import sys
from pathlib import Path

import torch

from tests.training import quiet_trainer, small_data, small_training


def main(root: Path, out: Path, variant: str = "dre") -> None:
    out.mkdir(parents=True, exist_ok=True)
    nodes = int(os.environ["GROUP_WORLD_SIZE"])
    devices = int(os.environ["LOCAL_WORLD_SIZE"])
    options = {"devices": devices, "num_nodes": nodes, "strategy": "ddp"}
    model = small_training(variant=variant)
    data = small_data(root, batch_size=6)
    values = quiet_trainer(out, **options).validate(model, data, verbose=False)[0]
    trainer = quiet_trainer(out, **options)
    trainer.fit(model, small_data(root, batch_size=6))
    if trainer.is_global_zero:
        torch.save(values, out / "validation.pt")
    state = {name: value for name, value in model.estimator.named_parameters()}
    torch.save({name: value.detach() for name, value in state.items()}, out / f"rank{trainer.global_rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
