"""Data loaders: worker processes, collation, and the position in the data at which training stands."""

import importlib
import signal
from collections.abc import Callable, Iterator
from copy import copy
from pathlib import Path
from typing import Any, cast

import torch
from torch.utils.data import DataLoader

from data.streams import Drawn, EvaluationStream, Position, Stream, TrainingStream
from dre.runs.process import ended_worker
from dre.types import Batch

SPARE_FILES, FILES_OF_WORKER, USUAL_FILES = 64, 32, 4096
"""Open files: of a process beside its data, of a worker that hands over batches, and a limit that is enough for all."""


class EvaluationLoader:
    """Load the batches of one pass over the evaluation images of this rank.

    Args:
        stream: What to load.
        workers: Processes that decode; 0 decodes in this one.
        skipped: Gets key and reason of each sample of this pass that could not be read, where those are skipped.
    """

    def __init__(self, stream: EvaluationStream, workers: int, skipped: list[tuple[str, str]] | None = None) -> None:
        self.stream = stream
        self.workers = workers
        self.skipped = [] if skipped is None else skipped

    def __len__(self) -> int:
        return self.stream.batch_count(self.workers)

    def __iter__(self) -> Iterator[Batch]:
        self.skipped.clear()
        for batch in _load(self.stream, self.workers, collate_evaluation):
            self.skipped += batch.pop("skipped", [])
            if "images" in batch:  # all that is left may be skipped
                yield batch


class TrainingLoader:
    """Load the batches of one epoch on this rank, from wherever training stands.

    Lightning does not fast-forward a loader when it resumes in mid-epoch: it restores its own counters of epoch and
    batch and asks for the rest. This loader reads those counters when the first batch is asked for.

    Args:
        stream: What to load.
        workers: Processes that decode; 0 decodes in this one. They live for one epoch.
        locate: Says where training stands.
    """

    def __init__(self, stream: TrainingStream, workers: int, locate: Callable[[], Position]) -> None:
        self.stream = stream
        self.workers = workers
        self.locate = locate

    def __len__(self) -> int:
        return self.stream.steps

    def __iter__(self) -> Iterator[Batch]:
        stream = copy(self.stream)
        stream.start = self.locate()
        stream.index()
        yield from _load(stream, self.workers, collate_training)

    def state_dict(self) -> dict[str, Any]:
        """Nothing to keep; this and `load_state_dict` tell Lightning that the loader can resume in mid-epoch."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to restore: the position is read from `locate`."""


def collate_training(drawn: Drawn) -> Batch:
    """Stack images and labels, and name what could not be read."""
    return _stack(drawn) | {"broken": drawn.broken}


def collate_evaluation(drawn: Drawn) -> Batch:
    """Stack images, labels and objects, say which of these are from masks, and name what was skipped."""
    if not drawn.samples:
        return cast(Batch, {"skipped": drawn.skipped})
    objects = torch.stack([sample.objects() for sample in drawn.samples])
    by_mask = torch.tensor([sample.mask is not None for sample in drawn.samples])
    batch = _stack(drawn) | {"objects": objects, "by_mask": by_mask}
    return batch | {"skipped": drawn.skipped} if drawn.skipped else batch


def to_float(batch: Batch) -> Batch:
    """Turn the bytes that workers send into the float32 in [0, 1] that `Batch` promises, channels last in memory."""
    batch["images"] = batch["images"].to(torch.float32, memory_format=torch.channels_last).div_(255)
    if "objects" in batch:
        batch["objects"] = batch["objects"].to(torch.float32)
    return batch


def _stack(drawn: Drawn) -> Batch:
    samples = drawn.samples
    pixels = torch.stack([sample.image.permute(1, 2, 0) for sample in samples])
    labels = torch.tensor([sample.label for sample in samples], dtype=torch.int64)
    return {"images": pixels.permute(0, 3, 1, 2), "labels": labels, "key": [sample.key for sample in samples]}


def _load(stream: Stream, workers: int, collate: Callable[[Drawn], Batch]) -> Iterator[Batch]:
    loader = DataLoader(
        stream,
        batch_size=None,
        num_workers=workers,
        collate_fn=_Unless(collate),
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_start_worker,
        generator=torch.Generator(),  # a loader must not draw from the run's global randomness
    )
    _check_open_files(workers)
    try:
        for batch in loader:
            if isinstance(batch, Exception):
                raise batch
            yield batch
    except RuntimeError as error:
        ended = ended_worker(error)
        if ended is None:
            raise
        raise ChildProcessError(ended) from None


def _check_open_files(workers: int) -> None:
    """Raise the limit of open files to what the workers need, or say that it is too low: they would wait for ever."""
    try:
        resource: Any = importlib.import_module("resource")
    except ImportError:  # on Windows, which has no such limit
        return
    folder = Path("/proc/self/fd")
    held = len(list(folder.iterdir())) if folder.is_dir() else SPARE_FILES
    needed = held + SPARE_FILES + FILES_OF_WORKER * workers
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if workers == 0 or soft == resource.RLIM_INFINITY or soft >= max(needed, USUAL_FILES):
        return
    if hard == resource.RLIM_INFINITY or hard >= needed:
        wanted = max(needed, USUAL_FILES)
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard)
        )
        return
    raise ValueError(
        f"{workers} workers need about {needed} open files, this process may have {hard}; raise the limit with "
        f"`ulimit -n {needed}`, or take fewer workers (--data.workers 0 needs none)"
    )


class _Unless:
    """Collate what was drawn, unless it is a refusal: that goes to the main process to be raised there."""

    def __init__(self, collate: Callable[[Drawn], Batch]) -> None:
        self.collate = collate

    def __call__(self, drawn: Any) -> Any:
        return drawn if isinstance(drawn, Exception) else self.collate(drawn)


def _start_worker(worker: int) -> None:
    """Keep a worker to one core, and let Ctrl-C be handled by the main process alone."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
