"""Fixtures that all tests share, and what keeps one process of them small."""

import ctypes
import gc
import os
from pathlib import Path

import pytest

STATUS = Path("/proc/self/statm")
"""Says how many pages of memory a process has, on Linux."""

GROWTH = 1 << 29
"""Bytes by which a process may grow before what tests left in cycles is collected."""


class Memory:
    """Collect what tests left in cycles, such as trainers with their networks, before a process grows large.

    A process that stays large, because libraries keep what they loaded, is searched again only when it has grown by as
    much once more.
    """

    limit = 0

    def collect(self) -> None:
        gc.collect()
        if STATUS.exists():
            ctypes.CDLL(None).malloc_trim(0)
            self.limit = self.held() + GROWTH

    def held(self) -> int:
        return int(STATUS.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


MEMORY = Memory()


@pytest.fixture(scope="session")
def five_shards(tmp_path_factory):
    """Give a dataset of 20 training and 18 validation photographs in five shards each."""
    from tests.data.trees import packed  # here: the process that hands out tests needs none of what it imports

    return packed(tmp_path_factory.mktemp("five"), train=20, val=18, shard_size=4)


@pytest.fixture
def undrawn_figures(monkeypatch):
    """Make figures without drawing them."""
    from tests.figures import leave_figures_undrawn

    leave_figures_undrawn(monkeypatch)


@pytest.fixture
def undrawn_panels(monkeypatch):
    """Make panels of photographs and maps without drawing them."""
    from tests.figures import leave_panels_undrawn

    leave_panels_undrawn(monkeypatch)


@pytest.fixture(autouse=True)
def _outside_a_launcher(monkeypatch):
    """Keep the seed that one test sets from reaching the next."""
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)


@pytest.fixture(autouse=True, scope="session")
def _freed_memory_is_given_back():
    """Leave the C library as it is: a command keeps up to 2 GiB of what it freed, which is meant for one run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DRE_KEEP_MEMORY", "0")
        yield


def pytest_collection_finish() -> None:
    """Keep the million objects that imports made out of every later collection."""
    MEMORY.collect()
    gc.freeze()


def pytest_runtest_logfinish() -> None:
    if STATUS.exists() and MEMORY.held() > MEMORY.limit:
        MEMORY.collect()
