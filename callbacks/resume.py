"""Evaluation resume: write the progress of every rank to disk, and go on from it after a stop."""

import math
import time
import uuid
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
from pytorch_lightning.utilities.exceptions import SIGTERMException

from dre.checks import check_not_negative
from dre.models.weights import CHECKSUM_KEY, checksum, reason_of
from dre.runs.directory import PROGRESS
from dre.runs.locks import replacing
from dre.types import Batch, rows_of


@runtime_checkable
class Resumable(Protocol):
    """Describe a callback that can save what it has gathered from the images of this rank, and load it again."""

    def progress(self, pl_module: pl.LightningModule) -> dict[str, Any]:
        """Return tensors, numbers, strings, and lists and dicts of them."""

    def resume(self, pl_module: pl.LightningModule, progress: dict[str, Any]) -> None:
        """Add what `progress` returned on any rank of an earlier run."""


class EvaluationResume(pl.Callback):
    """Write down the progress of `Trainer.test`, and go on from what an earlier process left; list it last.

    After a batch every rank writes, into a file of its own under `progress/` of the run directory, which images it has
    seen and what the callbacks have gathered of them, at most for a twentieth of the time. What `kill -9` destroys is
    what came since. When the run starts again, with any number of ranks, each takes up some of the files; images that
    are in one of them are neither explained nor scored again. The files go when the run ends.

    Args:
        rest: Least time between two writings, as a multiple of what the last one took; 0 writes after every batch.

    Raises:
        ValueError: `rest` is negative.
    """

    def __init__(self, rest: float = 20.0) -> None:
        check_not_negative(rest=rest)
        self.rest = rest
        self.seen: set[str] = set()
        self.own: list[str] = []
        self.replaces: list[str] = []
        self.file = Path()
        self.resting_until = 0.0
        self.written, self.is_whole = 0, False

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take up what is there.

        Raises:
            ValueError: The run was broken off with other callbacks, or a file of its progress is damaged.
        """
        self.folder = Path(trainer.strategy.broadcast(trainer.default_root_dir)) / PROGRESS
        found = read_progress(self.folder)
        for content in found.values():
            check_callbacks(content["callbacks"], self._resumable(trainer), self.folder.parent)
        trainer.strategy.barrier("progress is read")  # before any rank replaces what another has to read
        self.seen = {key for content in found.values() for key in content["keys"]}
        mine = dict(sorted(found.items())[trainer.global_rank :: trainer.world_size])
        self.own = [key for content in mine.values() for key in content["keys"]]
        self.written, self.is_whole = len(self.own), True
        self.replaces, self.resting_until = list(mine), 0.0
        # names begin with the rank, so that what the first rank drew goes to the first
        self.file = self.folder / f"{trainer.global_rank:05d}-{uuid.uuid4().hex}.pt"
        for content in mine.values():
            for name, callback in self._resumable(trainer).items():
                self._take_up(callback, pl_module, content["callbacks"][name])
        if self.seen:
            rank_zero_info(f"going on: {len(self.seen)} images are done")

    def on_test_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Take images that are done out of the batch."""
        self.is_whole = False
        if self.seen.isdisjoint(batch["key"]):
            return
        left = [place for place, key in enumerate(batch["key"]) if key not in self.seen]
        for name, values in rows_of(batch, left).items():
            batch[name] = values  # type: ignore[literal-required]

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write, unless the last time was a moment ago."""
        self.own += batch["key"]
        self.is_whole = True
        start = time.perf_counter()
        if not batch["key"] or start < self.resting_until:
            return
        self._write(trainer, pl_module)
        end = time.perf_counter()
        self.resting_until = max(self.resting_until, end + self.rest * (end - start))

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Write what is known, where the run was told to stop between two batches."""
        if isinstance(exception, SIGTERMException) and trainer.testing and self.is_whole:
            self._write(trainer, pl_module)

    def _write(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the progress of this rank, unless it lies there already."""
        if len(self.own) == self.written:
            return
        self.resting_until, self.written = time.perf_counter(), len(self.own)
        callbacks = {name: one.progress(pl_module) for name, one in self._resumable(trainer).items()}
        try:
            write_progress(self.file, {"keys": self.own, "replaces": self.replaces, "callbacks": callbacks})
        except (OSError, RuntimeError) as error:  # torch.save says the latter of a full disk
            rank_zero_warn(f"cannot write to {self.folder}: {error}; the run goes on, and cannot be resumed after here")
            self.resting_until = math.inf

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget everything: the results are written."""
        trainer.strategy.barrier("results are written")
        if trainer.is_global_zero and self.folder.is_dir():
            for path in self.folder.iterdir():
                path.unlink()
            self.folder.rmdir()

    def _take_up(self, callback: Resumable, pl_module: pl.LightningModule, progress: dict[str, Any]) -> None:
        """Hand a callback what was put down, and say so when it is not what it puts down itself."""
        try:
            callback.resume(pl_module, progress)
        except (LookupError, TypeError, AttributeError, ValueError, RuntimeError) as error:
            raise ValueError(
                f"{type(callback).__name__} cannot take up what lies in {self.folder} "
                f"({type(error).__name__}: {error}): another version, or one with other settings, wrote it; "
                f"{_way_out(self.folder.parent)}"
            ) from error

    def _resumable(self, trainer: pl.Trainer) -> dict[str, Resumable]:
        """Callbacks by place and kind; the run file that is resumed lists the same."""
        return {
            f"{place} {type(callback).__name__}": callback
            for place, callback in enumerate(trainer.callbacks)  # type: ignore[attr-defined]
            if isinstance(callback, Resumable)
        }


def check_callbacks(written: Collection[str], listed: Collection[str], run: Path) -> None:
    """Refuse to go on with other callbacks than those whose progress was written.

    Args:
        written: Places and kinds, as `EvaluationResume` names them.
        listed: The same of this run.
        run: Directory of the run.

    Raises:
        ValueError: The callbacks differ.
    """
    if set(written) == set(listed):
        return
    before, now = (Counter(name.partition(" ")[2] for name in names) for names in (written, listed))
    changes = {"missing": before - now, "new": now - before}
    said = [f"{what}: {', '.join(kinds.elements())}" for what, kinds in changes.items() if kinds]
    raise ValueError(
        f"the run in {run} was broken off with other callbacks ({'; '.join(said) or 'the same in other places'}); "
        f"{_way_out(run)}"
    )


def _way_out(run: Path) -> str:
    return f"keep its configuration, --config {run / 'config.yaml'}, or start a new run without --resume"


def write_progress(path: Path, content: dict[str, Any]) -> None:
    """Write a file in one stroke, then remove those that it replaces."""
    path.parent.mkdir(exist_ok=True)
    with replacing(path) as part:
        torch.save(content | {CHECKSUM_KEY: checksum(content)}, part)
    for name in content["replaces"]:
        (path.parent / name).unlink(missing_ok=True)


def read_progress(folder: Path) -> dict[str, dict[str, Any]]:
    """Read what the processes of an unfinished run left, by file name, without what later files replace.

    Raises:
        ValueError: A file is damaged, or two hold the same image.
    """
    found = {path.name: _read_file(path) for path in sorted(folder.glob("*.pt"))}
    replaced = {name for content in found.values() for name in content["replaces"]}
    left = {name: content for name, content in found.items() if name not in replaced}
    times = Counter(key for content in left.values() for key in content["keys"])
    if twice := [key for key, number in times.items() if number > 1]:
        raise ValueError(
            f"the files in {folder} hold {len(twice)} images twice, as {twice[0]!r}: two processes worked on this run "
            "at once; start a run anew, without --resume"
        )
    return left


def _read_file(path: Path) -> dict[str, Any]:
    """Read one file of progress, and check its fields and its checksum."""
    way_out = "delete it to explain its images again, then go on with --resume"
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file fails in any way
        raise ValueError(f"{path} is truncated or no file of progress ({reason_of(error)}); {way_out}") from None
    kinds: dict[str, type] = {"keys": list, "replaces": list, "callbacks": dict}
    found: dict[str, Any] = content if isinstance(content, dict) else {}
    wrong = [name for name, kind in kinds.items() if type(found.get(name)) is not kind]
    if wrong or not all(isinstance(name, str) for name in (*found["keys"], *found["replaces"])):
        raise ValueError(
            f"{path} is no file of progress: its `{(wrong or ['keys'])[0]}` is missing or wrong; {way_out}"
        )
    if CHECKSUM_KEY not in found:
        rank_zero_info(f"{path} has no checksum, as files of 0.1: whether it is damaged is not known")
    elif found[CHECKSUM_KEY] != checksum(found):
        raise ValueError(f"{path} is damaged: it does not hold what was written; {way_out}")
    return found
