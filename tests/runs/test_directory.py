import json
import os
import re
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import yaml

from dre.cli.training import TrainingCommandLine
from dre.explainers.paths.integration import idgi, riemann
from dre.runs.directory import CHECKPOINT, RECORD, config_hash, new_directory, newest_checkpoint, write_record
from tests.command_line import QUIET, REPOSITORY, tiny_run_file, workplace
from tests.data.trees import packed
from tests.ranks import start_processes


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    return packed(tmp_path_factory.mktemp("photographs"), train=12, val=4)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Run in a folder of its own, where runs/ and results/ appear."""
    monkeypatch.chdir(workplace(tmp_path))
    monkeypatch.setattr(sys, "argv", ["train.py"])
    return tmp_path


@pytest.fixture
def run_file(place, photographs):
    """Write a run file that trains and keeps checkpoints, and scores nothing."""
    path = tiny_run_file(place / "tiny.yaml", photographs)
    content = yaml.safe_load(path.read_text())
    del content["score"]
    content["trainer"]["callbacks"] = [{"class_path": "callbacks.RunCheckpoints"}]
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def train(run_file: Path, *options: str) -> TrainingCommandLine:
    run = TrainingCommandLine(["--config", str(run_file), *QUIET, *options])
    run.run()
    return run


def record(directory: Path) -> dict:
    return json.loads((directory / RECORD).read_text())


def fake_run(directory: Path, config: dict, age: float) -> Path:
    (directory / CHECKPOINT).parent.mkdir(parents=True)
    (directory / CHECKPOINT).write_bytes(b"")
    os.utime(directory / CHECKPOINT, (time.time() - age,) * 2)
    write_record(directory, config, None)
    return directory / CHECKPOINT


def test_a_cache_counts_by_whether_there_is_one():
    hashes = [config_hash({"model": {"cache": cache}}) for cache in (None, "maps", "elsewhere")]
    assert hashes[0] != hashes[1] == hashes[2]


def test_directories_are_numbered_and_never_taken_twice(tmp_path):
    (tmp_path / "family" / "007").mkdir(parents=True)
    (tmp_path / "family" / "notes").mkdir()
    assert new_directory(tmp_path / "family").name == "008"
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: new_directory(tmp_path / "other"), range(24)))
    assert sorted(path.name for path in made) == [f"{number:03d}" for number in range(1, 25)]


def test_the_hash_is_of_what_decides_the_numbers():
    config = {"model": {"h": 2.5}, "data": {"root": "a"}, "seed_everything": 0, "trainer": {"max_epochs": 3}}
    same = {"seed_everything": 0, "data": {"root": "a"}, "model": {"h": 2.5}, "trainer": {"max_epochs": 4}, "name": "b"}
    assert config_hash(config) == config_hash(same)
    for change in ({"model": {"h": 2.0}}, {"data": {"root": "b"}}, {"seed_everything": 1}):
        assert config_hash(config | change) != config_hash(config)


def test_the_newest_checkpoint_is_found_in_a_run_a_family_or_as_a_file(tmp_path):
    old = fake_run(tmp_path / "002", {"model": 1}, age=100)
    new = fake_run(tmp_path / "001", {"model": 2}, age=10)
    assert newest_checkpoint(tmp_path) == new
    assert newest_checkpoint(tmp_path / "002") == old
    assert newest_checkpoint(old) == old
    assert newest_checkpoint(tmp_path, {"model": 1}) == old
    with pytest.raises(FileNotFoundError, match=r"no run under .* has this configuration \(the newest, .*001, differs"):
        newest_checkpoint(tmp_path, {"model": 3})


def test_of_runs_of_one_configuration_the_one_that_came_furthest_is_taken(tmp_path):
    steps = {"001": 40, "002": 80, "003": 60, "004": None}  # the last one was written last, and is torn
    for age, (name, done) in zip((400, 300, 200, 100), steps.items(), strict=True):
        path = fake_run(tmp_path / name, {"model": 1}, age=age)
        path.write_bytes(b"torn") if done is None else torch.save({"global_step": done}, path)
    assert newest_checkpoint(tmp_path, {"model": 1}) == tmp_path / "002" / CHECKPOINT
    assert newest_checkpoint(tmp_path / "003", {"model": 1}) == tmp_path / "003" / CHECKPOINT


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ("runs/demo", "`python train.py` trains one"),
        ("runs/imagenet_lite0", "`python train.py --config configs/train/imagenet_lite0.yaml` trains one"),
        (
            "runs/mgnet_demo/007/checkpoints/last.ckpt",
            "`python train.py --config configs/train/mgnet_demo.yaml` trains",
        ),
        ("runs/dre_square", "no run file trains dre_square by itself: see the head of the one that asks for it"),
        ("nowhere", "`python train.py` trains one"),
    ],
)
def test_a_training_that_is_missing_is_named_with_its_command(tmp_path, monkeypatch, place, line):
    monkeypatch.chdir(REPOSITORY)
    with pytest.raises(FileNotFoundError, match=rf"no checkpoint under .*{place}; {re.escape(line)}"):
        newest_checkpoint(tmp_path / place)


def test_two_runs_have_two_directories_with_their_records(place, run_file):
    first = train(run_file)
    before = {path: path.read_bytes() for path in first.run_directory.rglob("*") if path.is_file()}
    second = train(run_file)
    assert [first.run_directory, second.run_directory] == [Path("runs/tiny/001"), Path("runs/tiny/002")]
    assert {path: path.read_bytes() for path in before} == before
    for run in (first, second):
        kept = record(run.run_directory)
        assert kept["parent"] is None
        assert kept["config_hash"] == config_hash(run.plain_config())
        assert kept["command"].startswith("python ")
        assert {"torch", "pytorch-lightning", "timm"} <= kept["packages"].keys()
        config = yaml.safe_load((run.run_directory / "config.yaml").read_text())
        assert config["model"]["widths"] == [8, 8, 8]
        assert config["trainer"]["max_epochs"] == 2
        assert config["seed_everything"] == 0
    states = [torch.load(run.run_directory / CHECKPOINT, weights_only=True)["state_dict"] for run in (first, second)]
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=0)


def test_the_saved_configuration_is_the_same_configuration():
    """Fragments were read from other files: that must not make it another run."""
    source = ["--config", str(REPOSITORY / "configs/train/demo.yaml"), "--wandb", "off"]
    source += ["--model.classifier.init_args.weights", "null"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(REPOSITORY)
        patch.setattr(sys, "argv", ["train.py"])
        patch.setattr(TrainingCommandLine, "before_instantiate_classes", lambda self: None)
        patch.setattr(TrainingCommandLine, "instantiate_classes", lambda self: None)
        run = TrainingCommandLine(source)
        assert "__path__" not in json.dumps(run.plain_config(), default=str)


def test_last_goes_on_from_the_newest_run_of_this_configuration(place, run_file, capsys):
    train(run_file)
    train(run_file, "--model.h", "2.0")
    resumed = train(run_file, "--ckpt_path", "last", "--trainer.max_epochs", "3")
    assert resumed.run_directory == Path("runs/tiny/003")
    assert record(resumed.run_directory)["parent"] == "runs/tiny/001/checkpoints/last.ckpt"
    content = torch.load(resumed.run_directory / CHECKPOINT, weights_only=True)
    assert (content["epoch"], content["global_step"]) == (2, 9)
    again = TrainingCommandLine(["--config", str(resumed.run_directory / "config.yaml"), "--ckpt_path", "last"])
    assert str(again.checkpoint) == "runs/tiny/003/checkpoints/last.ckpt"


def test_last_refuses_another_configuration(place, run_file):
    train(run_file)
    with pytest.raises(FileNotFoundError, match=r"no run under runs/tiny has this .*runs/tiny/001, differs"):
        train(run_file, "--ckpt_path", "last", "--model.h", "2.0")
    assert [path.name for path in (place / "runs" / "tiny").iterdir()] == ["001"]
    with pytest.raises(ValueError, match=r"trained with h = 2\.5, this run has h = 2\.0"):
        train(run_file, "--ckpt_path", str(place / "runs/tiny/001" / CHECKPOINT), "--model.h", "2.0")


def killed_at(file: Path, script: Path) -> Path:
    """Write a script that trains as `train.py` does and is killed, without a word before, when there is such a file."""
    script.write_text(f"""
