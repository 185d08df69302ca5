"""Dashboards: their keys are those that runs log and the documentation lists; a sweep's agent can start a trial."""

import ast
import json
import re
import sys
from contextlib import nullcontext
from itertools import product

import pytest
import wandb
import yaml
from pytorch_lightning.callbacks import LearningRateMonitor
from pytorch_lightning.loggers.logger import DummyLogger

from callbacks import SalientPixels, Throughput
from dre.cli.dashboard import EXPLAINERS, METRICS, check_definition, definition, keys_of, main
from dre.cli.evaluation import EvaluationCommandLine
from dre.cli.training import TrainingCommandLine
from dre.runs.wandb_run import wandb_mode
from tests.callbacks.test_artifacts import complete_records, kept
from tests.classification import classification, labelled_data, quarters
from tests.command_line import QUIET, REPOSITORY, SMALL, tiny_run_file, workplace
from tests.data.trees import packed
from tests.figures import leave_figures_undrawn, leave_panels_undrawn
from tests.training import quiet_trainer, small_data, small_training

TRIAL = {"model.eta": 1.2, "model.h": 2.0, "model.lr": 0.004}


def command_of_the_agent(sweep) -> list[str]:
    """Fill in the command of a sweep file as its agent does: the parameters take the place of `${args}`."""
    words = [word for word in sweep["command"] if word not in ("${env}", "${interpreter}", "${program}")]
    filled = [[f"--{name}={value}" for name, value in TRIAL.items()] if word == "${args}" else [word] for word in words]
    return [word for part in filled for word in part]


@pytest.fixture(scope="module")
def offline(tmp_path_factory):
    """Run one trial of the sweep and an evaluation with W&B offline; return the records of both, and the trial."""
    place = workplace(tmp_path_factory.mktemp("offline"))
    sweep = yaml.safe_load((REPOSITORY / "configs" / "sweeps" / "controller.yaml").read_text())
    shared = ["--smoke=true", "--wandb=offline", *SMALL, *QUIET]
    runs = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setattr(sys, "argv", ["train.py"])
        patch.delenv("PL_GLOBAL_SEED", raising=False)
        leave_figures_undrawn(patch)
        leave_panels_undrawn(patch)
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


SELDOM = {"train/images_per_second", "train/data_wait"}
"""Logged every ten steps."""

LIGHTNINGS = {"epoch", "trainer/global_step", "_step", "_timestamp", "_runtime"}


def undocumented(keys, *headings: str) -> set[str]:
    """Return the keys that no heading names; words in capitals stand for anything but a slash."""
    known = [re.sub("[A-Z]{2,}", "[^/]+", key) for heading in headings for key in documented(heading)]
    return {key for key in keys if not any(re.fullmatch(one, key) for one in known)} - LIGHTNINGS


