"""Run directories: one for each run, never overwritten, with a record of configuration, command and versions."""

import hashlib
import json
import platform
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

from dre.models.checkpoint_files import LAST, files_within, steps_of
from dre.models.packed import PACKAGE, SHIPPED
from dre.runs.locks import lock_of, locked, read_json, write_json
from dre.runs.process import commit, mask_credentials, own_version
from dre.runs.results import SAVED, run_file_name

RECORD = "run.json"
LOCK = lock_of(Path(RECORD)).name
"""File that is there while a process works on a run."""

MADE = "made.json"
"""Record of charts that do not lie in a run directory."""

PROGRESS = "progress"
"""Folder in the directory of an unfinished evaluation, with a file of each process that worked on it."""

CHECKPOINT = LAST
DEFAULT_TRAINING = Path("configs/train/demo.yaml")
LOADING = ("workers", "verify", "eval_batch_size", "on_error")
RECORDED_PACKAGES = ("torch", "torchvision", "pytorch-lightning", "torchmetrics", "timm", "webdataset", "wandb")

SavedConfig = Callable[[Path], Mapping[str, Any]]
"""From the configuration that a run saved to its plain values."""


def new_directory(family: Path) -> Path:
    """Create the next numbered directory under `family`: 001, 002, ...; safe against a run that starts meanwhile."""
    family.mkdir(parents=True, exist_ok=True)
    taken = [int(path.name) for path in family.iterdir() if path.name.isdigit()]
    number = max(taken, default=0) + 1
    while True:
        directory = family / f"{number:03d}"
        try:
            directory.mkdir()
        except FileExistsError:
            number += 1
        else:
            return directory


@contextmanager
def not_left_bare(directory: Path) -> Iterator[None]:
    """Remove a run directory after an error if it holds nothing but the configuration and the record."""
    try:
        yield
    except Exception:
        if directory.is_dir() and {path.name for path in directory.iterdir()} <= {SAVED, RECORD, LOCK}:
            shutil.rmtree(directory)
        raise


def config_hash(config: Mapping[str, Any], masks: bool = True) -> str:
    """Hash the sections that the results of a run depend on: model, data and seed, without how the data are loaded.

    Credentials in it are masked, since they change; runs before 0.3 hashed them, as `masks` says.

    Of a cache of maps it counts whether there is one, which rounds them, and not where.

    Example:
        >>> base = {"model": {"steps": 64}, "data": {}, "seed_everything": 0}
        >>> config_hash(base) == config_hash(base | {"trainer": {"devices": 8}})
        True
        >>> config_hash(base) == config_hash(base | {"seed_everything": 1})
        False
    """
    relevant = {key: config[key] for key in ("model", "data", "seed_everything") if key in config}
    if isinstance(relevant.get("model"), dict):
        model = {key: value for key, value in relevant["model"].items() if key != "on_error"}
        relevant["model"] = model | ({"cache": model["cache"] is not None} if "cache" in model else {})
    if isinstance(relevant.get("data"), dict) and "init_args" in relevant["data"]:
        settings = relevant["data"]["init_args"]
        settings = {key: value for key, value in settings.items() if key not in LOADING}
        relevant["data"] = {**relevant["data"], "init_args": settings}
    text = json.dumps(mask_credentials(relevant) if masks else relevant, sort_keys=True, default=_named)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _named(value: object) -> str:
    """Convert a value that JSON cannot hold to text: a function by its name, whose address differs in each process."""
    name = getattr(value, "__qualname__", None)
    return str(value) if name is None else f"{getattr(value, '__module__', '')}.{name}"


def file_hash(path: Path) -> str:
    """Return the sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def unfinished_config(directory: Path) -> Path:
    """Return the path of the configuration of a run that was interrupted.

    Raises:
        FileNotFoundError: It is no directory of a run.
        ValueError: The run is finished.
    """
    config = directory / SAVED
    if not config.is_file():
        raise FileNotFoundError(f"--resume {directory} is no directory of a run: it has no config.yaml")
    if (directory / "summary.json").is_file() and not (directory / PROGRESS).is_dir():
        raise ValueError(f"the run in {directory} is finished: there is nothing to resume")
    return config


@contextmanager
def alone_in(directory: Path) -> Iterator[None]:
    """Hold the lock of a run directory, which lies beside its record.

    Raises:
        ValueError: Another process holds it.
    """
    try:
        with locked(directory / RECORD, wait=False):
            yield
    except BlockingIOError:
        raise ValueError(
            f"another process works on the run in {directory}; wait for its end, or start a run of its own"
        ) from None


def is_same_config(directory: Path, config: Mapping[str, Any], saved: SavedConfig | None = None) -> bool:
    """Return whether a run was started with this configuration of model, data and seed.

    Args:
        directory: Of the run.
        config: Resolved.
        saved: Reads the configuration that a run saved, in present names: hashes of 0.1 are of the old ones.
    """
    try:
        record = read_record(directory)
    except (FileNotFoundError, ValueError):  # of a run that was killed when it began
        record = {}
    if record.get("config_hash") in (config_hash(config), config_hash(config, masks=False)):
        return True
    is_of_before = "version" not in record and (directory / SAVED).is_file()
    return is_of_before and saved is not None and config_hash(saved(directory / SAVED)) == config_hash(config)


def check_same_run(
    directory: Path,
    config: Mapping[str, Any],
    checkpoints: Mapping[str, str],
    saved: SavedConfig | None = None,
) -> None:
    """Check that a run can be continued in its directory.

    Args:
        directory: Of the run.
        config: Resolved.
        checkpoints: Their sha256, by their use.
        saved: See `is_same_config`.

    Raises:
        FileNotFoundError: It is no directory of a run.
        ValueError: The run is finished, or its configuration or the content of a checkpoint differs.
    """
    unfinished_config(directory)
    record = read_record(directory)
    if not is_same_config(directory, config, saved):
        raise ValueError(
            f"the run in {directory} has another configuration of model, data or seed; leave out what changes it, or "
            "start a run of its own without --resume"
        )
    known = record.get("checkpoints") or {}
    changed = [name for name, found in checkpoints.items() if known.get(name) != found]
    if changed:
        raise ValueError(
            f"the checkpoint of {changed[0]} has changed since the run in {directory} began; start a run of its own"
        )


def name_of(files: Sequence[Path], config: Mapping[str, Any]) -> str:
    """Return the name of the last run file; a configuration that a run saved has the name of that run's file."""
    if files and files[-1].name != SAVED:
        return files[-1].stem
    is_saved = bool(files) and (files[-1].parent / RECORD).is_file()
    return run_file_name(read_record(files[-1].parent) if is_saved else {}, config)


