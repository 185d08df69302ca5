"""Dashboards read what runs write, the documentation names it, and a sweep's agent can start a trial."""

import json
import re
import sys
from itertools import product

import pytest
import wandb
import yaml

from dre.cli import TrainingCommandLine
from dre.dashboard import EXPLAINERS, METRICS, check_definition, definition, keys_of, main
from dre.evaluation_cli import EvaluationCommandLine
from tests.callbacks.test_artifacts import complete_records, kept
from tests.command_line import QUIET, REPOSITORY, workplace

TRIAL = {"model.eta": 1.2, "model.h": 2.0, "model.rate": 0.004}


def command_of_the_agent(sweep) -> list[str]:
    """Fill in the command of a sweep file as its agent does: the parameters take the place of `${args}`."""
    words = [word for word in sweep["command"] if word not in ("${env}", "${interpreter}", "${program}")]
    filled = [[f"--{name}={value}" for name, value in TRIAL.items()] if word == "${args}" else [word] for word in words]
    return [word for part in filled for word in part]


@pytest.fixture(scope="module")
def offline(tmp_path_factory):
    """One trial of the sweep and an evaluation, tried out with W&B offline: the records of both, and the trial."""
    place = workplace(tmp_path_factory.mktemp("offline"))
    sweep = yaml.safe_load((REPOSITORY / "configs" / "sweeps" / "controller.yaml").read_text())
    shared = ["--smoke=true", "--wandb=offline", *QUIET]
    runs = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setattr(sys, "argv", ["train.py"])
        patch.delenv("PL_GLOBAL_SEED", raising=False)
        for command, arguments in (
            (TrainingCommandLine, [*command_of_the_agent(sweep), "--trainer.log_every_n_steps=1"]),
            (EvaluationCommandLine, []),
        ):
            runs.append(command([*arguments, *shared]))
            runs[-1].run()
            wandb.finish()
    logs = [next((place / run.run_directory).glob("wandb/offline-run-*/run-*.wandb")) for run in runs]
    records = dict(zip(("training", "evaluation"), map(complete_records, logs), strict=True))
    return {**records, "trial": runs[0], "sweep": sweep}


def names_in(records) -> set[str]:
    """Name what was logged; tables and pictures have parts of their own, below their name."""
    items = [item for history in kept(records, "history") for item in history.item]
    return {item.nested_key[0] if item.nested_key else item.key for item in items}


def documented(heading: str) -> list[str]:
    section = (REPOSITORY / "docs" / "wandb.md").read_text().split(f"## {heading}")[1].split("\n## ")[0]
    return re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE)


def test_what_is_documented_of_a_training_is_logged(offline):
    keys = documented("What a training logs")
    assert len(keys) == 8
    missing = set(keys) - names_in(offline["training"])
    assert missing <= {"train/images_per_second", "train/data_wait"}  # logged every ten steps


def test_what_is_documented_of_an_evaluation_is_logged(offline):
    keys = documented("What an evaluation logs")
    assert len(keys) == 11
    chosen = {"EXPLAINER": "grad_cam", "METRIC": "faithfulness"}
    filled = {re.sub("EXPLAINER|METRIC", lambda found: chosen[found[0]], key) for key in keys}
    assert filled <= names_in(offline["evaluation"])


def test_names_groups_tags_and_artifacts_are_those_of_the_documentation(offline):
    for kind, name, job in (("training", "sweep-001", "runs"), ("evaluation", "demo-001", "results")):
        run = kept(offline[kind], "run")[0]
        assert (run.display_name, run.run_group, run.job_type, run.project) == (name, name[:-4], job, "dre")
        assert list(run.tags) == ["tf_efficientnet_lite0", "demo", "smoke"]
    artifacts = {(one.name, one.type) for kind in ("training", "evaluation") for one in kept(offline[kind], "artifact")}
    assert {
        ("sweep-001-checkpoint", "model"),
        ("sweep-001-results", "results"),
        ("demo-001-results", "results"),
    } <= artifacts


def test_the_dashboards_read_what_runs_log(offline):
    logged = names_in(offline["training"]) | names_in(offline["evaluation"])
    wanted = set(keys_of(["grad_cam", "random"], list(METRICS)))
    assert wanted - logged <= {"train/images_per_second", "train/data_wait"}


def test_a_trial_of_the_sweep_has_its_parameters_and_the_value_that_is_optimised(offline):
    trial, sweep = offline["trial"], offline["sweep"]
    assert set(sweep["parameters"]) == set(TRIAL)
    for name, value in TRIAL.items():
        bounds = sweep["parameters"][name]
        assert bounds["min"] <= value <= bounds["max"]
        assert trial.config.model[name.removeprefix("model.")] == value
    assert sweep["metric"] == {"name": "val/faithfulness", "goal": "maximize"}
    assert sweep["metric"]["name"] in names_in(offline["training"])
    assert (REPOSITORY / sweep["program"]).is_file()


def test_the_definition_survives_being_read_back(tmp_path):
    pytest.importorskip("wandb_workspaces")
    main(["--out", str(tmp_path / "dashboard.json"), "--entity", "team"])
    content = json.loads((tmp_path / "dashboard.json").read_text())
    assert content["workspace"]["entity"] == "team"
    text = json.dumps(content["report"])
    for explainer, metric in product(EXPLAINERS, METRICS):
        assert f"test/{explainer}/{metric}" in text
    with pytest.raises(ValueError, match="the workspace does not show test/nobody"):
        check_definition(content, ["test/nobody"])


def test_chosen_explainers_are_those_that_are_shown():
    pytest.importorskip("wandb_workspaces")
    content = definition("team", "dre", ["grad_cam"], ["explainability"])
    assert "test/random/" not in json.dumps(content)
    check_definition(content, keys_of(["grad_cam"], ["explainability"]))


def test_without_the_package_a_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    with pytest.raises(ValueError, match=r"dashboards need the package wandb-workspaces: pip install"):
        main([])
