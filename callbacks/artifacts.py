"""Hand the checkpoint to W&B, so that the run holds what its curves describe."""

from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities import rank_zero_warn


class CheckpointArtifact(pl.Callback):
    """Log `checkpoints/last.ckpt` as the artifact `RUN-checkpoint` when training ends; without W&B it does nothing.

    List it after the callback that writes the checkpoint.
    """

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log on the first rank."""
        loggers = [logger for logger in trainer.loggers if isinstance(logger, WandbLogger)]
        if not loggers or not trainer.is_global_zero:
            return
        import wandb

        path = Path(trainer.default_root_dir) / "checkpoints" / "last.ckpt"
        if not path.is_file():
            rank_zero_warn(f"no checkpoint at {path} to log; list CheckpointArtifact after RunCheckpoints")
            return
        for logger in loggers:
            name = f"{logger.experiment.name}-checkpoint"
            facts = {"epoch": trainer.current_epoch, "step": trainer.global_step}
            artifact = wandb.Artifact(name, type="model", metadata=facts)
            artifact.add_file(str(path), policy="immutable")  # the file stays where it is: no copy in W&B's staging
            logger.experiment.log_artifact(artifact)
