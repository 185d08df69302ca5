"""Loggers by name: how flags and the environment rank, what is refused, and what becomes of a logger that fails."""

import json
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import wandb
from jsonargparse import Namespace
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger, WandbLogger
from pytorch_lightning.loggers.logger import DummyLogger

from callbacks import CheckpointArtifact, ExplanationMetrics, ResultsArtifact, RunCheckpoints, SaliencyPanel
from callbacks.logged import log_table
from dre.cli.evaluation import EvaluationCommandLine
from dre.cli.logger_options import make_loggers
from dre.cli.training import TrainingCommandLine
from dre.explainers import GradCAM, Random
from dre.modules import ExplainerEvaluation
from dre.runs.directory import write_record
from dre.runs.loggers import (
    GuardedCSVLogger,
    HyperParameters,
    LoggedRun,
    check_packages,
    chosen_loggers,
    loggers_to_continue,
    note,
)
from dre.runs.mlflow_run import GuardedMLFlowLogger, mlflow_logger
from dre.runs.wandb_run import MaskedWandbLogger, WandbLineage, training_of, wandb_logger
from tests.training import quiet_trainer, small_data, small_training


def logged_run(directory, **options) -> LoggedRun:
    return LoggedRun(directory, group="tiny", project="dre", job_type="runs", **options)


@pytest.mark.parametrize(
    ("logger", "asked", "environment", "used"),
    [
        ("wandb", "auto", {}, ["csv", "offline"]),  # no key
        ("wandb", "auto", {"WANDB_MODE": "disabled"}, ["csv"]),
        ("wandb", "offline", {"WANDB_MODE": "disabled"}, ["csv", "offline"]),
        ("wandb", "off", {"WANDB_MODE": "online"}, ["csv"]),
        ("csv", "auto", {"WANDB_MODE": "online"}, ["csv with tables"]),
        (["csv", "wandb"], "offline", {}, ["csv with tables", "offline"]),
        ("wandb,csv", "auto", {"WANDB_DISABLED": "true"}, ["csv with tables"]),
        ("none", "auto", {"WANDB_MODE": "online"}, []),
    ],
)
def test_logger_ranks_above_wandb_and_wandb_above_the_environment(
    tmp_path, monkeypatch, logger, asked, environment, used
):
    for name in ("WANDB_MODE", "WANDB_DISABLED", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("dre.runs.wandb_run.has_wandb_key", lambda: False)
    found = []
    for one in make_loggers(SimpleNamespace(logger=logger, wandb=asked), logged_run(tmp_path)):
        if isinstance(one, WandbLogger):
            found.append(one._wandb_init["mode"])
        elif isinstance(one, CSVLogger):
            found.append("csv with tables" if one.has_tables else "csv")
        else:
            assert isinstance(one, DummyLogger)
    assert found == used


def test_wandb_beside_a_logger_that_is_not_wandb_is_said_to_do_nothing(tmp_path):
    with pytest.warns(UserWarning, match="--wandb online does nothing: --logger csv has no wandb"):
        loggers = make_loggers(SimpleNamespace(logger="csv", wandb="online"), logged_run(tmp_path))
    assert len(loggers) == 1


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ("tensorbord", "--logger knows no 'tensorbord'; choose wandb, tensorboard, mlflow, csv, several with commas"),
        ("csv,none", "--logger takes wandb, .* or none, got 'csv,none'"),
        (["csv", "none"], "--logger takes wandb, .* or none, got 'csv,none'"),
        ("", "--logger takes wandb, .* or none, got ''"),
        ("mlflow", r"--logger mlflow needs the package mlflow: pip install .*\[mlflow\]"),
        ("csv,tensorboard", r"--logger tensorboard needs the package tensorboard: pip install .*\[tensorboard\]"),
    ],
)
def test_what_is_no_logger_and_a_package_that_lacks_get_one_line(given, line, monkeypatch):
    for package in ("mlflow", "tensorboard", "tensorboardX"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=line) as refused:
        check_packages(chosen_loggers(given))
    assert "\n" not in str(refused.value)


