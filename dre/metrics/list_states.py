"""List states of metrics in a few large blocks, which merge across ranks even where one has none; saved states."""

import mmap
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import prod
from typing import Any, Protocol, runtime_checkable

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


State = dict[str, Tensor | list[Tensor]]


@runtime_checkable
class HasOlderStates(Protocol):
    """Describe a metric whose state had another form in an earlier version."""

    def of_older(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """Return a saved state in the present form."""


def state_of(metric: Metric) -> State:
    """Return a metric's own state, of this rank alone, on the CPU: sums are copied, full blocks of rows not."""
    return {
        name: [_as_saved(part) for part in value] if isinstance(value, list) else value.cpu().clone()
        for name, value in metric.metric_state.items()
    }


def _as_saved(rows: Tensor) -> Tensor:
    """Copy rows that do not fill most of their block: a file of a view has what lies around it, too."""
    rows = rows.cpu()
    return rows if rows.untyped_storage().nbytes() < 1.25 * rows.nbytes else rows.clone()


def add_state(metric: Metric, state: State) -> None:
    """Add the state that another part of the images left, as `merge_state` does."""

    def moved(value: Any) -> Any:
        return [part.to(metric.device) for part in value] if isinstance(value, list) else value.to(metric.device)

    metric.merge_state({name: moved(value) for name, value in state.items()})
    metric._update_count = max(1, metric._update_count)  # or `compute` warns that nothing was ever added


def states_of(metrics: Any) -> Any:
    """Copy the states of metrics in nested dicts."""
    return state_of(metrics) if isinstance(metrics, Metric) else {name: states_of(one) for name, one in metrics.items()}


ADDED = ("unscored", "unknown", "classes", "annotations")
"""Names of metrics that earlier runs did not keep."""


def add_states(metrics: Any, states: Any) -> None:
    """Add nested states to nested metrics of the same names."""
    if isinstance(metrics, Metric):
        renamed = getattr(metrics, "renamed_states", {})  # of runs that 0.1 began
        states = {renamed.get(name, name): value for name, value in states.items()}
        add_state(metrics, metrics.of_older(states) if isinstance(metrics, HasOlderStates) else states)
        return
    for name, one in metrics.items():
        if name in states or name not in ADDED:
            add_states(one, states[name])


@contextmanager
def unchanged_on_error(metric: Metric) -> Iterator[None]:
    """Give a metric its state back where what happens inside fails."""
    before = {name: list(one) if isinstance(one, list) else one.clone() for name, one in metric.metric_state.items()}
    try:
        yield
    except Exception:
        for name, value in before.items():
            setattr(metric, name, value)
        raise
