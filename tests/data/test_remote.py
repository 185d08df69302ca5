import errno
import io
import logging
import os
import re
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import fsspec
import pytest
import torch
from fsspec.registry import _registry
from pytorch_lightning.utilities import rank_zero_only

import data.transfer as transfer
from data.datamodule import ShardDataModule
from data.roots import open_root
from data.shards import open_shards
from data.transfer import Remote, TransferError, fetch, url_of
from data.verify import main as verify
from tests.data.servers import serve
from tests.data.trees import SMALL, keys_of

SHARDS = ("train-00000.tar", "val-00002.tar")


@pytest.fixture
def server(five_shards):
    with serve(five_shards) as told:
        yield told


@pytest.fixture
def quick(tmp_path):
    """Give settings with a cache of the test's own and short pauses."""
    return Remote(str(tmp_path / "cache"), attempts=3, pause=0.01, timeout=0.5)


def module(root, remote, **options):
    options = {"workers": 0, "batch_size": 4, "preprocessing": SMALL} | options
    data = ShardDataModule(str(root), remote=remote, **options)
    data.prepare_data()
    data.setup()
    return data


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records if record.name == "data.transfer"]


# The same data


@pytest.mark.parametrize("workers", [0, 2])
def test_a_server_gives_what_the_folder_gives(five_shards, server, quick, workers):
    local, remote = (module(root, quick, workers=workers) for root in (five_shards, server.url))
    for here, there in zip(local.train_dataloader(), remote.train_dataloader(), strict=True):
        assert here["key"] == there["key"]
        assert torch.equal(here["images"], there["images"])
    pairs = list(zip(local.val_dataloader(), remote.val_dataloader(), strict=True))
    assert sum(len(here["key"]) for here, _ in pairs) == 18
    for here, there in pairs:
        assert here["key"] == there["key"]
        assert torch.equal(here["objects"], there["objects"])
    assert {server.count(name) for name in server.asked} == {1}  # each file once, for all workers


def test_resampled_training_reads_from_a_server(five_shards, server, quick):
    local, remote = (module(root, quick, sampling="resampled") for root in (five_shards, server.url))
    assert server.asked == ["manifest.json", "val.keys.txt"]
    assert keys_of(remote.train_dataloader()) == keys_of(local.train_dataloader())


def test_a_command_gives_what_the_folder_gives(five_shards, quick):
    local, remote = (module(root, quick) for root in (five_shards, f"pipe:cat {five_shards}/{{}}"))
    assert keys_of(remote.train_dataloader()) == keys_of(local.train_dataloader())
    assert keys_of(remote.val_dataloader()) == keys_of(local.val_dataloader())


def test_every_protocol_of_fsspec_will_do(five_shards, quick):
    memory = fsspec.filesystem("memory")
    for path in five_shards.iterdir():
        memory.pipe_file(f"/birds/{path.name}", path.read_bytes())
    data = module("memory://birds", quick)
    assert len(keys_of(data.train_dataloader())) == 5
    memory.rm("/birds", recursive=True)


def test_remote_and_local_roots_mix(five_shards, server, quick):
    data = ShardDataModule([server.url], val_root=str(five_shards), preprocessing=SMALL, remote=quick, workers=0)
    data.setup()
    assert (data.expected_images("train"), data.expected_images("val")) == (20, 18)
    description = data.describe()
    assert description["roots"] == [server.url]
    assert len(set(description["manifest_sha256"].values())) == 1  # it is the same set
    assert set(description["manifest_sha256"]) == {server.url, str(five_shards)}
    assert data.credits() == {}


@pytest.mark.parametrize("root", ["file://{}", "{}"])
def test_files_by_url_are_local(five_shards, root):
    assert open_root(root.format(five_shards)).path == five_shards


@pytest.mark.parametrize(
    ("root", "url"),
    [
        ("https://host/birds/", "https://host/birds/x.tar"),
        ("https://host/birds?key=1", "https://host/birds/x.tar?key=1"),
        ("s3://bucket", "s3://bucket/x.tar"),
        ("pipe:aws s3 cp s3://bucket/{} -", "pipe:aws s3 cp s3://bucket/x.tar -"),
    ],
)
def test_addresses_of_files(root, url):
    assert url_of(root, "x.tar") == url


