"""Fixtures that all tests share, and what keeps one process of them small."""

import ctypes
import gc
import os
from pathlib import Path

import pytest

from tests.data.trees import packed

STATUS = Path("/proc/self/statm")
"""Says how many pages of memory a process has, on Linux."""

ROOM = 3 << 29
"""Bytes: imports take a third of them."""


@pytest.fixture(scope="session")
def five_shards(tmp_path_factory):
    """Give a dataset of 20 training and 18 validation photographs in five shards each."""
    return packed(tmp_path_factory.mktemp("five"), train=20, val=18, shard_size=4)


@pytest.fixture(autouse=True)
def _outside_a_launcher(monkeypatch):
    """Keep the seed that one test sets from reaching the next."""
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)


@pytest.fixture(autouse=True, scope="session")
def _freed_memory_is_given_back():
    """Leave the C library as it is: a command keeps up to 2 GiB of what it freed, which is meant for one run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dre.cli.base.keep_freed_memory", lambda: None)
        yield


def pytest_runtest_logfinish() -> None:
    """Collect what tests left in cycles, such as trainers with their networks, before a process grows large."""
    if STATUS.exists() and int(STATUS.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") > ROOM:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
