"""Loggers of a run: W&B, TensorBoard, MLflow and CSV by name, none of which stops a run when it fails."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from weakref import WeakSet

import pytorch_lightning as pl
from lightning_fabric.loggers.logger import rank_zero_experiment
from pytorch_lightning.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger
from pytorch_lightning.loggers.logger import DummyLogger
from pytorch_lightning.utilities import rank_zero_only, rank_zero_warn

from dre.runs.directory import RECORD, amend_record, is_same_config, read_record
from dre.runs.process import mask_credentials

NAMES = ("wandb", "tensorboard", "mlflow", "csv")
NONE = "none"
"""Stands alone for no logger at all, not even metrics.csv."""

PACKAGES = {"wandb": ("wandb",), "tensorboard": ("tensorboard", "tensorboardX"), "mlflow": ("mlflow",), "csv": ()}
"""Packages of which each logger needs one."""

LOGGERS = "loggers"
"""Key of run.json under which loggers record the run that they began, so that a resumed run continues it."""

_failed: WeakSet[Logger] = WeakSet()


@dataclass(frozen=True, slots=True)
class LoggedRun:
    """Hold what loggers are told of a run.

    Args:
        directory: Of the run.
        group: Its name, which several runs share.
        project: On W&B, and the experiment of MLflow.
        entity: Team or user on W&B.
        job_type: Family of the run: `runs` or `results`.
        tags: Network, data and `smoke`.
        config: Nested plain values without credentials.
        continued: What the loggers of the run that is resumed recorded, by logger.
    """

    directory: Path
    group: str
    project: str
    job_type: str
    entity: str | None = None
    tags: Sequence[str] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    continued: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """Return the name of the run for people: `NAME-NUMBER`."""
        return f"{self.group}-{self.directory.name}"


def chosen_loggers(given: str | Sequence[str]) -> list[str]:
    """Return the names of loggers, each once, in the order given; nothing for `none`.

    Args:
        given: Names, as a list or in one text with commas.

    Raises:
        ValueError: A name is unknown, or `none` has company.

    Example:
        >>> chosen_loggers("csv,tensorboard"), chosen_loggers(["wandb", "wandb"]), chosen_loggers("none")
        (['csv', 'tensorboard'], ['wandb'], [])
    """
    words = given.split(",") if isinstance(given, str) else given
    names = list(dict.fromkeys(name for word in words if (name := word.strip().lower())))
    known = f"{', '.join(NAMES)}, several with commas between them, or {NONE}"
    for name in names:
        if name not in (*NAMES, NONE):
            raise ValueError(f"--logger knows no {name!r}; choose {known}")
    if not names or (NONE in names and len(names) > 1):
        raise ValueError(f"--logger takes {known}, got {','.join(words)!r}")
    return [] if names == [NONE] else names


def check_packages(names: Sequence[str]) -> None:
    """Refuse loggers that cannot be built, before anything runs.

    Raises:
        ValueError: The package of one is not installed; the message has the command that installs it.
    """
    for name in names:
        if PACKAGES[name] and not any(find_spec(package) for package in PACKAGES[name]):
            raise ValueError(
                f'--logger {name} needs the package {PACKAGES[name][0]}: pip install -c constraints.txt -e ".[{name}]"'
            )


def attempt(logger: Logger, action: Callable[[], object]) -> None:
    """Call what writes to a logger; after an error of any kind say so once, and write no more to this logger."""
    if logger in _failed:
        return
    try:
        action()
    except Exception as error:  # of any kind: no logger is worth a training
        _failed.add(logger)
        rank_zero_warn(
            f"{type(logger).__name__} failed ({reason_of(error)}): nothing more is logged there, and the run goes on"
        )


def reason_of(error: Exception) -> str:
    """Return the first line of an error, without credentials."""
    return str(mask_credentials((str(error).strip() or type(error).__name__).splitlines()[0]))


class GuardedLogger(Logger):
    """Write to the logger that a subclass names second, until it fails: nothing that it does stops a run."""

    def begin(self) -> Any:
        """Return the object that the logger writes to, which may be made now; errors are the caller's."""
        return super().experiment  # type: ignore[misc]

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """Return what `begin` does, and one that does nothing after a failure."""
        found: list[Any] = []
        attempt(self, lambda: found.append(self.begin()))
        return found[0] if found else DummyLogger().experiment

    @rank_zero_only
    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        """Log numbers by name."""
        attempt(self, lambda: super(GuardedLogger, self).log_metrics(metrics, step))  # type: ignore[safe-super]

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Log the configuration."""
        attempt(self, lambda: super(GuardedLogger, self).log_hyperparams(params, *args, **kwargs))  # type: ignore[safe-super]

    @rank_zero_only
    def save(self) -> None:
        """Write what is held back."""
        attempt(self, super().save)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write what is held back, and end."""
        attempt(self, lambda: super(GuardedLogger, self).finalize(status))


