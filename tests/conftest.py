"""Fixtures that all tests share, and what keeps one process of them small."""

import ctypes
import gc
import sys

import pytest

from tests.data.trees import packed


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


@pytest.fixture(autouse=True, scope="module")
def _nothing_is_left_of_a_module():
    """Collect the networks and figures of a module of tests when it ends."""
    yield
    gc.collect()
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).malloc_trim(0)
