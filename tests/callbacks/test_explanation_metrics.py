import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import average_precision_score

from callbacks import ExplanationMetrics
from data.datamodule import ShardDataModule
from dre.masking import substrate
from dre.metrics import Faithfulness
from dre.sweeps import smooth_ranking
from tests.callbacks.evaluation import EXPLAINERS, small_evaluation
from tests.training import quiet_trainer, small_data


def evaluate(root: Path, data: ShardDataModule, module=None) -> pd.DataFrame:
    trainer = quiet_trainer(root, callbacks=[ExplanationMetrics(show=False)])
    trainer.test(module or small_evaluation(), data, verbose=False)
    return pd.read_parquet(root / "scores.parquet")


def all_batches(data: ShardDataModule):
    return [data.on_after_batch_transfer(batch, 0) for batch in data.test_dataloader()]


def faithfulness_of_one(classifier, image, target, saliency) -> float:
    """Compute M_F of one image the slow way: rank, keep the best i / 32 over the blurred image, average."""
    ranking = smooth_ranking(saliency[None], Faithfulness.sweep.smoothing)[0].flatten()
    order = ranking.argsort(descending=True, stable=True)
    blurred, total = substrate(image[None], "blur")[0], 0.0
    for step in range(1, 33):
        mask = torch.zeros(order.numel())
        mask[order[: round(step / 32 * order.numel())]] = 1
        shown = torch.where(mask.view(1, *saliency.shape[1:]) > 0, image, blurred)
        total += classifier(shown[None]).softmax(1)[0, target].item() / 32
    return total


def test_the_table_holds_what_a_direct_computation_gives(five_shards, tmp_path):
    data = small_data(five_shards, eval_batch_size=4, limit=5)
    frame = evaluate(tmp_path, data).set_index(["key", "explainer", "metric"])["value"]
    module, expected = small_evaluation(), {}
    for batch in all_batches(data):
        for place, key in enumerate(batch["key"]):
            image, objects = batch["images"][place : place + 1], batch["objects"][place]
            target = module.classifier(image).argmax(1)
            for name, explainer in module.explainers.items():
                saliency = explainer(image, target, [key])[0]
                flat = saliency.flatten().double().numpy()
                third = 3 * (flat.mean() - np.median(flat)) / flat.std(ddof=0)
                with torch.no_grad():
                    value = faithfulness_of_one(module.classifier, image[0], int(target), saliency)
                expected[key, name, "faithfulness"] = value
                expected[key, name, "pearson_skewness"] = third
                truth = objects.flatten().numpy() > 0
                expected[key, name, "explainability"] = average_precision_score(truth, saliency.flatten().numpy())
    assert set(frame.index) == set(expected)
    assert len(frame) == 5 * 3 * 3
    for row, value in frame.items():
        assert value == pytest.approx(expected[row], rel=2e-3, abs=2e-4), row


def test_files_and_logged_values_agree_with_the_table(five_shards, tmp_path):
    module = small_evaluation()
    trainer = quiet_trainer(tmp_path, callbacks=[ExplanationMetrics(show=False)])
    (logged,) = trainer.test(module, small_data(five_shards), verbose=False)
    frame = pd.read_parquet(tmp_path / "scores.parquet")
    assert list(frame.columns) == ["key", "explainer", "metric", "value"]
    order = frame.sort_values(["key", "explainer", "metric"], kind="stable").index
    assert list(order) == list(range(len(frame)))
    summary = json.loads((tmp_path / "summary.json").read_text())
    for (explainer, metric), values in frame.groupby(["explainer", "metric"])["value"]:
        assert logged[f"test/{explainer}/{metric}"] == pytest.approx(values.mean(), rel=1e-5)
        entry = summary["scores"][explainer][metric]
        assert entry["mean"] == pytest.approx(values.mean(), rel=1e-9)
        assert entry["low"] < entry["mean"] < entry["high"]
    text = (tmp_path / "summary.md").read_text()
    assert all(name in text for name in EXPLAINERS)
    assert "Images: 18 evaluated, 18 explained, 18 for explainability" in text
    assert "| grad_cam - random |" in text
    assert text.count("Average ranks over 18 images") == 3  # skewness has no better end
    assert (summary["evaluated"], summary["reference"]) == (18, "grad_cam")


