import json
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest
import wandb
import yaml
from PIL import Image
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.loggers.logger import DummyLogger

from callbacks import CheckpointArtifact, ResultsArtifact, RunCheckpoints
from callbacks.artifacts import logged_keys, scores_frame
from callbacks.image_selection import first_keys
from dre.cli.evaluation import EvaluationCommandLine
from dre.cli.training import TrainingCommandLine
from dre.models import read_checkpoint
from dre.runs.loggers import GuardedLogger
from tests.callbacks.evaluation import small_evaluation
from tests.command_line import offline_records, tiny_run_file, workplace
from tests.data.trees import packed
from tests.training import quiet_trainer, small_data, small_training

LOGGERS = ["wandb", "csv", *(["tensorboard"] if find_spec("tensorboard") else [])]
"""Of the tiny training, together."""


@pytest.fixture(scope="module")
def offline_run(tmp_path_factory):
    """Train and score the tiny run file with W&B offline: the run directory, and the records that W&B kept."""
    place = workplace(tmp_path_factory.mktemp("offline"))
    data = packed(place / "photographs", train=12, val=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setattr(sys, "argv", ["train.py"])
        patch.delenv("PL_GLOBAL_SEED", raising=False)
        words = ["--config", str(tiny_run_file(place / "tiny.yaml", data)), "--wandb", "offline"]
        run = TrainingCommandLine([*words, "--wandb_entity", "a-team", "--logger", ",".join(LOGGERS)])
        run.run()
        wandb.finish()
    return records_of(place / run.run_directory)


@pytest.fixture(scope="module")
def later_runs(offline_run):
    """Go on with that training for an epoch, and evaluate its best checkpoint: the records of both by their scripts."""
    place, found = offline_run[0].parents[2], {}
    wanted = ["--config", str(place / "tiny.yaml"), "--wandb", "offline", "--wandb_entity", "a-team"]
    again = ["--ckpt_path", "last", "--trainer.max_epochs", "3", "--score.explainers", "{}"]
    content = yaml.safe_load((place / "tiny.yaml").read_text())
    content["model"] = {
        "classifier": content["model"]["classifier"],
        "explainers": {"dre": {"class_path": "dre.explainers.DRE", "init_args": {"checkpoint": None}}},
    }
    content["trainer"] = {name: value for name, value in content["trainer"].items() if name != "callbacks"}
    del content["score"]
    (place / "evaluate.yaml").write_text(yaml.safe_dump(content))
    best = str(offline_run[0] / "checkpoints" / "best.ckpt")
    scored = ["--config", str(place / "evaluate.yaml"), "--wandb", "offline", "--ckpt_path", best, "--data.limit", "1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for command, words in ((TrainingCommandLine, [*wanted, *again]), (EvaluationCommandLine, scored)):
            patch.setattr(sys, "argv", [f"{command.kind}.py"])
            run = command(words)
            run.run()
            wandb.finish()
            found[command.kind] = records_of(place / run.run_directory)
    return found


def records_of(directory):
    (log,) = directory.glob("wandb/offline-run-*/run-*.wandb")
    return directory, log, complete_records(log)


def complete_records(log):
    """Read the records once the last of them is there: W&B writes in a process of its own, late on a cold machine."""
    end = time.monotonic() + 60
    records = list(offline_records(log))
    while not kept(records, "exit") and time.monotonic() < end:
        time.sleep(0.2)
        records = list(offline_records(log))
    return records


def kept(records, kind):
    return [getattr(record, kind) for record in records if record.WhichOneof("record_type") == kind]


def values(records) -> dict[str, list]:
    """Collect the logged values by name; a picture's parts have their own names."""
    found: dict[str, list] = {}
    for history in kept(records, "history"):
        for item in history.item:
            name = item.key or ".".join(item.nested_key)
            found.setdefault(name, []).append(json.loads(item.value_json))
    return found


def test_the_offline_run_holds_the_configuration(offline_run):
    directory, _, records = offline_run
    (run,) = kept(records, "run")[:1]
    assert (run.display_name, run.run_group, run.job_type, run.project) == ("tiny-001", "tiny", "runs", "dre")
    assert run.entity == "a-team"
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    for later in kept(records, "config"):
        config |= {item.key: json.loads(item.value_json) for item in later.update}
    assert config["seed_everything"] == 0
    assert config["model"]["widths"] == [8, 8, 8]
    assert config["model"]["classifier"]["init_args"]["name"] == "mobilenetv3_small_050"
    assert config["data"]["init_args"]["batch_size"] == 4
    assert directory.name == "001"


def test_the_offline_run_holds_the_curves(offline_run):
    curves = values(offline_run[2])
    assert len(curves["train/loss"]) == 6  # two epochs of three steps, each logged
    for name in ("train/target_probability", "train/pearson_skewness", "train/images_per_second", "train/data_wait"):
        assert len(curves[name]) == 6
    for name in ("val/faithfulness", "val/explainability", "val/pearson_skewness"):
        assert len(curves[name]) == 2
    assert all(0 <= value <= 1 for value in curves["val/faithfulness"] + curves["train/data_wait"])
    assert {f"test/{name}/faithfulness" for name in ("dre", "random")} <= curves.keys()


def test_the_offline_run_holds_the_gallery_and_the_scores(offline_run):
    directory, log, records = offline_run
    logged = values(records)
    (names,) = logged["test/gallery.filenames"]
    with Image.open(log.parent / "files" / names[0]) as picture, Image.open(directory / "gallery.png") as original:
        assert picture.size == original.size
    assert logged["test/scores._type"] == ["table-file"]
    assert logged["test/scores.nrows"] == [4]  # two images, two explainers
    assert logged["test/scores.ncols"] == [2 + 6 + 3]  # names, the explained class and the annotation, metrics
    assert logged["test/summary.nrows"] == [2 * 4]  # M_F, its min-max across explainers, M_E and skewness
    assert logged["test/curves.nrows"] == [2 * 33]
    for name in ("curve_panels", "critical_difference_faithfulness"):
        assert logged[f"test/{name}._type"] == ["images/separated"]
    files = {file.path for entry in kept(records, "files") for file in entry.files}
    assert names[0] in files


def test_the_offline_run_holds_the_best_and_the_last_checkpoint_as_versions_of_an_artifact(offline_run):
    directory, _, records = offline_run
    artifacts = [entry for entry in kept(records, "artifact") if entry.type == "model"]
    assert {artifact.name for artifact in artifacts} == {"tiny-001-checkpoint"}
    best, last = (set(artifact.aliases) for artifact in artifacts)
    assert "best" in best
    assert last == {"latest"}  # which W&B takes from the version before
    for artifact, file in zip(artifacts, ("best.ckpt", "last.ckpt"), strict=True):
        checkpoint = directory / "checkpoints" / file
        (entry,) = artifact.manifest.contents
        assert (entry.path, entry.size) == (file, checkpoint.stat().st_size)
        assert json.loads(artifact.metadata) == {"step": read_checkpoint(checkpoint)["global_step"]}


def test_the_offline_run_holds_a_table_of_photographs_and_maps_with_class_and_scores(offline_run):
    directory, _, records = offline_run
    assert values(records)["test/examples.nrows"] == [4]
    (artifact,) = [one for one in kept(records, "artifact") if one.type == "run_table" and "examples" in one.name]
    files = {one.path: Path(one.local_path) for one in artifact.manifest.contents}
    table = json.loads(files["test/examples.table.json"].read_text())
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    assert sorted(row["explainer"] for row in rows) == ["dre", "dre", "random", "random"]
    scores = scores_frame(directory / "scores.parquet").set_index(["key", "explainer"])
    for row in rows:
        known = scores.loc[(row["key"], row["explainer"])]
        assert row["target_name"] == known["target_name"]
        assert row["faithfulness"] == pytest.approx(known["faithfulness"])
        for column in ("photograph", "map"):
            assert row[column]["_type"] == "image-file"
            with Image.open(files[row[column]["path"]]) as picture:
                assert picture.size == (row[column]["width"], row[column]["height"])
    assert len({row["map"]["sha256"] for row in rows}) == 4
    assert len({row["photograph"]["sha256"] for row in rows}) == 2


def test_the_summary_of_the_offline_run_holds_the_best_value_and_its_step(offline_run):
    directory, _, records = offline_run
    found = {}
    for summary in kept(records, "summary"):
        for item in summary.update:
            found[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
    assert found["best/val/faithfulness"] == pytest.approx(max(values(records)["val/faithfulness"]))
    assert found["best/step"] == read_checkpoint(directory / "checkpoints" / "best.ckpt")["global_step"]


def test_normalised_faithfulness_is_a_number_of_the_offline_run(offline_run):
    logged = values(offline_run[2])
    summary = json.loads((offline_run[0] / "summary.json").read_text())["scores"]
    for name in ("dre", "random"):
        (value,) = logged[f"test/{name}/faithfulness_normalised"]
        assert value == pytest.approx(summary[name]["faithfulness_normalised"]["mean"])


def test_a_resumed_training_continues_its_run_on_wandb(offline_run, later_runs):
    (first,), (directory, _, records) = kept(offline_run[2], "run")[:1], later_runs["train"]
    again = kept(records, "run")[0]
    assert directory != offline_run[0]
    assert (again.run_id, again.display_name, again.project) == (first.run_id, "tiny-001", "dre")
    for place in (offline_run[0], directory):
        known = json.loads((place / "run.json").read_text())["loggers"]["wandb"]
        assert known == {"id": first.run_id, "name": "tiny-001", "project": "dre", "entity": "a-team"}
    steps = [values(part)["trainer/global_step"] for part in (offline_run[2], records)]
    assert max(steps[0]) < max(steps[1])
    assert {one.name for one in kept(records, "artifact")} == {"tiny-001-checkpoint"}


def test_an_evaluation_names_the_checkpoint_that_it_uses_by_the_artifact_of_its_training(offline_run, later_runs):
    (used,) = [one for one in kept(later_runs["evaluate"][2], "artifact") if one.use_after_commit]
    best, last = [one for one in kept(offline_run[2], "artifact") if one.type == "model"]
    assert (used.name, used.type, list(used.aliases)) == ("tiny-001-checkpoint", "model", [])  # and no alias moves
    assert used.digest == best.digest != last.digest
    assert kept(later_runs["evaluate"][2], "run")[0].run_id != kept(offline_run[2], "run")[0].run_id


def test_tables_and_drawn_pictures_are_files_where_a_logger_takes_none(offline_run):
    directory, _, _ = offline_run
    scores = pd.read_csv(directory / "logged/test/scores.csv")
    assert scores.columns.tolist() == scores_frame(directory / "scores.parquet").columns.tolist()
    assert len(scores) == 4
    examples = pd.read_csv(directory / "logged/test/examples.csv")
    for name in (*examples["photograph"], *examples["map"]):
        Image.open(directory / "logged/test" / name).verify()
    Image.open(directory / "logged/test/curve_panels.png").verify()
    assert {path.name for path in (directory / "logged/test").glob("*.csv")} == {
        f"{name}.csv" for name in ("scores", "summary", "curves", "examples")
    }
    assert not list((directory / "logged/test").glob("gallery.*"))  # which is a file of the run


def test_tensorboard_gets_the_same_numbers_and_pictures_and_the_configuration(offline_run):
    module = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = module.EventAccumulator(str(offline_run[0] / "tensorboard"))
    found.Reload()
    ours = {name: kept for name, kept in values(offline_run[2]).items() if name.startswith(("train/", "val/", "lr-"))}
    assert ours.keys() <= set(found.Tags()["scalars"])
    for name in ("train/loss", "val/faithfulness"):
        assert [one.value for one in found.Scalars(name)] == pytest.approx(ours[name], rel=1e-6)
    assert {"test/gallery", "test/curve_panels"} <= set(found.Tags()["images"])
    settings = yaml.safe_load((offline_run[0] / "tensorboard" / "hparams.yaml").read_text())
    assert settings["data.init_args.batch_size"] == 4


def test_the_offline_run_holds_what_the_evaluation_wrote_as_an_artifact(offline_run):
    directory, _, records = offline_run
    (artifact,) = [entry for entry in kept(records, "artifact") if entry.type == "results"]
    assert artifact.name == "tiny-001-results"
    sizes = {entry.path: entry.size for entry in artifact.manifest.contents}
    for name in ("scores.parquet", "summary.json", "summary.md", "curves.parquet", "gallery.png", "config.yaml"):
        assert sizes[name] == (directory / name).stat().st_size


def test_results_before_the_metrics_are_said(five_shards, tmp_path):
    trainer = quiet_trainer(tmp_path, callbacks=[ResultsArtifact()])
    logger = WandbLogger(save_dir=tmp_path, mode="disabled")
    trainer.loggers = [logger]
    with pytest.warns(UserWarning, match="list ResultsArtifact after ExplanationMetrics"):
        trainer.test(small_evaluation(), small_data(five_shards), verbose=False)
    wandb.finish()


class Failing(DummyLogger):
    """Fail when the second epoch begins to log, as a full disk or a lost server would."""

    calls = 0

    def log_metrics(self, metrics, step=None) -> None:
        self.calls += 1
        if self.calls > 2:
            raise OSError("no space on https://me:secret@host/store\nmore")


class GuardedFailing(GuardedLogger, Failing):
    """As the loggers of a run are."""


def test_a_logger_that_fails_costs_no_training_and_without_wandb_nothing_happens(five_shards, tmp_path):
    logger = GuardedFailing()
    callbacks = [RunCheckpoints(), CheckpointArtifact()]
    trainer = quiet_trainer(tmp_path, max_epochs=1, callbacks=callbacks, logger=logger, log_every_n_steps=1)
    with pytest.warns(UserWarning, match="GuardedFailing failed .no space on https.*nothing more is logged") as said:
        trainer.fit(small_training(embedding_epochs=0), small_data(five_shards))
    (line,) = [str(one.message) for one in said if "GuardedFailing" in str(one.message)]
    assert "secret" not in line
    assert logger.calls == 3
    assert read_checkpoint(tmp_path / "checkpoints/last.ckpt")["global_step"] == trainer.global_step > 2
    assert not (tmp_path / "wandb").exists()


def test_the_table_of_scores_has_the_class_of_each_image_and_none_of_an_earlier_version(tmp_path):
    rows = [(key, name, metric, 0.5) for key in "ab" for name in ("dre", "random") for metric in ("m", "n")]
    scores = pd.DataFrame(rows[:-1], columns=["key", "explainer", "metric", "value"]).astype({"metric": "category"})
    scores.to_parquet(tmp_path / "old.parquet")
    assert scores_frame(tmp_path / "old.parquet").columns.tolist() == ["key", "explainer", "m", "n"]
    labels = pd.array([3] * 4 + [None] * 3, dtype="Int32")
    scores.assign(label=labels, target_name=["cat"] * 4 + ["dog"] * 3).to_parquet(tmp_path / "new.parquet")
    found = scores_frame(tmp_path / "new.parquet")
    assert found.drop(columns="n").to_numpy().tolist() == [
        ["a", "dre", "cat", 3, 0.5],
        ["a", "random", "cat", 3, 0.5],
        ["b", "dre", "dog", None, 0.5],
        ["b", "random", "dog", None, 0.5],
    ]
    assert found["n"].isna().tolist() == [False, False, False, True]
    assert [logged_keys(tmp_path / "new.parquet", most) for most in (4, 3, 1)] == [
        None,
        chosen := first_keys("ab", 1),
        chosen,
    ]
    assert scores_frame(tmp_path / "new.parquet", chosen)["key"].tolist() == chosen * 2
