import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import average_precision_score
from torch import nn

from callbacks import ExplanationMetrics
from callbacks.artifacts import summary_frame
from callbacks.explained_classes import CLASS_COLUMNS
from data.datamodule import ShardDataModule
from data.folder import read_labels
from dre.engine.perturbation import SweepEngine, smooth_ranking
from dre.engine.scoring import other_class
from dre.explainers import Random, VanillaGradient
from dre.images.fill import fill_images
from dre.images.segmentation_masks import crop_mask
from dre.metrics import (
    AccuracyInformationCurve,
    CurveSettings,
    Entropy,
    Explainability,
    Faithfulness,
    FaithfulnessCorrelation,
    ImageMean,
    Infidelity,
    InfidelityScaled,
    Insertion,
    MonotonicityCorrelation,
    PearsonSkewness,
    PointingGame,
    SensitivityN,
    SoftmaxInformationCurve,
    Spearman,
)
from dre.metrics.base import feed
from dre.metrics.map_comparison import MapComparison
from dre.modules import ExplainerEvaluation
from dre.reporting import Report, report_html
from tests.callbacks import distributed_evaluation
from tests.callbacks.evaluation import EXPLAINERS, small_evaluation
from tests.data.trees import blob, masked_folder, pack, photo, with_broken
from tests.metrics.examples import metric_classes
from tests.networks import small_classifier
from tests.ranks import run_ranks
from tests.training import quiet_trainer, small_data

pytestmark = pytest.mark.usefixtures("undrawn_figures")  # the diagrams of ranks: tests of artifacts look at them


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
    blurred, total = fill_images(image[None], "blur")[0], 0.0
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
    assert list(frame.columns) == ["key", "explainer", "metric", "value", *CLASS_COLUMNS, "annotation"]
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
    assert "Images: 18 evaluated, 18 explained." in text
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


@pytest.mark.parametrize("wanted", ["correct", "wrong"])
def test_only_wanted_images_are_scored_and_a_batch_without_any_is_skipped(five_shards, tmp_path, wanted):
    data = small_data(five_shards, eval_batch_size=1)  # so that there are batches in which nothing is kept
    classifier = small_evaluation(classes=2).classifier
    right = {b["key"][0]: int(classifier(b["images"]).argmax()) == int(b["labels"]) for b in all_batches(data)}
    expected = {key for key, is_right in right.items() if is_right == (wanted == "correct")}
    assert 0 < len(expected) < 18
    frame = evaluate(tmp_path, data, small_evaluation(classes=2, images=wanted))
    assert set(frame["key"]) == expected


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


def test_images_without_a_value_are_explained_all_the_same(five_shards, tmp_path):
    data = small_data(five_shards)
    transfer = data.on_after_batch_transfer
    data.on_after_batch_transfer = lambda batch, index: {
        name: value for name, value in transfer(batch, index).items() if name != "objects"
    }
    assert evaluate(tmp_path, data, small_evaluation(metrics={"explainability": Explainability()})).empty
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["evaluated"], summary["explained"]) == (18, 18)


@pytest.mark.parametrize("alone", [False, True])
def test_a_metric_without_any_value_stays_in_the_tables_with_its_reason(tmp_path, alone):
    for number in range(4):
        photo(number).save(tmp_path / f"{number}.png")  # no boxes
    metrics = {"explainability": Explainability()} | ({} if alone else {"faithfulness": Faithfulness()})
    module = ExplainerEvaluation(small_classifier(), {"random": Random, "gradient": VanillaGradient}, metrics)
    evaluate(tmp_path, small_data(tmp_path, allow_train_images_in_val=True), module)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["without_value"] == {"explainability": "no image that was explained has a mask or a box"}
    assert summary["metrics"][0] == "explainability"
    assert summary["scores"]["random"]["explainability"]["mean"] is None
    text = (tmp_path / "summary.md").read_text()
    assert "| random | no value |" in text
    assert "`explainability` has no value: no image that was explained has a mask or a box." in text
    assert "were skipped" not in text
    page = report_html(Report("Evaluation", summary))
    assert page.count(">no value<") == 2
    assert "explainability has no value: no image that was explained has a mask or a box." in page
    rows = summary_frame(summary).set_index(["explainer", "metric"])
    assert rows.loc[("gradient", "explainability"), "no_value"] == "no image that was explained has a mask or a box"