def test_both_scripts_and_run_files_take_loggers(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["script"])
    (tmp_path / "more.yaml").write_text("logger: [csv, tensorbord]\n")
    with pytest.raises(ValueError, match="--logger knows no 'tensorbord'"):
        TrainingCommandLine(["--config", "demo", "--config", str(tmp_path / "more.yaml")])
    with pytest.raises(ValueError, match=r"--logger takes .* or none, got 'csv,none'"):
        EvaluationCommandLine(["--logger", "csv,none"])


def test_what_a_logger_began_is_recorded_and_continued_by_the_same_configuration_alone(tmp_path):
    config = {"model": {"eta": 1.5}, "data": {}, "seed_everything": 0}
    assert loggers_to_continue(tmp_path, config) == {}
    note(tmp_path, "wandb", {"id": "abc"})  # of a trainer without a run directory: nothing is written
    assert not list(tmp_path.iterdir())
    write_record(tmp_path, config, None)
    note(tmp_path, "wandb", {"id": "abc_1-2", "name": "tiny-001"})
    note(tmp_path, "mlflow", {"id": "../../elsewhere"})
    assert json.loads((tmp_path / "run.json").read_text())["loggers"]["wandb"]["name"] == "tiny-001"
    assert loggers_to_continue(tmp_path, config) == {"wandb": {"id": "abc_1-2", "name": "tiny-001"}}
    assert loggers_to_continue(tmp_path, config | {"seed_everything": 1}) == {}


@pytest.mark.parametrize("is_resumed", [True, False])
def test_an_evaluation_that_is_resumed_continues_what_its_directory_records(tmp_path, is_resumed):
    config = {"model": {"name": "small"}, "data": {"init_args": {"root": "https://me:secret@host/birds"}}}
    write_record(tmp_path, config, None)
    note(tmp_path, "wandb", {"id": "abc", "name": "tiny-001"})
    content = Namespace(name="tiny", wandb_project="dre", wandb_entity=None, smoke=False, model={"name": "small"})
    content.data = Namespace(init_args=config["data"]["init_args"])
    run = SimpleNamespace(config=content, plain_config=lambda: config, checkpoint=None, family="results")
    run.run_directory, run.is_resumed = tmp_path, is_resumed
    told = EvaluationCommandLine.logged_run(run)
    assert told.continued == ({"wandb": {"id": "abc", "name": "tiny-001"}} if is_resumed else {})
    assert told.tags == ["small", "birds"]
    assert "secret" not in str(told)


@pytest.mark.parametrize(
    ("before", "environment", "continued"),
    [
        ({"id": "abc", "name": "tiny-001", "project": "dre", "entity": None}, {}, ("abc", "tiny-001")),
        ({"id": "abc", "name": "tiny-001", "project": "other", "entity": None}, {}, (None, "tiny-002")),
        ({"id": "abc", "name": "tiny-001", "project": "dre", "entity": "team"}, {}, (None, "tiny-002")),
        (
            {"id": "abc", "name": "tiny-001", "project": "dre", "entity": None},
            {"WANDB_RUN_ID": "x"},
            (None, "tiny-001"),
        ),
        ({}, {}, (None, "tiny-002")),
    ],
)
def test_a_run_on_wandb_goes_on_in_its_own_project_alone(tmp_path, monkeypatch, before, environment, continued):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    run = logged_run(tmp_path / "002", continued={"wandb": before} if before else {})
    options = wandb_logger("offline", run)._wandb_init
    assert (options["id"], options["name"]) == continued


def test_wandb_that_cannot_begin_offline_is_left_out_and_the_run_goes_on(tmp_path, monkeypatch):
    def init(**options):
        raise OSError("disk full\nmore")

    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setattr(wandb, "run", None)
    logger = wandb_logger("offline", logged_run(tmp_path))
    assert isinstance(logger, MaskedWandbLogger)
    with pytest.warns(UserWarning, match=r"MaskedWandbLogger failed \(disk full\)"):
        logger.log_metrics({"train/loss": 1.0}, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it is said once
        logger.log_table("test/a", columns=["a"], data=[[1]])
        logger.finalize("success")


def test_metrics_csv_on_a_full_disk_costs_nothing(tmp_path, monkeypatch):
    logger = GuardedCSVLogger(tmp_path, name="", version="")
    logger.log_metrics({"train/loss": 1.0}, 1)
    monkeypatch.setattr(CSVLogger, "save", lambda self: (tmp_path / "no folder" / "metrics.csv").write_text(""))
    with pytest.warns(UserWarning, match="GuardedCSVLogger failed .*No such file"):
        logger.save()
    logger.log_metrics({"train/loss": 2.0}, 2)
    logger.save()


def test_mlflow_that_cannot_be_used_is_left_out(tmp_path, monkeypatch):
    def uri():
        raise OSError("cannot connect to https://me:secret@host/ml")

    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace(get_tracking_uri=uri))
    with pytest.warns(UserWarning, match=r"MLflow cannot be used \(cannot connect to .*goes on without it") as said:
        assert mlflow_logger(logged_run(tmp_path)) is None
    assert "secret" not in str(said[0].message)


