import json
import sys
import time

import pandas as pd
import pytest
import wandb
from PIL import Image
from pytorch_lightning.loggers import WandbLogger

from callbacks import CheckpointArtifact, ResultsArtifact
from callbacks.artifacts import logged_keys, scores_frame
from callbacks.image_selection import first_keys
from dre.cli.training import TrainingCommandLine
from dre.models import read_checkpoint
from tests.callbacks.evaluation import small_evaluation
from tests.command_line import offline_records, tiny_run_file, workplace
from tests.data.trees import packed
from tests.training import quiet_trainer, small_data, small_training


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
        run = TrainingCommandLine([*words, "--wandb_entity", "a-team"])
        run.run()
        wandb.finish()
    directory = place / run.run_directory
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
        assert logged[f"test/{name}._type"] == ["image-file"]
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


def test_without_wandb_nothing_happens(five_shards, tmp_path):
    trainer = quiet_trainer(tmp_path, max_epochs=1, callbacks=[CheckpointArtifact()])
    trainer.fit(small_training(embedding_epochs=0), small_data(five_shards))
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
