"""Locks: one process at a time, released when it ends."""

import multiprocessing
import os
import re
import signal
import time
from contextlib import suppress

import pytest

from dre.runs.directory import read_record
from dre.runs.locks import locked, read_json, replacing, write_json, write_whole
from tests.command_line import REPOSITORY


def hold_and_fork(path, told: int) -> None:
    """Hold a lock, start a child process, and wait to be killed."""
    with locked(path, wait=False):
        child = os.fork()
        if child:
            os.write(told, f"{child}\n".encode())
        time.sleep(60)
    os._exit(0)


def test_the_lock_is_held_until_the_end_and_the_file_is_left_as_it_is(tmp_path):
    (tmp_path / "x").write_text("content")
    with locked(tmp_path / "x", wait=False), pytest.raises(BlockingIOError), locked(tmp_path / "x", wait=False):
        pass
    with locked(tmp_path / "x", wait=False):
        assert (tmp_path / "x").read_text() == "content"
    assert [file.name for file in tmp_path.iterdir()] == ["x"]


def count_up(file, times: int) -> None:
    for _ in range(times):
        with locked(file, wait=True):
            file.write_text(str(int(file.read_text()) + 1))


def test_one_after_the_other_though_the_lock_is_deleted_each_time(tmp_path):
    (tmp_path / "x").write_text("0")
    workers = [
        multiprocessing.get_context("fork").Process(target=count_up, args=(tmp_path / "x", 20)) for _ in range(3)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert (tmp_path / "x").read_text() == "60"


def test_no_module_imports_what_only_unix_has():
    for package in ("dre", "callbacks", "data"):
        for file in (REPOSITORY / package).rglob("*.py"):
            assert not re.search(r"^\s*(import|from) (fcntl|pwd|grp|resource|termios)\b", file.read_text(), re.M), file


def test_forked_workers_do_not_hold_the_lock_of_a_parent_that_was_killed(tmp_path):
    hear, told = os.pipe()
    holder = os.fork()
    if not holder:
        hold_and_fork(tmp_path / "x", told)
    worker = int(os.read(hear, 20))
    time.sleep(0.2)  # until the worker has let go
    try:
        with pytest.raises(BlockingIOError), locked(tmp_path / "x", wait=False):
            pass
        os.kill(holder, signal.SIGKILL)
        os.waitpid(holder, 0)
        with locked(tmp_path / "x", wait=False):
            os.kill(worker, 0)  # it is still there
    finally:
        os.kill(worker, signal.SIGKILL)


def test_a_file_is_the_old_or_the_new_one_and_nothing_is_left_behind(tmp_path):
    path = tmp_path / "run.json"
    write_json(path, {"old": 1})
    with suppress(KeyboardInterrupt), replacing(path) as part:
        part.write_text("{")
        assert read_json(path) == {"old": 1}
        raise KeyboardInterrupt
    write_whole(path, '{"new": "é"}')
    assert read_json(path) == {"new": "é"}
    assert [one.name for one in tmp_path.iterdir()] == ["run.json"]


@pytest.mark.parametrize("content", [b"", b"{", b'{"a": 1', b"[1]", b"\xff\xfe", b"text"])
def test_a_torn_json_file_is_one_line_with_its_name(tmp_path, content):
    (tmp_path / "run.json").write_bytes(content)
    for read in (lambda: read_json(tmp_path / "run.json"), lambda: read_record(tmp_path)):
        with pytest.raises(ValueError, match=r"run\.json (is damaged|holds list).*make the run anew") as failure:
            read()
        assert "\n" not in str(failure.value)