# A server that fails


FAULTS = (503, 429, "half", "short", "silent")


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        *((name, fault) for name in ("manifest.json", *SHARDS) for fault in FAULTS),
        *((name, "damaged") for name in SHARDS),  # a manifest with one other character may still be one
    ],
)
def test_a_failing_server_costs_a_warning(server, quick, caplog, name, fault):
    server.faults[name] += [fault]
    data = module(server.url, quick)
    assert len(keys_of(data.train_dataloader())) == 5
    assert sum(map(len, keys_of(data.val_dataloader()))) == 18
    (line,) = warnings_of(caplog)
    assert re.fullmatch(rf"{server.url}/{name}: attempt 1 of 3 failed \([^\n]+\), next in 0\.01 s", line)
    assert server.count(name) == 2


def test_a_warning_names_the_rank_where_there_are_several(tmp_path, caplog, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(rank_zero_only, "rank", 1, raising=False)
    with pytest.raises(TransferError):
        fetch("pipe:exit 7", tmp_path / "x", Remote(attempts=2, pause=0.01))
    (line,) = warnings_of(caplog)
    assert line.startswith("[rank: 1] pipe:exit 7: attempt 1 of 2 failed")


def test_a_closed_connection_is_opened_again(server, quick, caplog):
    server.faults["val-00002.tar"] += ["closed"]
    assert sum(map(len, keys_of(module(server.url, quick).val_dataloader()))) == 18
    assert len(warnings_of(caplog)) <= 1  # the HTTP library asks once again by itself
    assert server.count("val-00002.tar") == 2


def test_warnings_and_errors_of_workers_are_one_line_each(server, quick, monkeypatch, capfd):
    data = module(server.url, quick, workers=1, sampling="resampled")
    server.faults["val-00001.tar"] += [503]
    server.faults["val-00003.tar"] += [503] * 3
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # as in a run, without those of pytest
    message = rf"^cannot fetch {server.url}/val-00003\.tar after 3 attempts: 503 Service Unavailable$"
    with pytest.raises(TransferError, match=message):
        keys_of(data.val_dataloader())
    lines = [line for line in capfd.readouterr().err.splitlines() if "val-0000" in line]
    assert lines[0] == f"{server.url}/val-00001.tar: attempt 1 of 3 failed (503 Service Unavailable), next in 0.01 s"
    assert [line.partition(": ")[2][:16] for line in lines[1:]] == ["attempt 1 of 3 f", "attempt 2 of 3 f"]


@pytest.mark.parametrize(("status", "why"), [(404, "not found"), (403, "403 Forbidden"), (401, "401 Unauthorized")])
@pytest.mark.parametrize("name", ["manifest.json", "val-00002.tar"])
def test_a_final_answer_is_not_asked_for_again(server, quick, caplog, name, status, why):
    server.faults[name] += [status] * 3
    with pytest.raises(TransferError, match=rf"^cannot fetch {server.url}/{name}: {why}$"):
        keys_of(module(server.url, quick).val_dataloader())
    assert not warnings_of(caplog)
    assert server.count(name) == 1


@pytest.mark.parametrize("fault", [503, "half", "short"])
def test_a_server_that_keeps_failing_ends_the_run_in_one_line(server, quick, caplog, fault):
    server.faults["val-00002.tar"] += [fault] * 3
    with pytest.raises(TransferError, match=rf"^cannot fetch {server.url}/val-00002\.tar after 3 attempts: [^\n]+$"):
        keys_of(module(server.url, quick).val_dataloader())
    assert len(warnings_of(caplog)) == 2
    assert not list(Path(quick.cache).glob("*.part"))
    assert sum(map(len, keys_of(module(server.url, quick).val_dataloader()))) == 18  # it has recovered


def test_pauses_grow(tmp_path, monkeypatch):
    slept = []
    monkeypatch.setattr(transfer, "time", SimpleNamespace(sleep=slept.append))
    with pytest.raises(TransferError, match="after 9 attempts: the command ended with exit status 7"):
        fetch("pipe:exit 7", tmp_path / "x", Remote(attempts=9))
    assert slept == [1, 2, 4, 8, 16, 32, 60, 60]


def test_a_command_that_prints_half_is_run_again(five_shards, quick, tmp_path, caplog):
    script = tmp_path / "print.sh"
    lines = (
        f"if [ -e {tmp_path}/$1 ]; then cat {five_shards}/$1; exit; fi",
        f"head -c 700 {five_shards}/$1; touch {tmp_path}/$1; exit 3",
    )
    script.write_text("\n".join(lines))
    data = module(f"pipe:sh {script} {{}}", quick, sampling="resampled")
    assert sum(map(len, keys_of(data.val_dataloader()))) == 18
    lines = warnings_of(caplog)
    assert len(lines) == 7  # the manifest, the keys and five shards
    assert all("the command ended with exit status 3" in line for line in lines)


def test_a_server_that_is_not_there_is_named(quick):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with pytest.raises(TransferError, match=rf"cannot fetch {url}/manifest\.json after 3 attempts: Cannot connect"):
        module(url, quick)


# The cache


def test_a_second_run_fetches_nothing_but_the_manifest(server, quick):
    keys = keys_of(module(server.url, quick).val_dataloader())
    server.asked.clear()
    assert keys_of(module(server.url, quick).val_dataloader()) == keys
    assert set(server.asked) <= {"manifest.json", "val.keys.txt"}


def test_processes_and_threads_share_one_fetch(server, quick):
    shards = open_shards([open_root(server.url, quick)], "train", "size")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda shard: shard.fetch(), shards * 8))
    assert {server.count(shard.name) for shard in shards} == {1}


