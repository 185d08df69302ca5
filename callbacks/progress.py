"""Progress and cost of an evaluation: images per second, time left, and the passes of each explainer."""

import math
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
import torch
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.text import Text

from callbacks.resume import EvaluationResume
from dre.engine.cost import PASSES, Meter, Tally
from dre.modules import ExplainerEvaluation
from dre.reporting.terminal import fitted
from dre.runs.locks import write_json
from dre.types import Batch

REFRESHES = 2
"""Of the table on a terminal, in a second."""


SLOWEST = 4
"""Explainers that a line names."""

OTHER_CLASS = "/other_class"
"""What stands behind an explainer's name for its maps of another class; no name has a slash."""


class EvaluationProgress(pl.Callback):
    """Show how fast `Trainer.test` evaluates images, how long it still takes, and what part each explainer has in it.

    On a terminal there is a table with a bar that stays up to date; elsewhere a line is printed from time to time, and
    the last one in any case. It takes the place of the trainer's own bar and is silent where that is switched off. The
    first rank counts for all.

    Args:
        every: Seconds between two lines.

    Raises:
        ValueError: `every` is negative.
    """

    def __init__(self, every: float = 30.0) -> None:
        if every < 0:
            raise ValueError(f"`every` must not be negative, got {every}; 0 prints a line for each batch")
        self.every = every
        self.console = Console()
        self.seen = 0
        self.ranks = 1
        self.total: int | None = None
        self._meters: Mapping[str, Meter] = {}
        self._other_meters: Mapping[str, Meter] = {}
        self._is_shown = False
        self._start = self._printed = 0.0
        self._live: Live | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Take the place of the trainer's bar."""
        bar = trainer.progress_bar_callback
        self._is_shown = stage == "test" and bar is not None and trainer.is_global_zero
        if stage == "test" and bar is not None:
            bar.disable()

    def on_test_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self.seen, self.ranks, self.total = 0, trainer.world_size, images_to_evaluate(trainer)
        if self.total is not None:  # what an earlier process did took none of the time that is measured here
            callbacks = cast(Iterable[pl.Callback], trainer.callbacks)  # type: ignore[attr-defined]
            self.total -= sum(len(one.seen) for one in callbacks if isinstance(one, EvaluationResume))
        evaluation = cast(ExplainerEvaluation, pl_module)
        self._meters, self._other_meters = evaluation.evaluator.meters, evaluation.evaluator.other_meters
        self._start = self._printed = time.perf_counter()
        if self._is_shown and self.console.is_terminal:
            self._live = Live(console=self.console, get_renderable=self.table, refresh_per_second=REFRESHES)
            self._live.start()

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count the batch, and print a line when it is time."""
        self.seen += len(batch["key"]) * self.ranks
        if self.total is not None:
            self.seen = min(self.seen, self.total)
        now = time.perf_counter()
        if self._is_shown and self._live is None and now - self._printed >= self.every:
            self.console.print(self.line(), highlight=False, markup=False, soft_wrap=True)
            self._printed = now

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say how fast it was; the tables of other callbacks follow."""
        self._stop()
        if self._is_shown and not self.console.is_terminal:
            self.console.print(self.line(), highlight=False, markup=False, soft_wrap=True)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leave the terminal to the error."""
        self._stop()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Give the trainer its bar back."""
        self._stop()
        if stage == "test" and trainer.progress_bar_callback is not None and trainer.is_global_zero:
            trainer.progress_bar_callback.enable()

    def line(self) -> str:
        """Say where it stands in one line, with the explainers that take longest."""
        seconds = time.perf_counter() - self._start
        slowest = [row for row in sorted(self._explainers(), key=lambda row: -row[1])[:SLOWEST] if row[1]]
        parts = [f"{name} {_speed(self.seen, spent)}{_left(left)}" for name, spent, left in slowest]
        of_all = "" if self.total is None else f" of {self.total}"
        whole = f"{self.seen}{of_all} images in {clock(seconds)}, {_speed(self.seen, seconds)}"
        return "; ".join([f"{whole}{_left(self._time_left(seconds))}", *filter(None, [", ".join(parts)])])

    def table(self) -> Group:
        """Show where it stands, with a row for each explainer, as wide as the terminal."""
        seconds = time.perf_counter() - self._start
        of_all = "" if self.total is None else f" / {self.total}"
        bar = ProgressBar(total=self.total, completed=self.seen, width=30, pulse=self.total is None)
        left = self._time_left(seconds)
        rows = [["all", f"{self.seen}{of_all}", f"{self.seen / seconds:.3g}" if self.seen else "", clock(left), ""]]
        for name, spent, left in self._explainers():
            tally = self._meters[name].tally
            rate = f"{self.seen / spent:.3g}" if self.seen and spent else ""
            cached = f"{tally.cached * self.ranks:.0f}" if tally.cached else ""
            rows.append([name, f"{tally.images * self.ranks:.0f}", rate, clock(left), cached])
        shown = 5 if any(row[-1] for row in rows) else 4
        header = ["", "images", "images/s", "time left", "from cache"]
        lines = fitted(header[:shown], [row[:shown] for row in rows], width=self.console.width)
        return Group(Text(lines, no_wrap=True, overflow="ignore"), bar)

    def _explainers(self) -> list[tuple[str, float, float | None]]:
        """Name each explainer with the seconds that it took and those that it will take."""
        spent = {name: meter.spent for name, meter in self._meters.items()}
        for name, other in self._other_meters.items():
            spent[name] += other.spent
        return [(name, seconds, self._time_left(seconds)) for name, seconds in spent.items()]

    def _time_left(self, seconds: float) -> float | None:
        return seconds * (self.total / self.seen - 1) if self.total is not None and self.seen else None

    def _stop(self) -> None:
        if self._live is not None:
            self._live.stop()
        self._live = None


