"""Base of metrics that keep rows: list states in a few large blocks that merge across ranks even where one has none."""

import mmap
from abc import ABC, abstractmethod
from math import prod
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

BLOCK_BYTES = 1 << 20
"""Bytes of a block of rows. Many small tensors that live to the end of a run would keep the heap from being reused."""


class ListStates(Metric, ABC):
    """Keep rows in list states; a subclass adds each state with `dist_reduce_fx="cat"` and rows with `add_rows`."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._blocks: dict[str, tuple[Tensor, Tensor]] = {}
        """By state: the block that is being filled, and the rows of it that are the last part of the state."""

    @abstractmethod
    def empty_rows(self) -> dict[str, Tensor]:
        """Return for each list state, by name, no rows in the right shape and type."""

    def add_rows(self, name: str, rows: Tensor) -> Tensor:
        """Append rows to a list state, and return them where they now lie, which may be written to later."""
        parts, (block, filled) = getattr(self, name), self._blocks.get(name, (rows[:0], rows[:0]))
        if not self.is_filling(name) or len(filled) + len(rows) > len(block):
            room = BLOCK_BYTES // max(1, prod(rows.shape[1:]) * rows.element_size())
            block, filled = new_block(max(room, len(rows), 1), rows), rows[:0]
            parts.append(filled)
        start = len(filled)
        block[start : start + len(rows)] = rows.detach()
        parts[-1] = block[: start + len(rows)]
        self._blocks[name] = block, parts[-1]
        return block[start : start + len(rows)]

    def is_filling(self, name: str) -> bool:
        """Return whether the last part of a state is of the block that is being filled, not of another metric."""
        parts = getattr(self, name)
        return name in self._blocks and bool(parts) and parts[-1] is self._blocks[name][1]

    def rows(self, name: str) -> Tensor:
        """Return a state as one tensor: it is a list before ranks are merged, and a tensor or a list after."""
        state = getattr(self, name)
        return state if isinstance(state, Tensor) else torch.cat([self.empty_rows()[name], *state])

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Merge ranks; one without rows takes part with empty ones."""
        for name, empty in self.empty_rows().items():
            state = getattr(self, name)
            if isinstance(state, list) and not state:
                state.append(empty)
        super().sync(*args, **kwargs)


def new_block(count: int, like: Tensor) -> Tensor:
    """Return room for `count` rows such as those of `like`: on a CPU outside the heap, zero where not written."""
    shape = (count, *like.shape[1:])
    with torch.inference_mode(False):  # it is written to after the mode has ended, too
        if like.device.type != "cpu" or not prod(shape):
            return torch.zeros(shape, dtype=like.dtype, device=like.device)
        size = prod(shape) * like.element_size()
        private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
        return torch.frombuffer(mmap.mmap(-1, size, **private), dtype=like.dtype).view(shape)