def test_an_image_too_few_is_an_error(five_shards, tmp_path):
    class Losing(ShardDataModule):
        """Lose an image on the way."""

        def on_after_batch_transfer(self, batch, dataloader_idx):
            batch = super().on_after_batch_transfer(batch, dataloader_idx)
            if len(batch["key"]) < 4:
                return batch
            return {name: value[1:] for name, value in batch.items()}

    whole = small_data(five_shards, eval_batch_size=16)
    data = Losing(str(five_shards), workers=0, eval_batch_size=16, preprocessing=whole.preprocessing)
    with pytest.raises(ValueError, match=r"17 images were evaluated, the data has 18"):
        evaluate(tmp_path, data)
    assert not (tmp_path / "scores.parquet").exists()


def test_limited_batches_are_not_compared_with_the_data(five_shards, tmp_path):
    trainer = quiet_trainer(tmp_path, callbacks=[ExplanationMetrics(show=False)], limit_test_batches=1)
    trainer.test(small_evaluation(), small_data(five_shards, eval_batch_size=4), verbose=False)
    assert pd.read_parquet(tmp_path / "scores.parquet")["key"].nunique() == 4


def test_only_correct_images_are_scored_and_a_batch_without_any_is_skipped(five_shards, tmp_path):
    data = small_data(five_shards, eval_batch_size=1)  # so that there are batches in which nothing is kept
    classifier = small_evaluation(classes=2).classifier
    correct = {b["key"][0] for b in all_batches(data) if int(classifier(b["images"]).argmax()) == int(b["labels"])}
    assert 0 < len(correct) < 18
    frame = evaluate(tmp_path, data, small_evaluation(classes=2, images="correct"))
    assert set(frame["key"]) == correct


def test_the_label_can_be_explained_instead_of_the_prediction(five_shards, tmp_path):
    data = small_data(five_shards, limit=6)
    module = small_evaluation(classes=2, target="label")
    frame = evaluate(tmp_path, data, module).set_index(["key", "explainer", "metric"])["value"]
    for batch in all_batches(data):
        for place, key in enumerate(batch["key"]):
            image, label = batch["images"][place : place + 1], batch["labels"][place : place + 1]
            saliency = module.explainers["vanilla_gradient"](image, label, [key])[0]
            with torch.no_grad():
                expected = faithfulness_of_one(module.classifier, image[0], int(label), saliency)
            assert frame[key, "vanilla_gradient", "faithfulness"] == pytest.approx(expected, rel=2e-3, abs=2e-4)


@pytest.mark.filterwarnings("ignore:.*has no image to average", "ignore:The ``compute`` method")
def test_a_run_in_which_nothing_is_kept_writes_an_empty_table(five_shards, tmp_path):
    data = small_data(five_shards)
    transfer = data.on_after_batch_transfer
    data.on_after_batch_transfer = lambda batch, index: {
        **transfer(batch, index),
        "labels": torch.full_like(batch["labels"], 4),
    }
    module = small_evaluation(images="correct")
    module.classifier.network.head.bias.data[4] = -1e4  # never predicted
    assert evaluate(tmp_path, data, module).empty


@pytest.mark.ddp
def test_one_two_and_three_ranks_write_the_same_table(five_shards, tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    frames = [evaluate(tmp_path, small_data(five_shards, eval_batch_size=4))]
    for ranks in (2, 3):
        out = tmp_path / str(ranks)
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
        command += ["-m", "tests.callbacks.distributed_evaluation", str(five_shards), str(out)]
        subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=300)
        frames.append(pd.read_parquet(out / "scores.parquet"))
    assert len(frames[0]) == 18 * 3 * 3
    names = ["key", "explainer", "metric"]
    for other in frames[1:]:
        pd.testing.assert_frame_equal(other[names], frames[0][names])
        np.testing.assert_allclose(other["value"], frames[0]["value"], rtol=1e-4, atol=1e-6)  # float32 scores