class Store(Exception):  # noqa: N818 -- it is the store, and its own error
    """Stand for a store of MLflow's: its client, its entities and its error."""

    error_code = "RESOURCE_DOES_NOT_EXIST"

    def __init__(self, known=()):
        self.known, self.batches = known, []
        self.tables = {"test/summary.json": [["random", 1.0]] if "old" in known else []}

    def get_run(self, number):
        if number not in self.known:
            raise self
        return SimpleNamespace(info=SimpleNamespace(experiment_id="1"))

    def get_experiment_by_name(self, name):
        return SimpleNamespace(lifecycle_stage="active", experiment_id="1")

    def create_run(self, **options):
        return SimpleNamespace(info=SimpleNamespace(run_id="new"))

    def log_text(self, run_id, text, artifact_file):
        self.tables[artifact_file] = json.loads(text)["data"]

    def log_table(self, run_id, data, artifact_file):
        self.tables[artifact_file] = [*self.tables.get(artifact_file, []), *data.to_numpy().tolist()]

    def log_batch(self, run_id, **entries):
        self.batches += [(run_id, one["key"]) for group in entries.values() for one in group]


@pytest.mark.parametrize(("before", "used"), [(None, "new"), ("old", "old"), ("lost", "new")])
def test_mlflow_gets_names_that_it_takes_and_a_run_that_is_lost_is_begun_anew(tmp_path, monkeypatch, before, used):
    store = Store(known=["old"])
    modules = {
        "mlflow": {"set_tracking_uri": str, "get_tracking_uri": str},
        "mlflow.tracking": {"MlflowClient": lambda uri: store},
        "mlflow.tracking.context.registry": {"resolve_tags": dict},
        "mlflow.utils.mlflow_tags": {"MLFLOW_RUN_NAME": "name"},
        "mlflow.entities": {"Param": dict, "Metric": dict},
    }
    for name, content in modules.items():
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(**content))
    monkeypatch.setattr("pytorch_lightning.loggers.mlflow._MLFLOW_AVAILABLE", True)
    monkeypatch.setattr("pytorch_lightning.loggers.mlflow._get_resolve_tags", lambda: dict)
    continued = {"mlflow": {"id": before, "experiment": "dre"}} if before else {}
    write_record(tmp_path, {}, None)
    logger = mlflow_logger(logged_run(tmp_path, continued=continued))
    assert isinstance(logger, GuardedMLFlowLogger)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if before == "lost" else "error")
        trainer = SimpleNamespace(is_global_zero=True, loggers=[logger])
        HyperParameters({"model": {"samp+idgi": 1}}).setup(trainer, None, "test")
        logger.log_metrics({"test/samp+idgi/faithfulness": 0.5}, 1)
    names = ["model.samp_idgi"] if used == "new" else []  # a run that goes on has its parameters
    assert store.batches == [(used, name) for name in [*names, "test/samp_idgi/faithfulness"]]
    assert json.loads((tmp_path / "run.json").read_text())["loggers"]["mlflow"]["id"] == used
    if used == "old":  # what the run had is replaced
        frame = pd.DataFrame({"explainer": pd.Categorical(["random"]), "mean": [2.0]})
        log_table(trainer, "test/summary", frame)
        assert store.tables["test/summary.json"] == [["random", 2.0]]


