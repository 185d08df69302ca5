"""Run files by name, commands from any directory, and what `--list` prints."""

import re

import pytest
from jsonargparse import Namespace

from dre.api import list_explainers
from dre.cli.evaluation import EvaluationCommandLine
from dre.cli.repository import LISTS, locate_roots, located, repository_root, shipped_path
from dre.metrics.by_name import named_metrics
from tests.cli.test_cli import refusal
from tests.command_line import REPOSITORY

ELSEWHERE = str(REPOSITORY / "configs")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Work in an empty directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "kind", "found"),
    [
        (["--config", "demo"], "train", ["--config", f"{ELSEWHERE}/train/demo.yaml"]),
        (["--config", "demo"], "evaluate", ["--config", f"{ELSEWHERE}/evaluate/demo.yaml"]),
        (["-c", "paper_recipe"], "train", ["-c", f"{ELSEWHERE}/with/paper_recipe.yaml"]),
        (["--config=robust"], "evaluate", [f"--config={ELSEWHERE}/evaluate/robust.yaml"]),
        (["--config", "configs/train/demo.yaml"], "train", ["--config", f"{ELSEWHERE}/train/demo.yaml"]),
        (["--model.classifier", "configs/classifier/vgg19.yaml"], "train", None),
        (["--data.root=data/demo"], "train", [f"--data.root={REPOSITORY}/data/demo"]),
        (["--name", "demo", "--limit", "3"], "evaluate", ["--name", "demo", "--limit", "3"]),
        (["--data.root", "data/mine"], "train", ["--data.root", "data/mine"]),
        (["--config", "mine.yaml"], "train", ["--config", "mine.yaml"]),
        (["--name", "data", "--wandb_project=configs"], "train", ["--name", "data", "--wandb_project=configs"]),
        (["--trainer.default_root_dir", "data"], "train", ["--trainer.default_root_dir", "data"]),
    ],
)
def test_names_and_paths_of_the_repository_are_found(words, kind, found):
    expected = found or [words[0], f"{REPOSITORY}/{words[1]}"]
    assert located(words, kind) == expected


def test_what_is_in_the_current_directory_comes_first(elsewhere):
    (elsewhere / "data" / "demo").mkdir(parents=True)
    (elsewhere / "robust").mkdir()  # a folder is no run file
    assert located(["--config", "robust"], "evaluate") == ["--config", f"{ELSEWHERE}/evaluate/robust.yaml"]
    (elsewhere / "demo").write_text("name: mine")
    assert shipped_path("data/demo") == "data/demo"
    assert located(["--config", "demo"], "train") == ["--config", "demo"]


def test_photographs_of_the_repository_are_read_from_any_directory():
    data = Namespace(init_args=Namespace(root="data/demo", val_root=None))
    locate_roots(data)
    assert data.init_args.root == str(REPOSITORY / "data" / "demo")


def test_an_unknown_run_file_suggests_the_nearest():
    line = refusal(EvaluationCommandLine, ["--config", "robus"])
    assert line.startswith(
        "error: there is no run file 'robus'; did you mean robust? `python evaluate.py --list configs`"
    )


@pytest.mark.parametrize("what", LISTS)
def test_lists_name_what_there_is(what, capsys):
    with pytest.raises(SystemExit) as stop:
        EvaluationCommandLine(["--list", what])
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 80
    whole = re.sub(r"\n +", "  ", said)  # what does not fit in a line goes on below
    lines = dict(re.split(r"\s+", line, maxsplit=1) for line in whole.splitlines())
    assert stop.value.code == 0
    configs = REPOSITORY / "configs"
    files = {folder: set((configs / folder).glob("*.yaml")) for folder in ("evaluate", "with", "data", "classifier")}
    expected = {
        "explainers": set(list_explainers()),
        "metrics": set(named_metrics()),
        "configs": {path.stem for path in files["evaluate"] | files["with"]},
        "data": {f"configs/data/{path.name}" for path in files["data"]},
        "classifiers": {f"configs/classifier/{path.name}" for path in files["classifier"]},
    }
    assert set(lines) == expected[what]
    assert all(line.strip() for line in lines.values())


@pytest.mark.parametrize("words", [["--list"], ["--list", "explainer"], ["--list=--limit"]])
def test_a_list_that_there_is_not_is_refused(words):
    line = refusal(EvaluationCommandLine, words)
    assert line.startswith("error: --list takes one of explainers, metrics, data, classifiers, configs, got ")


def test_the_run_files_lie_beside_the_script(elsewhere, monkeypatch):
    assert repository_root() == REPOSITORY
    (elsewhere / "clone" / "configs" / "train").mkdir(parents=True)
    monkeypatch.setattr("sys.argv", [str(elsewhere / "clone" / "train.py")])
    assert repository_root() == elsewhere / "clone"