def names_in_the_source() -> set[str]:
    """Return the logged names in the source code, as patterns where parts are filled in."""
    found = set()
    for path in (path for room in ("dre", "callbacks") for path in (REPOSITORY / room).rglob("*.py")):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        parts = {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
        for node in nodes:
            if isinstance(node, ast.JoinedStr):
                found.add("".join(part.value if isinstance(part, ast.Constant) else "[^/]+" for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts:
                found.add(node.value)
    return {name for name in found if re.fullmatch(r"(train|val|test)/\S*[^/\s]", name)}


OF_VARIANTS = {
    "dre": {"train/target_probability"},
    "fast_shap": {"train/efficiency_gap", "train/score_change"},
    "nn_explainer": {"train/other_mask_mean"},
}
"""What a training logs that is not the same for every variant."""


class Recorder(DummyLogger):
    """Keep the names of what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.keys: set[str] = set()

    def log_metrics(self, metrics, step=None) -> None:
        self.keys |= set(metrics)


def keys_logged_by(place, model, data, epochs: int) -> set[str]:
    """Train for so many epochs, with the callbacks of the run files that log."""
    logger, callbacks = Recorder(), [Throughput(every=1), LearningRateMonitor()]
    options = {"logger": logger, "log_every_n_steps": 1, "max_epochs": epochs, "enable_checkpointing": False}
    quiet_trainer(place, callbacks=callbacks, **options).fit(model, data)
    return logger.keys


def test_what_is_documented_of_a_training_is_logged_and_the_other_way_round(offline):
    keys, logged = documented("What a training logs"), names_in(offline["training"])
    missing = undocumented(set(keys) - logged, "What a classifier training logs")
    assert missing <= {*SELDOM, "train/embedding_loss", *set().union(*OF_VARIANTS.values())}
    assert undocumented(logged, "What a training logs", "What an evaluation logs") == set()


@pytest.mark.parametrize("variant", OF_VARIANTS)
def test_both_stages_of_each_training_log_what_is_documented(tmp_path, variant):
    data = small_data(packed(tmp_path / "photographs", train=8, val=4))
    logged = keys_logged_by(tmp_path, small_training(variant=variant), data, epochs=2)
    assert {"train/embedding_loss", *OF_VARIANTS[variant]} <= logged
    assert undocumented(logged, "What a training logs") == set()


def test_what_is_documented_of_a_classifier_training_is_logged_and_the_other_way_round(tmp_path):
    model = classification(num_classes=10)  # of which the data name four: then there are five others
    data = labelled_data(quarters(tmp_path / "pictures"), model)
    with pytest.warns(UserWarning, match="the data name 4 classes"):
        logged = keys_logged_by(tmp_path, model, data, epochs=1)
    heading = "What a classifier training logs"
    assert undocumented(logged, heading) == set()
    assert set(documented(heading)) - logged == {"lr-OPTIMIZER/pgNUMBER"}
    assert "lr-SGD/pg1" in logged


def test_what_is_documented_of_an_evaluation_is_logged_and_the_other_way_round(offline):
    keys, logged = documented("What an evaluation logs"), names_in(offline["evaluation"])
    chosen = {"EXPLAINER": "grad_cam", "METRIC": "faithfulness"}
    filled = {re.sub("EXPLAINER|METRIC", lambda found: chosen[found[0]], key) for key in keys}
    assert filled - logged == {"test/salient_PERCENT"}  # of a callback that the demo evaluation has not
    assert undocumented(logged, "What an evaluation logs") == set()


def test_every_key_that_the_code_writes_is_documented():
    names = names_in_the_source()
    assert {"train/mask_mean", "train/images_per_step", "test/[^/]+/figure", "test/xmgd"} <= names
    headings = ("a training logs", "a classifier training logs", "an evaluation logs")
    known = [key for heading in headings for key in documented(f"What {heading}")] + documented("What studies log")
    assert {name for name in names if not any(re.fullmatch(name, key) for key in known)} == set()


def test_pictures_and_studies_are_documented_by_the_names_they_have():
    for title in SalientPixels(shares=(0.05, 0.1)).titles():
        assert undocumented({f"test/{title}"}, "What an evaluation logs") == set()
    assert {"test/STUDY/points", "test/STUDY/figure", "test/STUDY/maps"} <= set(documented("What studies log"))


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
    assert wanted - logged <= SELDOM


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


@pytest.mark.parametrize(
    ("environment", "key", "mode"),
    [
        ({}, False, "offline"),
        ({}, True, "online"),
        ({"WANDB_MODE": "offline"}, True, "offline"),
        ({"WANDB_MODE": "dryrun"}, True, "offline"),
        ({"WANDB_MODE": "disabled"}, True, "off"),
        ({"WANDB_MODE": "Disabled"}, False, "off"),
        ({"WANDB_MODE": "online"}, False, "online"),
        ({"WANDB_DISABLED": "true"}, True, "off"),
        ({"WANDB_DISABLED": "1", "WANDB_MODE": "online"}, True, "off"),
        ({"WANDB_DISABLED": "false"}, True, "online"),
        ({"WANDB_DISABLED": ""}, False, "offline"),
    ],
)
def test_the_environment_decides_over_the_key_where_nothing_was_said(monkeypatch, environment, key, mode):
    for name in ("WANDB_MODE", "WANDB_DISABLED", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("dre.runs.wandb_run.has_wandb_key", lambda: key)
    assert wandb_mode() == mode


def test_a_mode_that_is_none_is_refused_in_a_line(monkeypatch):
    monkeypatch.delenv("WANDB_DISABLED", raising=False)
    monkeypatch.setenv("WANDB_MODE", "maybe")
    with pytest.raises(
        ValueError, match="WANDB_MODE must be online, offline or disabled, got 'maybe'; unset it, or use"
    ):
        wandb_mode()


@pytest.mark.parametrize(
    ("asked", "begun"), [("auto", []), ("online", ["online", "offline"]), ("offline", ["offline"])]
)
def test_a_server_that_cannot_be_reached_and_a_disabled_one_cost_no_training(tmp_path, monkeypatch, asked, begun):
    """The flag decides over the environment; an error of the server makes the run an offline one."""
    place, modes = workplace(tmp_path), []

    def init(mode, **options):
        modes.append(mode)
        if mode == "online":
            raise wandb.errors.CommError("no route to host\nmore")
        return wandb.sdk.lib.RunDisabled()

    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "argv", ["train.py"])
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setattr(wandb, "run", None)
    path = tiny_run_file(place / "tiny.yaml", packed(place / "photographs", train=8, val=4))
    said = pytest.warns(UserWarning, match=r"W&B cannot be reached \(no route to host\): logging offline")
    with said if asked == "online" else nullcontext():
        run = TrainingCommandLine(["--config", str(path), "--wandb", asked, *QUIET])
    loggers = run.trainer.loggers
    for logger in loggers[1:]:
        logger.experiment  # noqa: B018
    assert modes == begun
    assert len(loggers) == 1 + bool(begun)
