"""What each explainer cost: passes, time and memory of an image, merged over the ranks."""

import json
from pathlib import Path
from typing import Any, Protocol, cast

import pytorch_lightning as pl
import torch

from dre.metering import Meter, Tally


class Metered(Protocol):
    """What is asked of the evaluation module."""

    meters: dict[str, Meter]


class ExplanationCost(pl.Callback):
    """Write `cost.json` during `Trainer.test` and log `test/EXPLAINER/milliseconds` and `.../forwards`.

    Time depends on the machine and on what else it does; passes do not.
    """

    def progress(self, pl_module: pl.LightningModule) -> dict[str, Any]:
        """See `callbacks.resume.Resumable`."""
        return {name: meter.tally.values() for name, meter in cast(Metered, pl_module).meters.items()}

    def resume(self, pl_module: pl.LightningModule, progress: dict[str, Any]) -> None:
        """See `callbacks.resume.Resumable`."""
        for name, meter in cast(Metered, pl_module).meters.items():
            both = torch.tensor([meter.tally.values(), progress[name]], dtype=torch.float64)
            meter.tally = Tally.merged(both)

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Merge on every rank, write on the first."""
        meters = cast(Metered, pl_module).meters
        own = torch.tensor([meter.tally.values() for meter in meters.values()], dtype=torch.float64)
        ranks = cast(torch.Tensor, pl_module.all_gather(own.to(pl_module.device)))
        ranks = ranks.reshape(-1, *own.shape)  # alone there is no axis of ranks
        merged = {name: Tally.merged(ranks[:, place]).summary() for place, name in enumerate(meters)}
        for name, cost in merged.items():
            for kind in ("milliseconds", "forwards"):
                value = cost[kind]
                if value is not None:
                    pl_module.log(f"test/{name}/{kind}", value)
        if trainer.is_global_zero:
            path = Path(trainer.default_root_dir) / "cost.json"
            path.write_text(json.dumps(merged, indent=2) + "\n")