def test_objects_are_masks_where_an_image_has_one_and_the_files_say_so(tmp_path):
    data = small_data(masked_folder(tmp_path / "source", empty=4), eval_batch_size=3)
    module = small_evaluation(metrics={"explainability": Explainability(), "entropy": Entropy()})
    frame = evaluate(tmp_path, data, module)
    by_key = frame.drop_duplicates("key").set_index("key")["annotation"].astype(str)
    assert {key: kind for key, kind in by_key.items() if kind != "box"} == {
        **{f"val_{number:03d}": "mask" for number in (0, 2, 6)},
        "val_004": "none",
    }
    values = frame[frame["metric"] == "explainability"].set_index(["key", "explainer"])["value"]
    assert len(values) == 6 * 3
    for batch in all_batches(data):
        for place, key in enumerate(batch["key"]):
            image, number = batch["images"][place : place + 1], int(key[-3:])
            truth = batch["objects"][place].flatten().numpy()
            if number % 2 == 0:  # as it is cropped by the reference of the images' own tests
                truth = crop_mask(blob(number) & (number != 4), data.preprocessing).flatten().numpy()
            saliency = module.explainers["vanilla_gradient"](image, module.classifier(image).argmax(1), [key])
            expected = average_precision_score(truth, saliency.flatten().numpy()) if truth.any() else math.nan
            found = values.get((key, "vanilla_gradient"), math.nan)
            assert found == pytest.approx(expected, rel=2e-3, nan_ok=True)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["annotations"] == {"mask": 3, "box": 3, "none": 1, "metrics": ["explainability"]}
    said = "objects are masks in 3 images and boxes in 3 images, which the column `annotation` of scores.parquet tells"
    assert f"`explainability`: {said} apart; 1 without." in (tmp_path / "summary.md").read_text()
    assert said.replace("`", "") in report_html(Report("Evaluation", summary))


def every_metric() -> dict[str, ImageMean]:
    """All metrics that an evaluation can feed, at sizes for 64 x 64 pixels."""
    small = {
        SoftmaxInformationCurve: {"settings": "shared_grey_entropy"},
        AccuracyInformationCurve: {"settings": "shared_grey_entropy"},
    }
    sets = (SensitivityN, Infidelity, InfidelityScaled, FaithfulnessCorrelation, MonotonicityCorrelation)
    small |= {kind: {"sizes": 2, "draws": 4} for kind in sets}
    classes = [kind for kind in metric_classes() if issubclass(kind, ImageMean) and not issubclass(kind, MapComparison)]
    return {kind.__name__: kind(**small.get(kind, {})) for kind in classes}


def test_every_metric_can_be_chosen_and_reads_its_own_sweeps(five_shards, tmp_path):
    """One value of each against the metric fed by hand, image by image, with a sweep engine of its own."""
    metrics = every_metric()
    assert {"Insertion", "Deletion", "PointingGame", "AverageDrop", "Concentration"} <= metrics.keys()
    data, module = small_data(five_shards, eval_batch_size=4, limit=6), small_evaluation(metrics=metrics)
    frame = evaluate(tmp_path, data, module)
    found = frame[frame["explainer"] == "vanilla_gradient"].set_index(["key", "metric"])["value"]
    for batch in all_batches(data):
        for place, key in enumerate(batch["key"]):
            image, objects = batch["images"][place : place + 1], batch["objects"][place : place + 1]
            target = module.classifier(image).argmax(1)
            saliency = module.explainers["vanilla_gradient"](image, target, [key])
            other = module.explainers["vanilla_gradient"](image, other_class(module.classifier(image), target), [key])
            known = {"saliency": saliency, "images": image, "objects": objects, "targets": target, "keys": [key]}
            known["other_saliency"] = other
            for name, metric in every_metric().items():
                sweeps = list(metric.sweeps.values())
                read = SweepEngine(module.classifier).run(image, target, saliency, sweeps, [key])
                value = float(feed(metric, known, dict(zip(sweeps, read, strict=True))))
                assert found.get((key, name), math.nan) == pytest.approx(value, rel=2e-2, abs=2e-3, nan_ok=True), name


def test_metrics_are_ordered_and_printed_as_the_run_says(five_shards, tmp_path):
    metrics = {"insertion_logit": Insertion(CurveSettings(read="logit")), "pointing": PointingGame()}
    evaluate(tmp_path, small_data(five_shards), small_evaluation(metrics=metrics))
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["metrics"] == ["insertion_logit", "pointing"]
    assert summary["explainers"] == list(EXPLAINERS)
    assert summary["unscaled"] == ["insertion_logit"]
    assert summary["normalised"] == {}
    assert "x 100 (insertion_logit as it is)" in (tmp_path / "summary.md").read_text()
    curves = pd.read_parquet(tmp_path / "curves.parquet")
    assert set(curves["metric"]) == {"insertion_logit"}


def test_a_metric_that_asks_for_what_there_is_not_is_refused(five_shards, tmp_path):
    module = small_evaluation(metrics={"spearman": Spearman()})
    with pytest.raises(ValueError, match=r"metric spearman \(Spearman\) asks for `reference`, which an evaluation"):
        evaluate(tmp_path, small_data(five_shards), module)


