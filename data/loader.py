"""Data loaders: worker processes, collation, and the position in the data at which training stands."""

import signal
from collections.abc import Callable, Iterator
from copy import copy
from typing import Any

import torch
from torch.utils.data import DataLoader

from data.boxes import rasterise
from data.streams import Drawn, EvaluationStream, Position, Stream, TrainingStream
from dre.types import Batch


class EvaluationLoader:
    """Load the batches of one pass over the evaluation images of this rank.

    Args:
        stream: What to load.
        workers: Processes that decode; 0 decodes in this one.
    """

    def __init__(self, stream: EvaluationStream, workers: int) -> None:
        self.stream = stream
        self.workers = workers

    def __len__(self) -> int:
        return self.stream.batch_count(self.workers)

    def __iter__(self) -> Iterator[Batch]:
        return _load(self.stream, self.workers, collate_evaluation)


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
    """Stack images, labels and object masks."""
    objects = [rasterise(sample.boxes, (sample.image.shape[1], sample.image.shape[2])) for sample in drawn.samples]
    return _stack(drawn) | {"objects": torch.stack(objects)}


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
    for batch in loader:
        if isinstance(batch, Exception):
            raise batch
        yield batch


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
