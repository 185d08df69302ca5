"""Base of metrics that keep rows: list states that merge across ranks even where a rank has none."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


class ListStates(Metric, ABC):
    """Keep rows in list states; a subclass adds each state with `dist_reduce_fx="cat"`."""

    @abstractmethod
    def empty_rows(self) -> dict[str, Tensor]:
        """Return for each list state, by name, no rows in the right shape and type."""

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
