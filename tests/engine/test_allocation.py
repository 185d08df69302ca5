import ctypes

import pytest
import torch

import dre
from dre.engine import allocation
from tests.networks import small_batch, small_classifier


@pytest.fixture
def asked(monkeypatch) -> list[tuple[int, int]]:
    """Return what the C library is asked for, in place of asking it."""
    found: list[tuple[int, int]] = []
    library = type("Library", (), {"mallopt": lambda _, name, value: found.append((name, value))})
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library())
    monkeypatch.setattr(allocation.sys, "platform", "linux")
    monkeypatch.delenv(allocation.SWITCH)
    allocation._settle.cache_clear()
    yield found
    allocation._settle.cache_clear()


def test_an_explanation_on_a_cpu_asks_once(asked):
    for _ in range(2):
        dre.explain(small_classifier(), small_batch()[0], method="vanilla_gradient")
    assert asked == [(-3, 1 << 30), (-1, (1 << 31) - 1)]


@pytest.mark.parametrize("change", ["variable", "platform", "device"])
def test_it_can_be_switched_off_and_is_for_a_cpu_on_linux(asked, monkeypatch, change):
    if change == "variable":
        monkeypatch.setenv(allocation.SWITCH, "0")
    if change == "platform":
        monkeypatch.setattr(allocation.sys, "platform", "darwin")
    allocation.keep_memory_on_cpu(torch.device("cuda" if change == "device" else "cpu"))
    assert not asked
