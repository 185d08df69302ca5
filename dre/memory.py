"""How much memory is free: on a GPU as its driver and allocator say, on a CPU as the kernel and its limits say."""

from collections.abc import Iterator
from pathlib import Path

import torch

CGROUPS = (
    # controller in /proc/self/cgroup, where it is mounted, limit, usage, what of the usage is cache that can go
    ("", "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    ("memory", "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Both versions of control groups, which bound the memory of containers and batch jobs."""


def free_memory(device: torch.device, root: Path = Path("/")) -> int | None:
    """Bytes that can still be had on a device; None where the system does not say.

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
    rooms = [*_available(root), *_group_rooms(root)]
    return max(0, min(rooms)) if rooms else None


def _available(root: Path) -> Iterator[int]:
    for name, value in _table(root / "proc/meminfo").items():
        if name == "MemAvailable:":
            yield 1024 * value


def _group_rooms(root: Path) -> Iterator[int]:
    """Room under the limit of each control group that this process is in, up to the outermost."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        for controller, mount, limit, usage, cache in CGROUPS:
            if controller not in controllers.split(","):
                continue
            group = root / mount / path.lstrip("/")
            for place in [group, *group.parents]:
                most, used = _read(place / limit), _read(place / usage)
                if most.isdigit() and used.isdigit():  # no limit is spelled "max"
                    yield int(most) - int(used) + _table(place / "memory.stat").get(cache, 0)
                if place == root / mount:  # above it is no control group
                    break


def _table(path: Path) -> dict[str, int]:
    """First word of each line, with the number that follows it."""
    rows = [line.split() for line in _read(path).splitlines()]
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdigit()}


def _read(path: Path) -> str:
    """Content of a file; nothing where there is none, or none for us."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""
