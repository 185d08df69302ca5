"""Cost of an explainer: passes, time and peak memory, measured around its calls and merged over ranks."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

import torch
from torch import Tensor, nn

from dre.engine.gradients import Cost
from dre.engine.peak import PeakMemory as PeakMemory
from dre.types import Scorer


@dataclass(slots=True)
class Tally:
    """Sum the cost of the images that one explainer explained, or whose maps were read from a cache with their cost.

    The first batch of a process warms up and is timed apart: it counts only where there is no other.

    Args:
        images: Explained, on any earlier run when they come from a cache.
        cached: How many of them were read.
        forwards: Passes of single images.
        backwards: Like `forwards`.
        head_backwards: Like `forwards`, through the head alone.
        timed: Images whose time is in `seconds`.
        seconds: Of explaining.
        warm_images: Images of first batches.
        warm_seconds: Of first batches.
        scored: Images whose masked copies were scored in this run.
        score_forwards: Passes that this took.
        score_seconds: Time that this took.
        peak_bytes: Most memory beyond what was held before the first batch; -1 where it cannot be measured.
        transferred: Images whose masked copies a second classifier scored in this run.
        transfer_forwards: Passes of the second classifier that this took.
        transfer_seconds: Time that this took.
        to_tolerance: Images that were explained to a tolerance.
        at_bound: How many of them stopped at a bound before they reached it.
        largest_error: Largest error that was left of them, as a share of what the tolerance is a share of.
        score_saved: Masked copies that metrics asked for and that were scored before, for another metric or explainer.
    """

    images: float = 0
    cached: float = 0
    forwards: float = 0
    backwards: float = 0
    head_backwards: float = 0
    timed: float = 0
    seconds: float = 0
    warm_images: float = 0
    warm_seconds: float = 0
    scored: float = 0
    score_forwards: float = 0
    score_seconds: float = 0
    peak_bytes: float = -1
    transferred: float = 0
    transfer_forwards: float = 0
    transfer_seconds: float = 0
    to_tolerance: float = 0
    at_bound: float = 0
    largest_error: float = 0
    score_saved: float = 0

    def values(self) -> list[float]:
        """Return all numbers in order."""
        return [float(value) for value in asdict(self).values()]

    @classmethod
    def merged(cls, rows: torch.Tensor) -> Self:
        """Add up what ranks measured, [ranks, numbers]; of peaks and errors the largest counts."""
        names = [field.name for field in fields(cls)]
        sums = dict(zip(names, rows.double().sum(dim=0).tolist(), strict=True))
        largest = {name: float(rows[:, names.index(name)].max()) for name in LARGEST}
        return cls(**sums | largest)

    @property
    def milliseconds(self) -> float | None:
        """Return the time of an explanation; None when none was timed."""
        images, seconds = (self.timed, self.seconds) if self.timed else (self.warm_images, self.warm_seconds)
        return 1000 * seconds / images if images else None

    def summary(self) -> dict[str, float | None]:
        """Return the cost of an image as plain values."""
        per_image = {name: getattr(self, name) / self.images if self.images else None for name in PASSES}
        return {
            "images": self.images,
            "cached": self.cached,
            **per_image,
            "milliseconds": self.milliseconds,
            "score_forwards": self.score_forwards / self.scored if self.scored else None,
            "score_saved": self.score_saved / self.scored if self.scored else None,
            "score_milliseconds": 1000 * self.score_seconds / self.scored if self.scored else None,
            "transfer_forwards": self.transfer_forwards / self.transferred if self.transferred else None,
            "transfer_milliseconds": 1000 * self.transfer_seconds / self.transferred if self.transferred else None,
            "peak_bytes": self.peak_bytes if self.peak_bytes >= 0 else None,
            "at_bound": self.at_bound if self.to_tolerance else None,
            "largest_error": self.largest_error if self.to_tolerance else None,
        }


LARGEST = ("peak_bytes", "largest_error")
"""What is not added up: of several, the largest counts."""

PASSES = ("forwards", "backwards", "head_backwards")
"""Kinds of passes that explaining takes."""

ENDS = ("to_tolerance", "at_bound")
"""How explanations to a tolerance end."""


@dataclass(slots=True)
class Share:
    """Hold what the explanation of one image took: its share of its batch.

    Args:
        forwards: Passes.
        backwards: Passes.
        head_backwards: Passes.
        seconds: Time; None for a first batch, which warms up.
        peak_bytes: Memory of the whole batch; None where it was not measured.
        warm_seconds: Time in a first batch; None for others.
        to_tolerance: Images that were explained to a tolerance: one or none.
        at_bound: The batch's share of those that stopped at a bound.
        largest_error: That was left in the whole batch.
    """

    forwards: float
    backwards: float
    head_backwards: float
    seconds: float | None
    peak_bytes: float | None
    warm_seconds: float | None = None
    to_tolerance: float = 0
    at_bound: float = 0
    largest_error: float = 0


@contextmanager
def counted(network: nn.Module | None) -> Iterator[Cost]:
    """Count passes through a network by hooks, whoever runs it: `forwards`, and all that go back from its outputs.

    Args:
        network: Maps images [N, ...] to logits; None counts nothing.

    Example:
        >>> network = nn.Flatten()
        >>> with counted(network) as passes:
        ...     network(torch.rand(8, 1, 2, 2)).shape
        torch.Size([8, 4])
        >>> passes.forwards
        8
    """
    passes = Cost()

    def went_back(gradient: Tensor) -> None:
        passes.backwards += len(gradient)

    def went_through(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        passes.forwards += len(inputs[0])
        if isinstance(output, Tensor) and output.requires_grad:
            output.register_hook(went_back)  # type: ignore[no-untyped-call]  # of torch

    handle = None if network is None else network.register_forward_hook(went_through)
    try:
        yield passes
    finally:
        if handle is not None:
            handle.remove()


class Meter:
    """Measure the calls of one explainer; `spent` is the time that this process really took, in seconds.

    Passes are those that the explainer counts; hooks on the network add those that an explainer runs by itself.

    Args:
        cost: The explainer's own counter of passes.
        network: Of its classifier.
    """

    def __init__(self, cost: Cost, network: nn.Module | None = None) -> None:
        self.cost, self.network = cost, network
        self.tally = Tally()
        self.spent = 0.0
        self.is_cold = True
        self.last = Share(0, 0, 0, None, None)

    @contextmanager
    def explaining(self, images: int, device: torch.device) -> Iterator[None]:
        """Measure the explanation of a batch; afterwards `last` holds one image's share."""
        tally, before, is_first = self.tally, asdict(self.cost), self.is_cold
        memory = PeakMemory(device) if is_first or device.type == "cuda" else None
        self.cost.largest_error = 0.0  # of this batch alone
        start = _now(device)
        with counted(self.network) as passes:
            yield
        seconds = _now(device) - start
        self.spent += seconds
        peak = memory.read() if memory is not None else None
        spent = {name: value - before[name] for name, value in asdict(self.cost).items()}
        spent["forwards"] = max(spent["forwards"], passes.forwards)
        spent["backwards"] = max(spent["backwards"], passes.backwards - spent["head_backwards"])
        tally.images += images
        for name in (*PASSES, *ENDS):
            setattr(tally, name, getattr(tally, name) + spent[name])
        tally.largest_error = max(tally.largest_error, self.cost.largest_error)
        self.is_cold = False
        if is_first:
            tally.warm_images, tally.warm_seconds = tally.warm_images + images, tally.warm_seconds + seconds
        else:
            tally.timed, tally.seconds = tally.timed + images, tally.seconds + seconds
        tally.peak_bytes = max(tally.peak_bytes, -1 if peak is None else peak)
        self.last = Share(
            **{name: spent[name] / images for name in (*PASSES, *ENDS)},
            largest_error=self.cost.largest_error,
            seconds=None if is_first else seconds / images,
            peak_bytes=peak,
            warm_seconds=seconds / images if is_first else None,
        )

    @contextmanager
    def scoring(self, images: int, device: torch.device, by: Scorer = "classifier") -> Iterator[None]:
        """Time the scoring of a batch's masked copies by one of the two classifiers."""
        start = _now(device)
        yield
        seconds = _now(device) - start
        self.spent += seconds
        if by == "transfer":
            self.tally.transferred += images
            self.tally.transfer_seconds += seconds
        else:
            self.tally.scored += images
            self.tally.score_seconds += seconds

    def follow(self, leader: "Meter", images: int) -> None:
        """Count images whose maps were made along with those of another explainer, at what the walk for both took."""
        self.last, self.is_cold = leader.last, False
        for _ in range(images):
            self.read(leader.last, from_cache=False)

    def read(self, share: Share, from_cache: bool = True) -> None:
        """Count an image whose map came from a cache, at what it took when it was explained."""
        tally = self.tally
        tally.images, tally.cached = tally.images + 1, tally.cached + int(from_cache)
        for name in (*PASSES, *ENDS):
            setattr(tally, name, getattr(tally, name) + getattr(share, name))
        tally.largest_error = max(tally.largest_error, share.largest_error)
        if share.seconds is not None:
            tally.timed, tally.seconds = tally.timed + 1, tally.seconds + share.seconds
        if share.warm_seconds is not None:
            tally.warm_images, tally.warm_seconds = tally.warm_images + 1, tally.warm_seconds + share.warm_seconds
        if share.peak_bytes is not None:
            tally.peak_bytes = max(tally.peak_bytes, share.peak_bytes)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