def images_to_evaluate(trainer: pl.Trainer) -> int | None:
    """Say how many images all ranks together will see; None when batches are limited or the data do not say."""
    data = getattr(trainer, "datamodule", None)
    is_whole = isinstance(trainer.limit_test_batches, float) and trainer.limit_test_batches == 1.0  # 1 is a count
    return data.expected_images("val") if data is not None and is_whole else None


def _speed(images: float, seconds: float) -> str:
    return f"{images / seconds:.3g} images/s" if seconds else "no time"


def _left(seconds: float | None) -> str:
    return f" ({clock(seconds)} left)" if seconds else ""


def clock(seconds: float | None) -> str:
    """Return minutes and seconds, with hours where there are any; nothing for what is not known."""
    if seconds is None:
        return ""
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class ExplanationCost(pl.Callback):
    """Write `cost.json` during `Trainer.test` and log `test/EXPLAINER/milliseconds` and `.../forwards`.

    Time depends on the machine and on what else it does; passes do not. What a second classifier took to score stands
    apart, and so does what the maps of another class took where a metric asks for these.
    """

    def progress(self, pl_module: pl.LightningModule) -> dict[str, Any]:
        """See `callbacks.resume.Resumable`."""
        return {name: meter.tally.values() for name, meter in _all_meters(pl_module).items()}

    def resume(self, pl_module: pl.LightningModule, progress: dict[str, Any]) -> None:
        """See `callbacks.resume.Resumable`."""
        for name, meter in _all_meters(pl_module).items():
            own, before = meter.tally.values(), list(progress[name])
            before += [0.0] * (len(own) - len(before))  # runs of 0.1 counted no second classifier
            meter.tally = Tally.merged(torch.tensor([own, before], dtype=torch.float64))

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Merge on every rank, write on the first."""
        meters = _all_meters(pl_module)
        own = torch.tensor([meter.tally.values() for meter in meters.values()], dtype=torch.float64)
        ranks = cast(torch.Tensor, pl_module.all_gather(own.to(pl_module.device)))
        ranks = ranks.reshape(-1, *own.shape)  # alone there is no axis of ranks
        merged = {name: Tally.merged(ranks[:, place]).summary() for place, name in enumerate(meters)}
        costs = {name: cost for name, cost in merged.items() if not name.endswith(OTHER_CLASS)}
        for name, cost in costs.items():
            for kind in ("milliseconds", "forwards"):
                value = cost[kind]
                if value is not None:
                    pl_module.log(f"test/{name}/{kind}", value)
            if (other := merged.get(f"{name}{OTHER_CLASS}")) is not None:
                cost |= {f"other_class_{kind}": other[kind] for kind in (*PASSES, "milliseconds")}
        if trainer.is_global_zero:
            write_json(Path(trainer.default_root_dir) / "cost.json", costs)


def _all_meters(pl_module: pl.LightningModule) -> dict[str, Meter]:
    """Return the meters of an evaluation's explainers, and those of the maps of another class where it makes these."""
    evaluation = cast(ExplainerEvaluation, pl_module)
    evaluator = evaluation.evaluator
    others = evaluator.other_meters if evaluator.explains_other_class else {}
    return {**evaluator.meters, **{f"{name}{OTHER_CLASS}": meter for name, meter in others.items()}}
