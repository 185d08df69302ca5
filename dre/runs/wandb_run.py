"""W&B in a run: where it logs, what the environment decides, lineage, and a server that cannot be reached."""

import netrc
import os
import re
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlparse

import pytorch_lightning as pl
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities import rank_zero_info, rank_zero_only, rank_zero_warn

from dre.models.checkpoint_files import steps_of
from dre.runs.directory import RECORD
from dre.runs.loggers import GuardedLogger, LoggedRun, note, reason_of, recorded
from dre.runs.process import masked_arguments

NOT_DISABLED = ("", "0", "false", "no", "off")
"""Values of WANDB_DISABLED that disable nothing."""

MODES: dict[str, Literal["online", "offline"] | None] = {
    "": None,
    "online": "online",
    "run": "online",
    "shared": "online",
    "offline": "offline",
    "dryrun": "offline",
}
"""Values of WANDB_MODE beside `disabled`; `run` and `dryrun` are older names."""

CONNECT_SECONDS, FINISH_SECONDS = 30.0, 600.0
"""How long a run waits for the server of W&B when it begins, and when it ends."""


class MaskedWandbLogger(GuardedLogger, WandbLogger):
    """Log to W&B, which records the process's arguments too: without the credentials in them.

    The id of the run on W&B is recorded in the run directory.

    Args:
        run: Whose logger this is.
        options: Of Lightning's logger.
    """

    def __init__(self, run: LoggedRun, **options: Any) -> None:
        super().__init__(**options)
        self._run = run
        self._is_recorded = False

    def begin(self) -> Any:
        """Begin W&B's run, or continue that of the run that is resumed."""
        with masked_arguments():
            found = super().begin()
        if not self._is_recorded and rank_zero_only.rank == 0:  # type: ignore[attr-defined]
            self._is_recorded = True
            if isinstance(getattr(found, "id", None), str):
                place = {"project": self._run.project, "entity": self._run.entity}
                note(self._run.directory, "wandb", {"id": found.id, "name": str(found.name), **place})
        return found


def has_wandb_key() -> bool:
    """Return whether there is a W&B key, in the environment or where `wandb login` writes it."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc().authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def wandb_mode() -> Literal["online", "offline", "off"]:
    """Return how W&B is used where nothing was said: as WANDB_DISABLED and WANDB_MODE decide, or else by the key.

    Raises:
        ValueError: WANDB_MODE has a value that W&B does not know.
    """
    mode = os.environ.get("WANDB_MODE", "").strip().lower()
    if os.environ.get("WANDB_DISABLED", "").strip().lower() not in NOT_DISABLED or mode == "disabled":
        return "off"
    if mode not in MODES:
        raise ValueError(f"WANDB_MODE must be online, offline or disabled, got {mode!r}; unset it, or use --wandb off")
    if (named := MODES[mode]) is not None:
        return named
    if has_wandb_key():
        return "online"
    rank_zero_info("no W&B key: logging offline; `wandb login` or --wandb off changes that")
    return "offline"


def wandb_logger(mode: Literal["online", "offline"], run: LoggedRun) -> WandbLogger:
    """Return a logger to W&B, offline where the server cannot be reached or refuses the run.

    Args:
        mode: What is tried first.
        run: What W&B is told of the run.
    """
    before = run.continued.get("wandb", {})
    is_continued = (before.get("project"), before.get("entity")) == (run.project, run.entity)
    options: dict[str, Any] = {
        "run": run,
        "id": before.get("id") if is_continued and "WANDB_RUN_ID" not in os.environ else None,
        "name": str(before.get("name") or run.title) if is_continued else run.title,
        "project": run.project,
        "entity": run.entity,
        "save_dir": run.directory.resolve(),  # W&B's process may have started in another folder
        "config": dict(run.config),
        "group": run.group,
        "job_type": run.job_type,
        "tags": list(run.tags),
    }
    if mode == "online":
        import wandb

        seconds = {"init_timeout": CONNECT_SECONDS, "finish_timeout": FINISH_SECONDS}
        known = {name: value for name, value in seconds.items() if name in wandb.Settings.model_fields}
        online = MaskedWandbLogger(mode="online", settings=wandb.Settings(**known), **options)
        try:
            online.begin()  # on the first rank
            return online
        except Exception as error:  # of any kind: a server is not worth a training
            rank_zero_warn(
                f"W&B cannot be reached ({reason_of(error)}): logging offline; `wandb sync DIRECTORY` sends it later"
            )
    return MaskedWandbLogger(mode="offline", **options)


def artifact_name(run: str, kind: str) -> str:
    """Return the name of a run's artifact, of the letters that W&B admits.

    Example:
        >>> artifact_name("demo-001", "checkpoint"), artifact_name("my demo-001", "results")
        ('demo-001-checkpoint', 'my_demo-001-results')
    """
    return re.sub(r"[^\w.-]", "_", f"{run}-{kind}", flags=re.ASCII)


def checkpoint_artifact(run: str, path: Path) -> Any:
    """Return the artifact of a run's checkpoint: two of the same file have the same digest, and are one version."""
    import wandb

    artifact = wandb.Artifact(artifact_name(run, "checkpoint"), type="model", metadata={"step": steps_of(path)})
    artifact.add_file(str(path), policy="immutable")  # it stays where it is: no copy in W&B's staging
    return artifact


def alias_of(path: Path) -> str:
    """Return the alias of a checkpoint's version: `best` of best.ckpt, `latest` of any other."""
    return "best" if path.stem == "best" else "latest"


class WandbLineage(pl.Callback):
    """Say on W&B which checkpoints a run uses, as artifacts of the trainings that wrote them; else do nothing.

    Args:
        checkpoints: Files; those that lie in no run directory have no training to name.
    """

    def __init__(self, checkpoints: Sequence[Path]) -> None:
        self.checkpoints = list(dict.fromkeys(checkpoints))
        self._is_said = False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Say so on the first rank, once."""
        if self._is_said or not trainer.is_global_zero:
            return
        self._is_said = True
        used = {path: name for path in self.checkpoints if (name := training_of(path)) is not None}
        loggers = [logger for logger in trainer.loggers if isinstance(logger, WandbLogger)]
        for logger, (path, name) in product(loggers, used.items()):
            try:
                _use(logger.experiment, path, name)
            except Exception as error:  # of any kind: the rest is logged without it
                rank_zero_warn(f"W&B is not told that the run uses {path.name} of {name} ({reason_of(error)})")


def training_of(path: Path) -> str | None:
    """Return the name on W&B of the run that wrote a checkpoint; None where it lies in no run directory."""
    directory = path.resolve().parent.parent
    if path.parent.name != "checkpoints" or not path.is_file():
        return None
    if not (directory / RECORD).is_file():
        return None
    name = recorded(directory).get("wandb", {}).get("name")
    return str(name) if name else f"{directory.parent.name}-{directory.name}"


def _use(run: Any, path: Path, name: str) -> None:
    """Name a checkpoint as an input, by its content: runs that are offline and synchronised later are linked, too.

    `Run.use_artifact` refuses runs that are offline, waits for the server where they are not, and makes the version
    `latest`.
    """
    publish = getattr(getattr(run, "_interface", None), "publish_artifact", None)
    if publish is None:  # a run that is disabled, or another W&B
        return
    artifact = checkpoint_artifact(name, path)
    artifact.finalize()
    publish(run, artifact, [], is_user_created=True, use_after_commit=True)
