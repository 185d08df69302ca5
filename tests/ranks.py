"""Ranks of one job, forked from a process that has imported everything: a job starts in a moment, not in half a minute.

Each rank finds the environment that torchrun would have given it, and the store of the rendezvous is the test's own
process, as it is torchrun's. What torchrun and SLURM do themselves (restarts, two nodes) is tested with them.
"""

import multiprocessing
import os
import runpy
import socket
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple
from unittest.mock import patch

import torch.distributed as dist
from lightning_utilities.core.rank_zero import rank_zero_only as lightning_rank
from torchmetrics.utilities.prints import rank_zero_only as torchmetrics_rank

REPOSITORY = Path(__file__).parents[1]
IMPORTED = [
    "callbacks",
    "data",
    "dre.cli.evaluation",
    "dre.cli.training",
    "dre.explainers",
    "tests.callbacks.test_resume",
    "tests.callbacks.studies.conditions",
    "tests.classification",
    "tests.metrics.examples",
]
"""What the ranks of all tests import."""

LIMIT = 300.0
"""Seconds that a job may take."""

PATIENCE = 20.0
"""Seconds that the other ranks have to end after one has failed, as torchrun gives them some."""


class Ended(NamedTuple):
    """What became of a rank: its exit status and what it wrote to both streams."""

    code: int
    said: str


def run_ranks(main: Callable[..., None], ranks: int, *arguments: object) -> None:
    """Call a function of a module on so many ranks; every one of them ends well."""
    for rank, (code, said) in enumerate(start_ranks(main, ranks, *arguments)):
        assert code == 0, f"rank {rank} ended with {code}:\n{said[-3000:]}"


def start_ranks(main: Callable[..., None], ranks: int, *arguments: object) -> list[Ended]:
    """Call a function of a module on so many ranks and say how each ended."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    environments = _environments(ranks, store.port)
    return _start([(main, arguments, environment) for environment in environments])


def start_script(script: Path, words: list[str], ranks: int, patience: float | None = None) -> list[Ended]:
    """Run a script on so many ranks, each as `python script words` would, and say how each ended.

    With a patience of 0 all are killed when the first has failed, as `srun --kill-on-bad-exit=1` does.
    """
    with patch(f"{__name__}.PATIENCE", PATIENCE if patience is None else patience):
        return start_ranks(_run_script, ranks, str(script), words)


def start_processes(script: Path, words: list[str], environments: list[dict[str, str]]) -> list[Ended]:
    """Run a script at the same time in processes that are told different things, and say how each ended."""
    return _start([(_run_script, (str(script), words), environment) for environment in environments])


def start_alone(main: Callable[..., None], *arguments: object, limit: float = LIMIT) -> Ended:
    """Call a function of a module in a process of its own, which may take `limit` seconds, and say how it ended."""
    with patch(f"{__name__}.LIMIT", limit):
        return _start([(main, arguments, {})])[0]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _start(calls: list[tuple[Callable[..., None], tuple[object, ...], dict[str, str]]]) -> list[Ended]:
    """Fork a process for each call, wait for all, and read what they wrote."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    with patch.dict(os.environ, PYTHONPATH=str(REPOSITORY)):  # where the server looks for what it imports
        forkserver.ensure_running()
    with TemporaryDirectory() as folder:
        files = [Path(folder) / str(number) for number in range(len(calls))]
        processes = []
        for file, (main, arguments, environment) in zip(files, calls, strict=True):
            beginning = (str(file), os.getcwd(), {**os.environ, **environment}, main, arguments)
            processes.append(context.Process(target=_begin, args=beginning))
            processes[-1].start()
        _wait(processes)
        return [
            Ended(process.exitcode, file.read_text(errors="replace"))
            for process, file in zip(processes, files, strict=True)
        ]


def _environments(ranks: int, port: int) -> Iterator[dict[str, str]]:
    """Give what torchrun tells the processes of a job."""
    elastic = {"RUN_ID": uuid.uuid4().hex, "RESTART_COUNT": 0, "MAX_RESTARTS": 0, "USE_AGENT_STORE": True}
    shared = {f"TORCHELASTIC_{name}": value for name, value in elastic.items()}
    shared |= {"GROUP_RANK": 0, "GROUP_WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    shared |= {"WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
    for rank in range(ranks):
        yield {name: str(value) for name, value in (shared | {"RANK": rank, "LOCAL_RANK": rank}).items()}


def _wait(processes: list[BaseProcess]) -> None:
    """Wait until all have ended; those that outlive a failed one for long, or the limit, are killed."""
    end = time.monotonic() + LIMIT
    while any(process.exitcode is None for process in processes) and time.monotonic() < end:
        if any(process.exitcode for process in processes):
            end = min(end, time.monotonic() + PATIENCE)
        time.sleep(0.02)
    for process in processes:
        if process.exitcode is None:
            process.kill()
        process.join()


def _begin(out: str, place: str, environment: dict[str, str], main: Callable[..., None], arguments: tuple) -> None:
    """Become a rank: take its environment, its folder and its streams, and call its function."""
    os.environ.clear()
    os.environ.update(environment)
    for known in (
        lightning_rank,
        torchmetrics_rank,
    ):  # read from the environment when they were imported, in the server
        known.rank = int(environment.get("RANK", 0))
    os.chdir(place)
    with open(out, "wb", buffering=0) as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    main(*arguments)


def _run_script(script: str, words: list[str]) -> None:
    sys.argv = [script, *words]
    runpy.run_path(script, run_name="__main__")
