"""States of metrics as plain tensors: written when a run may be broken off, added when it goes on."""

from typing import Any

from torch import Tensor
from torchmetrics import Metric

State = dict[str, Tensor | list[Tensor]]


def state_of(metric: Metric) -> State:
    """Copy a metric's own state, of this rank alone, to the CPU."""
    return {
        name: [part.cpu().clone() for part in value] if isinstance(value, list) else value.cpu().clone()
        for name, value in metric.metric_state.items()
    }


def add_state(metric: Metric, state: State) -> None:
    """Add what another part of the images left, as merging metrics does."""

    def moved(value: Any) -> Any:
        return [part.to(metric.device) for part in value] if isinstance(value, list) else value.to(metric.device)

    metric.merge_state({name: moved(value) for name, value in state.items()})
    metric._update_count = max(1, metric._update_count)  # or `compute` warns that nothing was ever added


def states_of(metrics: Any) -> Any:
    """Copy the states of metrics in nested dicts."""
    return state_of(metrics) if isinstance(metrics, Metric) else {name: states_of(one) for name, one in metrics.items()}


def add_states(metrics: Any, states: Any) -> None:
    """Add nested states to nested metrics of the same names."""
    if isinstance(metrics, Metric):
        add_state(metrics, states)
        return
    for name, one in metrics.items():
        add_states(one, states[name])