def test_a_checkpoint_outside_of_a_run_has_no_training_to_name(tmp_path):
    path = tmp_path / "demo" / "001" / "checkpoints" / "best.ckpt"
    assert training_of(path) is None
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")
    assert training_of(path) is None
    for content in ("{}", '{"loggers": ["wandb"]}', '{"loggers": {"wandb": "mine"}}'):
        (path.parents[1] / "run.json").write_text(content)
        assert training_of(path) == "demo-001"
        assert loggers_to_continue(path.parents[1], {}) == {}
    (path.parents[1] / "run.json").write_text(json.dumps({"loggers": {"wandb": {"name": "mine"}}}))
    assert training_of(path) == "mine"


def test_a_checkpoint_that_cannot_be_read_leaves_the_lineage_of_the_others(tmp_path, monkeypatch):
    paths = [tmp_path / "demo" / number / "checkpoints" / "best.ckpt" for number in ("001", "002")]
    for path in paths:
        path.parent.mkdir(parents=True)
        path.write_bytes(b"")
        (path.parents[1] / "run.json").write_text("{}")
    used = []

    def use(run, path, name):
        if name == "demo-001":
            raise ValueError("no archive")
        used.append(name)

    monkeypatch.setattr("dre.runs.wandb_run._use", use)
    monkeypatch.setattr(MaskedWandbLogger, "experiment", None)
    trainer = SimpleNamespace(is_global_zero=True, loggers=[wandb_logger("offline", logged_run(tmp_path))])
    with pytest.warns(UserWarning, match=r"not told that the run uses best.ckpt of demo-001 \(no archive\)"):
        WandbLineage(paths).setup(trainer, None, "test")
    assert used == ["demo-002"]


def mlflow_run(place, monkeypatch, **options):
    """Return a logger to a store of files below `place`, which is made faster than a database."""
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: (place / "store").as_uri())
    logger = mlflow_logger(logged_run(place, **options))
    assert logger is not None
    return logger


@pytest.mark.slow
def test_mlflow_gets_the_same_numbers_tables_pictures_and_files_and_goes_on(tmp_path, monkeypatch, five_shards):
    config = {"model": {"eta": 1.5}, "seed_everything": 0}
    write_record(tmp_path, config, None)
    logger = mlflow_run(tmp_path, monkeypatch, config=config)
    metrics = ExplanationMetrics(show=False)
    callbacks = [RunCheckpoints(), CheckpointArtifact(), metrics, SaliencyPanel(images=2), ResultsArtifact()]
    callbacks.append(HyperParameters(config))
    trainer = quiet_trainer(tmp_path, max_epochs=1, callbacks=callbacks, logger=logger, log_every_n_steps=1)
    model, data = small_training(embedding_epochs=0), small_data(five_shards)
    trainer.fit(model, data)
    trainer.test(ExplainerEvaluation(model.classifier, {"grad_cam": GradCAM, "random": Random}), data, verbose=False)
    client = logger.experiment
    run = client.get_run(logger.run_id)
    assert run.data.params["model.eta"] == "1.5"
    assert run.data.metrics["best/val/faithfulness"] == pytest.approx(run.data.metrics["val/faithfulness"])
    assert {"test/random/faithfulness", "test/random/faithfulness_normalised"} <= run.data.metrics.keys()
    found = {
        one.path
        for folder in ("test", "checkpoint", "results")
        for one in client.list_artifacts(run.info.run_id, folder)
    }
    tables = {f"test/{name}.json" for name in ("scores", "summary", "curves", "examples")}
    assert tables | {"test/gallery.png", "test/curve_panels.png", "checkpoint/last.ckpt"} <= found
    assert "results/summary.json" in found
    known = loggers_to_continue(tmp_path, config)
    assert known["mlflow"]["id"] == run.info.run_id
    again = mlflow_run(tmp_path, monkeypatch, config=config, continued=known)
    again.log_metrics({"train/loss": 0.5}, 99)
    assert again.run_id == run.info.run_id
    assert client.get_metric_history(run.info.run_id, "train/loss")[-1].step == 99


def test_tensorboard_lies_in_the_run_directory(tmp_path):
    pytest.importorskip("tensorboard")
    (one, two) = make_loggers(SimpleNamespace(logger="tensorboard", wandb="auto"), logged_run(tmp_path))
    assert isinstance(one, CSVLogger)
    assert not one.has_tables
    assert isinstance(two, TensorBoardLogger)
    assert Path(two.log_dir) == tmp_path / "tensorboard"