class Broken(Random):
    """Give NaN for one image and a constant map for another."""

    def explain(self, images, targets):
        saliency = super().explain(images, targets)
        for place, key in enumerate(self.keys):
            if key == "val_003":
                saliency[place, 0, 0, 0] = math.nan
            elif key == "val_005":
                saliency[place] = 0.5
        return saliency


def test_broken_and_constant_maps_are_counted_and_the_others_scored(five_shards, tmp_path):
    module = ExplainerEvaluation(small_classifier(), {"broken": Broken, "random": Random})
    with pytest.warns(UserWarning, match=r"broken gave maps with NaN or infinity, which are not scored: val_003"):
        frame = evaluate(tmp_path, small_data(five_shards, eval_batch_size=4), module)
    rows = frame.set_index(["explainer", "metric", "key"])["value"]
    assert rows["broken"].loc[:, "val_003"].isna().all()
    assert rows["random"].notna().all()
    others = rows["broken", "faithfulness"].drop(["val_003", "val_005"])
    np.testing.assert_allclose(others, rows["random", "faithfulness"][others.index], rtol=1e-4)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["maps"] == {"constant": {"broken": 1, "random": 0}, "non_finite": {"broken": 1, "random": 0}}
    assert summary["scores"]["broken"]["faithfulness"]["nan"] == 1
    assert "1 constant maps of broken, 1 non-finite maps of broken" in (tmp_path / "summary.md").read_text()


@pytest.mark.ddp
def test_one_two_and_three_ranks_write_the_same_table(tmp_path):
    five_shards = tmp_path / "packed"
    pack(read_labels(masked_folder(tmp_path / "source", 20, 18)), five_shards)
    frames = [evaluate(tmp_path, small_data(five_shards, eval_batch_size=4))]
    for ranks in (2, 3):
        out = tmp_path / str(ranks)
        run_ranks(distributed_evaluation.main, ranks, five_shards, out)
        frames.append(pd.read_parquet(out / "scores.parquet"))
    assert len(frames[0]) == 18 * 3 * 3
    names = ["key", "explainer", "metric", "target", "target_name", "label", "correct", "annotation"]
    assert frames[0].drop_duplicates("key")["annotation"].value_counts().to_dict() == {"mask": 9, "box": 9, "none": 0}
    for other in frames[1:]:
        pd.testing.assert_frame_equal(other[names], frames[0][names])
        for name in ("value", "probability"):
            np.testing.assert_allclose(other[name], frames[0][name], rtol=1e-4, atol=1e-6)  # float32 scores


class Faulty(nn.Module):
    """Classify well, but give NaN for images that are brighter than a bound, masked ones too."""

    def __init__(self, network, bound):
        super().__init__()
        self.network, self.bound = network, bound

    def forward(self, images):
        bright = images.flatten(1).mean(1) > self.bound
        return self.network(images).masked_fill(bright[:, None], math.nan)


def faulty_evaluation(bound, explainers=None, **options):
    classifier = small_classifier()
    explainers = explainers or {"random": Random, "grad": VanillaGradient}
    module = ExplainerEvaluation(classifier, explainers, **options)
    classifier.network = Faulty(classifier.network, bound)
    return module


def normalised_bound(data, classifier, above):
    """Return a bound, on normalised images, that so many of the data lie above."""
    means = {}
    for batch in all_batches(data):
        seen = ((batch["images"] - classifier.mean) / classifier.std).flatten(1).mean(1)
        means |= dict(zip(batch["key"], seen.tolist(), strict=True))
    ordered = sorted(means, key=means.get, reverse=True)
    bound = (means[ordered[above - 1]] + means[ordered[above]]) / 2 if above < len(ordered) else -1e9
    return bound, ordered[:above]


@pytest.mark.parametrize("metrics", [{"pearson_skewness": PearsonSkewness()}, None])
def test_images_without_logits_are_named_and_their_rows_are_nan(five_shards, tmp_path, metrics):
    data = small_data(five_shards, eval_batch_size=4, limit=9)
    data.setup()
    bound, broken = normalised_bound(data, small_classifier(), 2)
    with pytest.warns(UserWarning, match="logits with NaN or infinity, so these are not explained: val_") as said:
        frame = evaluate(tmp_path, data, faulty_evaluation(bound, metrics=metrics))
    assert all(any(key in str(one.message) for one in said) for key in broken)
    rows = frame[frame["metric"] == "pearson_skewness"].set_index(["key", "explainer"])["value"]
    assert {key for key, _ in rows[rows.isna()].index} == set(broken)
    assert len(rows) == 18
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["scores"]["grad"]["pearson_skewness"]["nan"] == 2
    assert summary["maps"]["non_finite"] == {"random": 2, "grad": 2}
    fine = evaluate(tmp_path, data, faulty_evaluation(1e9, metrics=metrics))
    both = fine.merge(frame, on=["key", "explainer", "metric"], validate="1:1")
    left = both[~both["key"].isin(broken)].dropna()
    np.testing.assert_allclose(left["value_x"], left["value_y"], rtol=1e-5)


