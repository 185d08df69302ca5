"""Options of the loggers of a run, and the loggers that they ask for."""

from pathlib import Path
from typing import Literal

from jsonargparse import Namespace
from pytorch_lightning.cli import LightningArgumentParser
from pytorch_lightning.loggers import Logger
from pytorch_lightning.loggers.logger import DummyLogger
from pytorch_lightning.utilities import rank_zero_warn

from dre.runs.loggers import LoggedRun, chosen_loggers, csv_logger, tensorboard_logger
from dre.runs.mlflow_run import mlflow_logger
from dre.runs.process import mask_credentials
from dre.runs.wandb_run import wandb_logger, wandb_mode

WandbMode = Literal["auto", "online", "offline", "off"]


def add_logger_options(parser: LightningArgumentParser) -> None:
    """Add `--logger` and the options of W&B."""
    parser.add_argument(
        "--logger",
        type=str | list[str],
        default="wandb",
        help="wandb, tensorboard, mlflow, csv, or several with commas between them; 'none' writes no metrics.csv.",
    )
    parser.add_argument(
        "--wandb",
        type=WandbMode,
        default="auto",
        help="'auto' is what WANDB_MODE or WANDB_DISABLED say, or else online with a W&B key and offline without.",
    )
    parser.add_argument("--wandb_project", type=str, default="dre", help="Project on W&B, experiment of MLflow.")
    parser.add_argument("--wandb_entity", type=str | None, default=None, help="Team or user on W&B; your default.")


def make_loggers(config: Namespace, run: LoggedRun) -> list[Logger]:
    """Return the loggers that `--logger` names, W&B as `--wandb` says; beside any there is metrics.csv.

    Args:
        config: With `logger` and `wandb`.
        run: What the loggers are told.
    """
    names = chosen_loggers(config.logger)
    if not names:
        return [DummyLogger()]
    loggers = [csv_logger(run, has_tables="csv" in names)]
    if "tensorboard" in names:
        loggers.append(tensorboard_logger(run))
    if "mlflow" in names and (to_mlflow := mlflow_logger(run)) is not None:
        loggers.append(to_mlflow)
    if "wandb" not in names:
        if config.wandb in ("online", "offline"):
            rank_zero_warn(f"--wandb {config.wandb} does nothing: --logger {','.join(names)} has no wandb")
        return loggers
    mode = wandb_mode() if config.wandb == "auto" else config.wandb
    return loggers if mode == "off" else [*loggers, wandb_logger(mode, run)]


def tags_of(config: Namespace) -> list[str]:
    """Return the network and the data of a run, as tags for filters."""
    model, root = config.model, config.data.init_args.get("root")
    name = model.classifier.init_args.get("name") if "classifier" in model else model.get("name")
    roots = root if isinstance(root, list) else [root] if root else []
    smoke = ["smoke"] if config.smoke else []
    return [str(tag) for tag in (name, *(Path(mask_credentials(one)).name for one in roots), *smoke) if tag]