class GuardedCSVLogger(GuardedLogger, CSVLogger):  # type: ignore[misc]
    """Write metrics.csv.

    Args:
        save_dir: Folder of the file.
        has_tables: Whether tables and drawn pictures become files, too.
        options: Of Lightning's logger.
    """

    def __init__(self, save_dir: Path, has_tables: bool = False, **options: Any) -> None:
        super().__init__(save_dir, **options)
        self.has_tables = has_tables


class GuardedTensorBoardLogger(GuardedLogger, TensorBoardLogger):
    """Write event files for TensorBoard."""


def csv_logger(run: LoggedRun, has_tables: bool) -> Logger:
    """Return the logger to metrics.csv in the run directory."""
    return GuardedCSVLogger(run.directory, has_tables, name="", version="")


def tensorboard_logger(run: LoggedRun) -> Logger:
    """Return a logger to event files in the folder `tensorboard` of the run directory."""
    return GuardedTensorBoardLogger(run.directory, name="tensorboard", version="")


def recorded(directory: Path) -> dict[str, dict[str, Any]]:
    """Return what the loggers of a run recorded of theirs, by logger; nothing of a directory without such a record."""
    try:
        known = read_record(directory).get(LOGGERS)
    except (FileNotFoundError, ValueError):
        return {}
    entries = known if isinstance(known, dict) else {}
    return {name: entry for name, entry in entries.items() if isinstance(entry, dict)}


def note(directory: Path, logger: str, facts: Mapping[str, Any]) -> None:
    """Record in run.json which run a logger has begun, where a command line made one."""
    if (directory / RECORD).is_file():
        amend_record(directory, {LOGGERS: {**recorded(directory), logger: dict(facts)}})


def loggers_to_continue(directory: Path, config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return what the loggers of a run recorded, if its configuration of model, data and seed is this one."""
    known = {name: entry for name, entry in recorded(directory).items() if _is_id(entry.get("id"))}
    return known if known and is_same_config(directory, config) else {}


def _is_id(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 64 and value.replace("-", "").replace("_", "").isalnum()


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested values by dotted keys, as the configuration on W&B has them.

    Example:
        >>> flat({"model": {"eta": 1.5, "fills": ["blur"]}, "name": "demo"})
        {'model.eta': 1.5, 'model.fills': "['blur']", 'name': 'demo'}
    """
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value if isinstance(value, str | int | float) else str(value)
    return found


class HyperParameters(pl.Callback):
    """Log the configuration of a run to TensorBoard and MLflow when it begins; W&B has it from its own start.

    Args:
        config: Nested plain values without credentials.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = flat(config)
        self._is_logged = False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Log on the first rank, once."""
        if self._is_logged or not trainer.is_global_zero:
            return
        self._is_logged = True
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger | MLFlowLogger):
                logger.log_hyperparams(self.config)
