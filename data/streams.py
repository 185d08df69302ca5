"""Sample streams: evaluation visits every image exactly once over all ranks, training takes a fixed number of steps."""

import itertools
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
import webdataset as wds
from numpy.typing import NDArray
from torch.utils.data import IterableDataset, get_worker_info

from data.samples import BrokenSampleError, Sample, Transform, load_sample
from data.shards import RawSample, Shard, count, fetch_ahead, key_order

SHUFFLE_BUFFER = 1000
"""Undecoded samples among which a resampled stream draws the next one."""


OnError = Literal["raise", "skip"]


class Position(NamedTuple):
    """Hold the position of training: the epoch and the batches of it that are done."""

    epoch: int
    batch: int


@dataclass(frozen=True, slots=True)
class Rank:
    """Hold the number of a process and how many there are."""

    number: int
    world: int


ALONE = Rank(0, 1)


@dataclass(frozen=True, slots=True)
class Drawn:
    """Hold the samples of one batch on their way from a worker.

    Args:
        samples: What could be read.
        broken: One line for each sample that could not.
        skipped: Key and reason of each sample that an evaluation went on without.
    """

    samples: list[Sample]
    broken: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)


class Stream(IterableDataset[Drawn | Exception]):
    """Whole batches, one after the other; each worker of a loader iterates over its share of them."""

    def __iter__(self) -> Iterator[Drawn | Exception]:
        """Return the share of this worker; a refusal comes last, as it is, so that its message stays one line."""
        info = get_worker_info()
        try:
            yield from self.batches(info.id, info.num_workers) if info is not None else self.batches(0, 1)
        except (ValueError, OSError) as error:
            yield error

    def batches(self, worker: int, workers: int) -> Iterator[Drawn]:
        """Return the share of one worker of several."""
        raise NotImplementedError


class EvaluationStream(Stream):
    """Yield every image exactly once over all workers of all ranks; a broken sample ends it with an error, or is told.

    Shards are split over the workers where there are enough of them, samples where there are not: then every worker
    reads all shards and decodes its share.

    Args:
        shards: What to read.
        transform: Which crop to take.
        batch_size: Images of a batch; the last batch of a worker is smaller.
        rank: This process.
        selected: Keys that are wanted; `None` wants all.
        on_error: "skip" goes on without broken samples and gives their keys and reasons; the last batch then may hold
            nothing else.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        transform: Transform,
        batch_size: int,
        rank: Rank = ALONE,
        selected: frozenset[str] | None = None,
        on_error: OnError = "raise",
    ) -> None:
        self.on_error = on_error
        counted = [(shard, _count_selected(shard, selected)) for shard in shards]
        self.shards = [shard for shard, images in counted if images]
        self.counts = [images for _, images in counted if images]
        self.transform = transform
        self.batch_size = batch_size
        self.rank = rank
        self.selected = selected

    def batches(self, worker: int, workers: int) -> Iterator[Drawn]:
        """Decode the images that fall to one worker of this rank."""
        slot, slots = self._slot(worker, workers)
        if self._by_shard(slots):
            raw = self._wanted(self.shards[slot::slots])
        else:
            raw = itertools.islice(self._wanted(self.shards), slot, None, slots)
        drawn = Drawn([])
        for one in raw:
            try:
                drawn.samples.append(load_sample(one, self.transform))
            except BrokenSampleError as error:
                if self.on_error == "raise":
                    raise
                drawn.skipped.append((error.key, error.reason))
            if len(drawn.samples) == self.batch_size:
                yield drawn
                drawn = Drawn([])
        if drawn.samples or drawn.skipped:
            yield drawn

    def batch_count(self, workers: int) -> int:
        """Say how many batches this rank gets from that many workers, at most where broken samples are skipped."""
        return sum(-(-self._images(worker, max(workers, 1)) // self.batch_size) for worker in range(max(workers, 1)))

    def _images(self, worker: int, workers: int) -> int:
        slot, slots = self._slot(worker, workers)
        if self._by_shard(slots):
            return sum(self.counts[slot::slots])
        return len(range(slot, sum(self.counts), slots))

    def _slot(self, worker: int, workers: int) -> tuple[int, int]:
        """Return the number of a worker among those of all ranks, and their count; neighbours are on other ranks."""
        return worker * self.rank.world + self.rank.number, workers * self.rank.world

    def _by_shard(self, slots: int) -> bool:
        """Say whether every worker finds images in shards of its own."""
        return all(sum(self.counts[slot::slots]) for slot in range(slots))

    def _wanted(self, shards: Sequence[Shard]) -> Iterator[RawSample]:
        for shard in fetch_ahead(shards):
            for raw in shard.stream():
                if self.selected is None or raw["__key__"] in self.selected:
                    yield raw


class TrainingStream(Stream):
    """Yield the same global batches for any number of ranks and workers, a fixed number of steps an epoch.

    All images are walked through in a new random order again and again; an epoch is a stretch of that walk, so over
    the epochs no image is drawn more than once more often than another. Crops and flips are drawn for each place in
    the walk.

    Args:
        shards: What to draw from.
        transform: Which crop to take.
        batch_size: Images of a global batch, before it is split over the ranks.
        steps: Batches of an epoch.
        rank: This process.
        seed: Other orders and other crops for another seed.

    `start` holds the first batch; it is the only thing that changes from epoch to epoch.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        transform: Transform,
        batch_size: int,
        steps: int,
        rank: Rank = ALONE,
        seed: int = 0,
    ) -> None:
        self.shards = shards
        self.transform = transform
        self.batch_size = batch_size
        self.local_size = batch_size // rank.world
        self.steps = steps
        self.rank = rank
        self.seed = seed
        self.start = Position(0, 0)
        self.ends = list(itertools.accumulate(shard.samples for shard in shards))

    def index(self) -> None:
        """Learn where all samples lie, before workers start that would each find it out anew in every epoch."""
        for shard in self.shards:
            shard.index()

    def batches(self, worker: int, workers: int) -> Iterator[Drawn]:
        """Decode this rank's part of every so-many-th batch of the epoch."""
        for batch in range(self.start.batch + worker, self.steps, workers):
            first = self._first_place(batch)
            places = range(first, first + self.local_size)
            yield self._load((self._read(place) for place in places), first)

    def _first_place(self, batch: int) -> int:
        """Return the place in the walk of the first sample that this rank takes of a batch."""
        return (self.start.epoch * self.steps + batch) * self.batch_size + self.rank.number * self.local_size

    def _read(self, place: int) -> RawSample:
        walk, step = divmod(place, self.ends[-1])
        index = int(_random_order(self.seed, walk, self.ends[-1])[step])
        shard = int(np.searchsorted(self.ends, index, side="right"))
        return self.shards[shard].read(index - self.ends[shard] + self.shards[shard].samples)

    def _load(self, raw: Iterator[RawSample], first: int) -> Drawn:
        """Decode the samples of one batch; broken ones are left out and named."""
        drawn = Drawn([])
        for place, one in enumerate(raw, start=first):
            try:
                drawn.samples.append(load_sample(one, self.transform, random.Random(f"{self.seed}/{place}")))
            except BrokenSampleError as error:
                drawn.broken.append(str(error))
        if not drawn.samples:
            raise ValueError(f"no sample of a training batch can be read; the first is {drawn.broken[0]}")
        return drawn


