"""Kills at random moments and torn files: a run goes on to the numbers of the unbroken one, or a line names the file.

Minutes long: `pytest -m slow -n 0 tests/faults`.
"""

import random
import shutil
import signal
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml

from tests.command_line import workplace
from tests.modules.test_elastic import EVALUATE, TRAIN, evaluation_file, run_file
from tests.ranks import Ended, start_processes

pytestmark = pytest.mark.slow

CHAINS = 25
EVENTS = 40
"""Hooks that the unbroken training passes; a later one lets it end."""

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> dict[str, dict[str, torch.Tensor]]:
    """Return the weights of both checkpoints of a training that nothing befell."""
    place = workplace(tmp_path_factory.mktemp("unbroken"))
    assert train(place, with_strikes(place)).code == 0
    return weights(place / "runs" / "tiny" / "001")


def with_strikes(place: Path) -> Path:
    return run_file(place, {"class_path": "tests.modules.mortal.Struck"})


def train(place: Path, path: Path, *words: str, strike: str = "") -> Ended:
    return start(place, TRAIN, ["--config", str(path), *words], strike)


def start(place: Path, script: Path, words: list[str], strike: str = "") -> Ended:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        (ended,) = start_processes(script, words, [{"DRE_TEST_STRIKE": strike}])
    return ended


def weights(run: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Return the weights of a run's checkpoints."""
    names = ("best", "last")
    read = {name: torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True) for name in names}
    return {name: content["state_dict"] for name, content in read.items()}


@pytest.mark.parametrize("seed", range(CHAINS))
def test_a_chain_of_kills_ends_with_the_checkpoints_of_the_unbroken_run(trained, tmp_path, seed):
    place, draws = workplace(tmp_path), random.Random(seed)
    path, on = with_strikes(place), []
    for launch in range(12):
        strike = f"{draws.randrange(1, EVENTS)}:{int(draws.choice(SIGNALS))}" if launch < 6 else ""
        ended = train(place, path, *on, strike=strike)
        if ended.code == 0:
            break
        assert "Traceback" not in ended.said, ended.said[-3000:]
        on = ["--ckpt_path", "last"] if any(place.glob("runs/tiny/*/checkpoints/last.ckpt")) else []
    last = max(place.glob("runs/tiny/*/checkpoints/last.ckpt"))
    torch.testing.assert_close(weights(last.parents[1]), trained, rtol=0, atol=0)


def files_of(run: Path) -> list[Path]:
    return sorted(file.relative_to(run) for file in run.rglob("*") if file.is_file() and file.stat().st_size)


def torn(run: Path, file: Path, share: float) -> None:
    """Cut a file, as a machine does that stops in the middle of writing it."""
    content = (run / file).read_bytes()
    (run / file).write_bytes(content[: int(share * len(content))])


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_torn_file_of_a_training_is_gone_on_from_or_named(trained, tmp_path, share):
    place = workplace(tmp_path)
    path = with_strikes(place)
    assert train(place, path, strike=f"30:{int(signal.SIGKILL)}").code != 0
    run, whole = place / "runs" / "tiny" / "001", place / "whole"
    shutil.copytree(run, whole)
    for file in files_of(whole):
        shutil.rmtree(place / "runs")
        shutil.copytree(whole, run)
        torn(run, file, share)
        ended = train(place, path, "--ckpt_path", "last")
        assert "Traceback" not in ended.said, f"{file}: {ended.said[-3000:]}"
        if ended.code == 0:
            torch.testing.assert_close(weights(place / "runs" / "tiny" / "002"), trained, rtol=0, atol=0)
        else:
            assert file.name in ended.said, f"{file}: {ended.said[-500:]}"


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_torn_file_of_an_evaluation_is_gone_on_from_or_named(tmp_path, share):
    place = workplace(tmp_path)
    path = evaluation_file(place, {"class_path": "tests.modules.mortal.Struck"})
    content = yaml.safe_load(path.read_text())
    content["trainer"]["callbacks"][-1]["init_args"]["rest"] = 0.0  # progress after each batch
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    assert start(place, EVALUATE, ["--config", str(path)]).code == 0
    family = place / "results" / "tiny"
    expected = pd.read_parquet(family / "001" / "scores.parquet")
    assert start(place, EVALUATE, ["--config", str(path)], strike=f"7:{int(signal.SIGKILL)}").code != 0
    run, whole = family / "002", place / "whole"
    shutil.copytree(run, whole)
    for file in files_of(whole):
        shutil.rmtree(run)
        shutil.copytree(whole, run)
        torn(run, file, share)
        ended = start(place, EVALUATE, ["--resume", str(run.relative_to(place))])
        assert "Traceback" not in ended.said, f"{file}: {ended.said[-3000:]}"
        if ended.code == 0:
            found = pd.read_parquet(run / "scores.parquet")
            pd.testing.assert_frame_equal(*(f.drop(columns="milliseconds", errors="ignore") for f in (found, expected)))
        else:
            assert file.name in ended.said, f"{file}: {ended.said[-500:]}"