def test_a_damaged_file_in_the_cache_is_fetched_again(server, quick):
    (shard, *_) = open_shards([open_root(server.url, quick)], "train", "size")
    shard.fetch()
    (path,) = Path(quick.cache).glob("*.tar")
    path.write_bytes(path.read_bytes()[:-512])
    assert len(list(shard.stream())) == 4
    assert server.count(shard.name) == 2


def test_changed_bytes_in_the_cache_are_found_and_fetched_again(server, quick, caplog, capsys):
    module(server.url, quick)
    changed = sorted(Path(quick.cache).glob("train-0000[01]*.tar"))
    options = [server.url, "--cache", quick.cache]
    for path, run in zip(changed, (lambda: module(server.url, quick), lambda: verify(options)), strict=True):
        sound = path.read_bytes()
        path.write_bytes(sound[:700] + bytes([sound[700] ^ 1]) + sound[701:])
        assert run() != 1
        assert path.read_bytes() == sound
        assert f"{path} has changed since it was fetched; it is fetched again" in caplog.text
    assert server.count("train-00000.tar") == server.count("train-00001.tar") == 2


def test_a_limit_fetches_only_the_shards_that_hold_it(server, quick):
    data = module(server.url, quick, limit=3, sampling="resampled")
    assert sum(map(len, keys_of(data.val_dataloader()))) == 3
    assert [name for name in server.asked if name.startswith("val-")] == ["val-00000.tar"]


@pytest.fixture
def tight(five_shards, quick):
    """Give settings whose cache holds less than all shards of a split."""
    size = (five_shards / "val-00000.tar").stat().st_size
    return Remote(quick.cache, size * 2.5 / 1e9, attempts=3, pause=0.01)


@pytest.mark.parametrize("workers", [0, 3])
def test_a_small_cache_drops_what_was_read_longest_ago(server, tight, workers):
    data = module(server.url, tight, sampling="resampled", workers=workers)
    for _ in range(2):
        assert sum(map(len, keys_of(data.val_dataloader()))) == 18
    assert sum(path.stat().st_size for path in Path(tight.cache).glob("*.tar")) <= tight.cache_gigabytes * 1e9
    assert sum(name.startswith("val-0") for name in server.asked) > 5