def write_record(
    directory: Path,
    config: Mapping[str, Any],
    parent: str | None,
    checkpoints: Mapping[str, str] | None = None,
    job: str | None = None,
    files: Sequence[Path] = (),
) -> None:
    """Write run.json: time, command, run file, parent, checkpoints and versions.

    Args:
        directory: Of the run.
        config: Resolved.
        parent: Checkpoint that it continues from.
        checkpoints: Their sha256, by their use.
        job: Name of the launcher's job.
        files: Run files given as --config.
    """
    record = provenance() | {
        "run_file": name_of(files, config),
        "config_hash": config_hash(config),
        "parent": parent,
        "checkpoints": dict(checkpoints or {}),
        "job": job,
    }
    write_json(directory / RECORD, record)


def provenance(command: Sequence[str] | None = None) -> dict[str, Any]:
    """Return time, command, commit and versions of this process.

    Args:
        command: Words after `python`; by default those that the process was started with.
    """
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", *mask_credentials(list(sys.argv if command is None else command))]),
        "version": own_version(),
        "commit": commit(),
        "python": platform.python_version(),
        "packages": {package: version(package) for package in RECORDED_PACKAGES},
    }


def read_record(directory: Path) -> dict[str, Any]:
    """Return the content of run.json.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is empty, or no record.
    """
    path = directory / RECORD
    if not path.is_file():
        raise FileNotFoundError(f"{directory} has no {RECORD}: its run ended before it began; start a new run")
    return read_json(path)


def amend_record(directory: Path, facts: Mapping[str, Any]) -> None:
    """Add facts to run.json."""
    write_json(directory / RECORD, read_record(directory) | dict(facts))


def newest_checkpoint(
    family: Path,
    config: Mapping[str, Any] | None = None,
    job: str | None = None,
    saved: SavedConfig | None = None,
) -> Path:
    """Return the newest last.ckpt below `family`; of a configuration the one that reached the most steps.

    Args:
        family: A directory of runs, a run directory, a file, or "package", the one that ships.
        config: The resolved configuration that the run must have been started with.
        job: That of the launcher that it must have been started by; any when not given.
        saved: See `is_same_config`.

    Raises:
        FileNotFoundError: There is none.
    """
    if str(family) == PACKAGE or family.is_file():
        return SHIPPED if str(family) == PACKAGE else family
    found = files_within(family)
    if config is None and found:
        return found[0]
    runs = {path: path.parent.parent for path in found}
    same = [path for path, run in runs.items() if is_same_config(run, config or {}, saved)]
    if same := [path for path in same if job in (None, read_record(runs[path]).get("job"))]:
        return max(same, key=steps_of)  # of equal ones the newest, which comes first
    if found:
        raise FileNotFoundError(
            f"no run under {family} has this configuration (the newest, {found[0].parent.parent}, differs in model, "
            "data or seed); give its file as --ckpt_path to resume it nevertheless"
        )
    raise FileNotFoundError(f"no checkpoint under {family}; {_training_of(family)}")


def _training_of(family: Path) -> str:
    """Return how to train the missing checkpoint: by the run file of its name, where there is one."""
    *_, name = [part for folder, part in pairwise(family.parts) if folder == "runs"] or [DEFAULT_TRAINING.stem]
    recipe = DEFAULT_TRAINING.with_name(f"{name}.yaml")
    if not recipe.is_file() and name != DEFAULT_TRAINING.stem:
        return f"no run file trains {name} by itself: see the head of the one that asks for it"
    command = "" if recipe == DEFAULT_TRAINING else f" --config {recipe}"
    return f"`python train.py{command}` trains one"
