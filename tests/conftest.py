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