def test_a_cache_too_small_to_walk_is_refused(server, tight):
    with pytest.raises(ValueError, match=r"GB are read together, the cache .* may hold .*`sampling: resampled`$"):
        module(server.url, tight)
    (shard, *_) = open_shards([open_root(server.url, Remote(tight.cache, 1e-7))], "train", "size")
    with pytest.raises(ValueError, match="raise `cache_gigabytes`"):
        shard.fetch()


def test_a_full_disk_is_named_at_once(server, quick, monkeypatch):
    def full(url, target, remote):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    data = module(server.url, quick, sampling="resampled")
    monkeypatch.setattr(transfer, "_copy", full)
    message = rf"^cannot fetch {server.url}/val-00000\.tar: no space is left in {quick.cache}; make room, or .*cache"
    with pytest.raises(TransferError, match=message):
        keys_of(data.val_dataloader())


def test_a_full_disk_is_named_where_a_command_prints_too(tmp_path, quick, caplog):
    class Full(io.BytesIO):
        def write(self, data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    class Target(type(tmp_path)):
        def open(self, mode):
            return Full()

    with pytest.raises(TransferError, match=r"no space is left in .*; make room"):
        fetch("pipe:yes | head -c 9000000", Target(tmp_path / "x"), quick)
    assert not warnings_of(caplog)


# Refusals


def test_command_without_a_place_is_refused():
    with pytest.raises(ValueError, match=r"'pipe:cat x' does not say where the name of a file goes; write \{\} there"):
        ShardDataModule("pipe:cat x")


def test_what_is_no_manifest_is_refused(tmp_path, quick):
    (tmp_path / "manifest.json").write_text("<html>login</html>")
    with serve(tmp_path) as server, pytest.raises(TransferError, match="after 3 attempts: it is not a manifest"):
        module(server.url, quick)


def test_unknown_protocol_is_refused(quick):
    with pytest.raises(TransferError, match=r"cannot fetch ftq://host/manifest\.json: Protocol not known: ftq; "):
        module("ftq://host", quick)


@pytest.mark.parametrize(("scheme", "library"), [("s3", "s3fs"), ("gs", "gcsfs")])
def test_missing_library_is_named(quick, monkeypatch, scheme, library):
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.delitem(_registry, scheme, raising=False)  # another test may have loaded it
    with pytest.raises(TransferError, match=rf"{library}.*`pip install -e '\.\[remote\]'`"):
        module(f"{scheme}://bucket/birds", quick)


@pytest.mark.parametrize("options", [{"attempts": 0}, {"pause": 0}, {"timeout": -1}, {"cache_gigabytes": 0}])
def test_bad_settings_are_refused(options):
    (name,) = options
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        Remote(**options)


def test_verifier_reads_a_server(server, tmp_path, capsys):
    assert verify([server.url, "--cache", str(tmp_path / "cache")]) == 0
    assert "val: 18 images in 5 shards, nothing broken" in capsys.readouterr().out


# A bucket


def test_a_bucket_gives_what_the_folder_gives(five_shards, quick, monkeypatch):
    pytest.importorskip("s3fs")
    moto = pytest.importorskip("moto.server")
    bucket_server = moto.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    bucket_server.start()
    try:
        host, port = bucket_server.get_host_and_port()
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            monkeypatch.setenv(name, value)
        filesystem = fsspec.filesystem("s3", skip_instance_cache=True)
        filesystem.mkdir("shards")
        filesystem.put(f"{five_shards}/", "shards/birds/", recursive=True)
        local, remote = (module(root, quick, workers=1) for root in (five_shards, "s3://shards/birds"))
        assert keys_of(remote.train_dataloader()) == keys_of(local.train_dataloader())
        assert keys_of(remote.val_dataloader()) == keys_of(local.val_dataloader())
        with pytest.raises(TransferError, match=r"^cannot fetch s3://shards/cats/manifest\.json: not found$"):
            module("s3://shards/cats", quick)
    finally:
        bucket_server.stop()
