"""Chunk size: the most images in one pass, planned from the free memory and halved when it runs out."""

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from dre.types import MemoryEstimate

MOST = {"cpu": 8, "cuda": 256}
"""Most images in one pass where memory is plenty: on a CPU larger chunks leave its cache and were measured slower."""

MEMORY_SHARE = 0.5
"""Share of the free memory that one pass is planned to take: the need is an estimate, and others allocate as well."""

NO_MEMORY_ON_CPU = "can't allocate memory"
"""Message of the CPU's allocator, which raises a plain RuntimeError."""


def is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether an error is a failed allocation, on any device."""
    return isinstance(error, torch.OutOfMemoryError) or NO_MEMORY_ON_CPU in str(error)


@dataclass(slots=True)
class Chunk:
    """Hold the most images in one pass; all parts of an explainer share it, so that it is halved once for all.

    Args:
        size: By default what `plan` finds, at most 8 on a CPU and 256 on a GPU.
        was_halved: Whether memory ran out before.

    Raises:
        ValueError: `size` is below 1.
    """

    size: int | None = None
    was_halved: bool = False
    _fitting: dict[bool, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise ValueError for an empty chunk."""
        if self.size is not None and self.size < 1:
            raise ValueError(f"`chunk` must be at least one image, got {self.size}")

    @classmethod
    def of(cls, chunk: "int | Chunk | None") -> "Chunk":
        """Return a shared chunk as it is, and a number or nothing as a chunk of its own."""
        return chunk if isinstance(chunk, Chunk) else cls(chunk)

    def plan(self, images: Tensor, memory: MemoryEstimate | None) -> None:
        """Choose how many images like these fit into the memory that is free now; a size that was set stays.

        Sizes are powers of two, so that a little more or less free memory rarely changes the shape of a pass.

        Args:
            images: [B, C, H, W]; size, type and device count.
            memory: Memory estimate of the network; without one, the device alone decides.
        """
        free = free_memory(images.device) if memory is not None and self.size is None else None
        self._fitting.clear()
        if free is None or memory is None:
            return
        for backward, per_pixel in ((False, memory.forward), (True, memory.backward)):
            needed = per_pixel * images[0, 0].numel() * images.element_size() / 4
            fitting = max(1, int(MEMORY_SHARE * free / max(needed, 1.0)))
            self._fitting[backward] = 1 << (fitting.bit_length() - 1)

    def limit(self, device: torch.device, *, backward: bool = True) -> int:
        """Return the most images in one pass.

        Args:
            device: Where they are.
            backward: Whether a backward pass follows, for which all activations are kept.
        """
        if self.size is not None:
            return self.size
        most = MOST.get(device.type, MOST["cpu"])
        return min(most, self._fitting.get(backward, most))

    def map(
        self, run: Callable[..., tuple[Tensor, ...]], images: Tensor, *others: Tensor, backward: bool = True
    ) -> tuple[Tensor, ...]:
        """Run on even parts of at most a chunk and join the results; a part that finds no memory is halved.

        Args:
            run: Takes a part of the images and of each of the others, and gives tensors of as many rows.
            images: [B, C, H, W].
            others: [B, ...], cut alike.
            backward: Whether a backward pass is part of it.
        """
        parts: list[tuple[Tensor, ...]] = []
        done = 0
        while done < len(images):
            left = len(images) - done
            size = math.ceil(left / math.ceil(left / self.limit(images.device, backward=backward)))
            try:
                parts.append(run(*(tensor[done : done + size] for tensor in (images, *others))))
                done += size
                continue
            except RuntimeError as error:
                if size == 1 or not is_out_of_memory(error):
                    raise
            self.halve(size)  # outside the handler, whose traceback keeps the tensors that did not fit alive
        return parts[0] if len(parts) == 1 else tuple(torch.cat(column) for column in zip(*parts, strict=True))

    def halve(self, failed: int) -> None:
        """Halve the size that did not fit, and warn the first time."""
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.size = failed // 2
        if not self.was_halved:
            warnings.warn(
                f"no memory for {failed} images at once: going on with chunks of {self.size} or less; "
                "set `chunk` to say so",
                stacklevel=2,
            )
        self.was_halved = True


def chunk_slices(batch: int, copies: int, chunk: Chunk, device: torch.device) -> Iterator[tuple[slice, slice]]:
    """Yield slices of the batch and of the copies of each image, copies in ascending order.

    Each pair of slices is built at once and is no larger than the chunk was at the start; where memory then runs out,
    the probe halves what it is given.

    Args:
        batch: Images.
        copies: Copies of each image: noise samples, points of a line, masks.
        chunk: Most copies in one pair of slices.
        device: Where the copies are built.
    """
    size = chunk.limit(device)
    for rows in slices(batch, max(1, size // copies)):
        for columns in slices(copies, size):
            yield rows, columns


CGROUPS = (
    # controller in /proc/self/cgroup, where it is mounted, limit, usage, part of the usage that is reclaimable cache
    ("", "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    ("memory", "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Versions 2 and 1 of control groups, which bound the memory of containers and batch jobs."""


def free_memory(device: torch.device, root: Path = Path("/")) -> int | None:
    """Return the bytes that can still be allocated on a device; None where the system does not say.

    Args:
        device: A GPU's own memory counts with what PyTorch holds and does not use; a CPU's is what the kernel calls
            available, or less where a control group allows less.
        root: Of the file system that describes the machine.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    if device.type != "cpu":
        return None
    bounds = [*_available(root), *_below_group_limits(root)]
    return max(0, min(bounds)) if bounds else None


def _available(root: Path) -> Iterator[int]:
    for line in _read(root / "proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            yield 1024 * int(line.split()[1])


def _below_group_limits(root: Path) -> Iterator[int]:
    """Yield what is left under the limit of each control group of this process, up to the outermost."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        for controller, mount, limit, usage, cache in CGROUPS:
            if controller not in controllers.split(","):
                continue
            group = root / mount / path.lstrip("/")
            for place in [group, *group.parents]:
                most = _read(place / limit)
                if most.isdigit() and (used := _read(place / usage)).isdigit():  # no limit is spelled "max"
                    yield int(most) - int(used) + _table(place / "memory.stat").get(cache, 0)
                if place == root / mount:  # above it is no control group
                    break


def _table(path: Path) -> dict[str, int]:
    """Return the first word of each line with the number that follows it."""
    rows = [line.split() for line in _read(path).splitlines()]
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdigit()}


def _read(path: Path) -> str:
    """Return the content of a file; empty where it is missing or cannot be read."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def slices(length: int, size: int) -> Iterator[slice]:
    """Yield slices of 0..length: the fewest of at most `size`, as even as they can be."""
    parts = math.ceil(length / size)
    for part in range(parts):
        yield slice(part * length // parts, (part + 1) * length // parts)