import os, runpy, signal, threading, time

def kill():
    while not os.path.isfile({str(file)!r}):
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)

threading.Thread(target=kill, daemon=True).start()
runpy.run_path({str(REPOSITORY / "train.py")!r}, run_name="__main__")
""")
    return script


def test_killed_in_the_middle_of_an_epoch_it_goes_on_from_there(place, run_file):
    content = yaml.safe_load(run_file.read_text())
    content["trainer"]["max_epochs"] = 1
    content["trainer"]["callbacks"][0]["init_args"] = {"minutes": 1e-6}  # after every step
    content["data"]["init_args"]["epoch_images"] = 80
    run_file.write_text(yaml.safe_dump(content))
    killed = place / "runs/tiny/001" / CHECKPOINT
    ((code, said),) = start_processes(killed_at(killed, place / "killed.py"), ["--config", str(run_file), *QUIET], [{}])
    assert code == -signal.SIGKILL, said
    done = torch.load(killed, weights_only=True)["global_step"]
    assert 0 < done < 20
    resumed = train(run_file, "--ckpt_path", "last")
    assert resumed.run_directory == Path("runs/tiny/002")
    assert record(resumed.run_directory)["parent"] == "runs/tiny/001/checkpoints/last.ckpt"
    unbroken = train(run_file)
    ends = [torch.load(run.run_directory / CHECKPOINT, weights_only=True) for run in (resumed, unbroken)]
    assert [end["global_step"] for end in ends] == [20, 20]
    torch.testing.assert_close(ends[0]["state_dict"], ends[1]["state_dict"], rtol=1e-3, atol=1e-4)


def test_how_the_data_are_loaded_does_not_change_the_hash():
    config = {"data": {"class_path": "data.ShardDataModule", "init_args": {"root": "here", "workers": 1}}}
    more_workers = {"data": {"class_path": "data.ShardDataModule", "init_args": {"root": "here", "workers": 8}}}
    elsewhere = {"data": {"class_path": "data.ShardDataModule", "init_args": {"root": "there", "workers": 1}}}
    assert config_hash(config) == config_hash(more_workers) != config_hash(elsewhere)


def test_a_run_that_is_refused_while_it_is_built_leaves_no_directory(place, run_file):
    with pytest.raises(ValueError, match="unknown model"):
        train(run_file, "--model.classifier.init_args.name", "resnet5o")
    assert not list((place / "runs" / "tiny").iterdir())


def test_a_function_in_the_configuration_counts_by_its_name():
    """Its address, which `str` shows, is another in every process."""
    hashes = {
        config_hash({"model": {"rule": rule}}) for rule in (idgi, riemann, "dre.explainers.paths.integration.idgi")
    }
    assert len(hashes) == 2