class ResampledStream(TrainingStream):
    """Shards drawn at random with replacement, for sets too large to index; every worker draws its own.

    Shards are read from start to end through a shuffle buffer. The draws of a batch depend on seed, epoch, rank, world
    and number of workers; a start in mid-epoch reads past what was drawn before, without decoding it.
    """

    def index(self) -> None:
        """Do nothing: shards are read from start to end."""

    def batches(self, worker: int, workers: int) -> Iterator[Drawn]:
        """Decode every so-many-th batch of the epoch from the draws that belong to it."""
        start = self.start.batch + worker
        raw = self._draw(start % workers, workers)
        raw = itertools.islice(raw, start // workers * self.local_size, None)
        for batch in range(start, self.steps, workers):
            yield self._load(itertools.islice(raw, self.local_size), self._first_place(batch))

    def _draw(self, stream: int, streams: int) -> Iterator[RawSample]:
        draws = random.Random(f"{self.seed}/{self.start.epoch}/{self.rank.number}/{self.rank.world}/{stream}/{streams}")
        weights = [shard.samples for shard in self.shards]
        shards = (draws.choices(self.shards, weights)[0] for _ in itertools.count())
        samples = itertools.chain.from_iterable(shard.stream() for shard in fetch_ahead(shards))
        return iter(wds.shuffle(SHUFFLE_BUFFER, rng=random.Random(draws.random()))(samples))


def refuse_overlap(shards: Sequence[Shard]) -> None:
    """Refuse evaluation images whose keys occur twice, as in roots that overlap.

    Raises:
        ValueError: A key occurs twice.
    """
    keys = Counter(key for shard in shards for key in shard.list_keys())
    twice = [key for key, times in keys.items() if times > 1]
    if twice:
        raise ValueError(f"{len(twice)} keys occur twice, as {twice[0]!r} does; choose roots that do not overlap")


def select_keys(shards: Sequence[Shard], span: tuple[int, int] | None, limit: int | None) -> frozenset[str] | None:
    """Choose samples by the order of a hash of their keys, the same on every machine and for any packing.

    Args:
        shards: What to choose from.
        span: First place in that order, and the place after the last; `None` takes all.
        limit: At most so many of them, the first ones.

    Raises:
        ValueError: `span` is no range within the images, or `limit` is below 1.
    """
    if span is None and limit is None:
        return None
    start, stop = span or (0, count(shards))
    if not 0 <= start < stop <= count(shards):
        raise ValueError(f"`val_range` {start} to {stop} is not a range within the {count(shards)} images of the split")
    if limit is not None and limit < 1:
        raise ValueError(f"`limit` must be at least 1, got {limit}; leave it out to see all images")
    keys = [key for shard in shards for key in shard.list_keys()]
    return frozenset(sorted(keys, key=key_order)[start:stop][:limit])


@lru_cache(maxsize=2)  # a batch may lie across two walks
def _random_order(seed: int, walk: int, images: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, walk]).permutation(images)


def _count_selected(shard: Shard, selected: frozenset[str] | None) -> int:
    return shard.samples if selected is None else sum(key in selected for key in shard.list_keys())