def test_nan_of_masked_copies_alone_costs_the_metrics_that_read_them(five_shards, tmp_path):
    class Dark(Faulty):  # a copy with everything hidden is black
        def forward(self, images):
            return self.network(images).masked_fill((images.flatten(1).std(1) < 1e-6)[:, None], math.nan)

    metrics = {"skewness": PearsonSkewness(), "insertion": Insertion(CurveSettings(4, "black", smoothing=0))}
    module = faulty_evaluation(0, {"random": Random}, metrics=metrics)
    module.classifier.network = Dark(module.classifier.network.network, 0)
    with pytest.warns(UserWarning, match="gave NaN or infinity for masked copies by random: val_"):
        frame = evaluate(tmp_path, small_data(five_shards, limit=3), module)
    values = frame.groupby("metric", observed=True)["value"]
    assert values.count().to_dict() == {"skewness": 3, "insertion": 0}
    assert values.size().to_dict() == {"skewness": 3, "insertion": 3}


def test_a_classifier_that_gives_nan_for_every_image_stops_the_run(five_shards, tmp_path):
    with pytest.raises(ValueError, match=r"gives NaN or infinity for each of 3 images; check its weights"):
        evaluate(tmp_path, small_data(five_shards, limit=3), faulty_evaluation(-1e9))
    assert not (tmp_path / "summary.json").exists()


class Unlucky(Random):
    """Fail on one image."""

    def explain(self, images, targets):
        if "val_003" in self.keys:
            raise RuntimeError("no map\nfor this one")
        return super().explain(images, targets)


class Choosy(PearsonSkewness):
    """Fail on the map of one image."""

    def update(self, saliency, keys):
        super().update(saliency)
        if "val_003" in keys:
            raise RuntimeError("no map\nfor this one")


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize(
    ("explainers", "metrics"),
    [
        ({"lucky": Random, "unlucky": Unlucky}, None),
        ({"lucky": Random}, {"skewness": Choosy(), "other": Faithfulness()}),
    ],
)
def test_an_image_that_cannot_be_explained_or_scored_is_skipped_with_its_reason(
    five_shards, tmp_path, explainers, metrics, size
):
    data = small_data(five_shards, eval_batch_size=size, limit=None)
    module = faulty_evaluation(1e9, explainers, metrics=metrics, on_error="skip")
    with pytest.warns(UserWarning, match="image 'val_003' is skipped: RuntimeError: no map for this one"):
        frame = evaluate(tmp_path, data, module)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["skipped"] == {"val_003": "RuntimeError: no map for this one"}
    assert (summary["evaluated"], summary["explained"]) == (17, 17)
    assert frame["key"].nunique() == 17
    assert "17 explained, 1 skipped" in (tmp_path / "summary.md").read_text()
    metric = module.metrics["skewness" if metrics else "pearson_skewness"]
    assert len(frame[frame["metric"] == ("skewness" if metrics else "pearson_skewness")]) == 17 * len(explainers)
    assert metric.count == 0  # the templates are left alone
    with pytest.raises(RuntimeError, match="no map"):
        evaluate(tmp_path, data, faulty_evaluation(1e9, explainers, metrics=metrics))


def test_a_run_without_any_image_left_is_an_error(five_shards, tmp_path):
    class Never(Random):
        def explain(self, images, targets):
            raise RuntimeError("never")

    module = faulty_evaluation(1e9, {"never": Never}, on_error="skip")
    with pytest.raises(
        ValueError, match=r"no image is left to score: all 18 are skipped; of 'val_\d+': RuntimeError: never"
    ):
        evaluate(tmp_path, small_data(five_shards), module)


def test_images_that_the_data_skipped_count_against_the_manifest(tmp_path):
    data = small_data(with_broken(tmp_path, "val", 2), eval_batch_size=4, on_error="skip")
    evaluate(tmp_path, data)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["skipped"].keys() == {"val_000", "val_001"}
    assert all("truncated" in reason for reason in summary["skipped"].values())
    assert summary["evaluated"] == 5


def test_images_that_are_missing_without_a_reason_are_an_error(five_shards, tmp_path, monkeypatch):
    data = small_data(five_shards, eval_batch_size=4)
    monkeypatch.setattr(type(data), "expected_images", lambda self, stage: 19)
    with pytest.raises(ValueError, match="18 images were evaluated, the data has 19"):
        evaluate(tmp_path, data)
