"""Timing of alternatives in turns, so that a busy machine slows all of them alike."""

import time
from collections.abc import Callable, Mapping
from statistics import median

import torch


def seconds(action: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the time of one call in seconds, until a GPU that is in use is done.

    Args:
        action: What is called.
        clock: Wall time, or another clock, such as `time.process_time`.
    """
    start = clock()
    action()
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
    return clock() - start


def in_turns(
    actions: Mapping[str, Callable[[], object]],
    repeats: int,
    warm_up: int = 2,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Call every action in turn, `repeats` times over; the seconds of each."""
    for _ in range(warm_up):
        for action in actions.values():
            action()
    rounds = [{name: seconds(action, clock) for name, action in actions.items()} for _ in range(repeats)]
    return {name: [each[name] for each in rounds] for name in actions}


def ratio(above: list[float], below: list[float]) -> float:
    """Return the median of the ratios of pairs that were measured one after the other."""
    return median(first / second for first, second in zip(above, below, strict=True))
