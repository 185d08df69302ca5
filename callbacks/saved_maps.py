"""Saved maps: the saliency maps of an evaluation as .npz files, which `dre.explainers.Precomputed` reads again."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from dre.images.map_files import file_name, write_map
from dre.runs.locks import replacing
from dre.types import Batch, Explained


class SavedMaps(pl.Callback):
    """Write every map as it is made, float32, with the class that it explains: DIRECTORY/EXPLAINER/KEY.npz.

    Keys are percent-encoded, a map that is not finite is one of NaN, and files of an earlier run are replaced. Each
    rank writes the maps of its images.

    Args:
        directory: Of the maps; `maps` in the directory of the run when not given.

    Raises:
        ValueError: It is a file, or nothing.
    """

    def __init__(self, directory: str | None = None) -> None:
        self.directory = directory
        if directory is not None and not directory.strip():
            raise ValueError("`directory` of the maps is empty; name a folder, or leave it out for one in the run's")
        if directory is not None and Path(directory).expanduser().is_file():
            raise ValueError(f"`directory` of the maps is a file, {directory}; name a folder")

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Explained | None,  # type: ignore[override]  # what the evaluation returns
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write the maps of a batch."""
        if outputs is None:
            return
        root = Path(trainer.default_root_dir) / "maps" if self.directory is None else Path(self.directory).expanduser()
        targets: list[Any] = outputs["targets"].tolist()
        for name, saliency in outputs["saliency"].items():
            (root / name).mkdir(parents=True, exist_ok=True)
            whole = saliency.masked_fill(outputs["broken"][name][:, None, None, None], torch.nan).float().cpu().numpy()
            for key, values, target in zip(outputs["key"], whole, targets, strict=True):
                with replacing(root / name / file_name(key)) as part:
                    write_map(part, values[0], target)
