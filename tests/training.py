"""A small training set-up that tests share: a tiny classifier, generated photographs, a quiet trainer."""

import os
import subprocess
import sys
from pathlib import Path

import pytorch_lightning as pl

from data.datamodule import ShardDataModule
from dre.modules import MaskTraining
from dre.types import Preprocessing
from tests.data.trees import module
from tests.networks import small_classifier

PIXELS = Preprocessing(size=(64, 64), resize=64)


def small_training(**options) -> MaskTraining:
    pl.seed_everything(0, verbose=False)
    return MaskTraining(small_classifier(), **{"widths": [8, 8, 8], "embedding_epochs": 1} | options)


def small_data(root: Path, **options) -> ShardDataModule:
    return module(root, **{"preprocessing": PIXELS} | options)


def short_data(root: Path, **options) -> ShardDataModule:
    """Give the same with six validation photographs: to score all of them takes longer than to train."""
    return small_data(root, **{"limit": 6} | options)


def quiet_trainer(root: Path, **options) -> pl.Trainer:
    defaults = {
        "max_epochs": 2,
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": "callbacks" in options,
        "num_sanity_val_steps": 0,
        "inference_mode": False,
        "default_root_dir": str(root),
    }
    return pl.Trainer(**defaults | options)


class SaveEverywhere(pl.Callback):
    """Write a checkpoint after every batch and epoch, and when a run is broken off."""

    def __init__(self, folder):
        self.folder = folder

    def on_train_batch_end(self, trainer, *_):
        trainer.save_checkpoint(self.folder / f"batch_{trainer.global_step}.ckpt")

    def on_train_epoch_end(self, trainer, *_):
        trainer.save_checkpoint(self.folder / f"epoch_{trainer.global_step}.ckpt")

    def on_exception(self, trainer, *_):
        trainer.save_checkpoint(self.folder / "interrupted.ckpt")


def torchrun(
    words: list[str],
    ranks: int,
    *options: str,
    place: Path | None = None,
    **variables: str,
) -> subprocess.CompletedProcess:
    """Run a script on several ranks of this machine with torchrun; `variables` are of its environment."""
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={ranks}", *options, *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1]), **variables}
    return subprocess.run(command, env=environment, cwd=place, capture_output=True, text=True, timeout=300)
