"""One rank of a classifier training that tests start with torchrun: fit, then write validation and weights."""

import os
from pathlib import Path

import torch

from tests.classification import labelled_data, with_batch_norm
from tests.training import quiet_trainer


def main(root: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    options = {"devices": int(os.environ["LOCAL_WORLD_SIZE"]), "strategy": "ddp"}
    model = with_batch_norm(num_classes=6)
    data = labelled_data(root, model, batch_size=6)
    values = quiet_trainer(out, **options).validate(model, data, verbose=False)[0]
    trainer = quiet_trainer(out, **options)
    trainer.fit(model, labelled_data(root, model, batch_size=6))
    if trainer.is_global_zero:
        torch.save(values, out / "validation.pt")
    torch.save(model.evaluated.state_dict(), out / f"rank{trainer.global_rank}.pt")
