import json
import math
import warnings
from functools import partial

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from callbacks import ExplanationCost, ExplanationMetrics, ProjectionGap
from dre.engine.perturbation import SweepEngine
from dre.explainers import CAM, DRE, CentredGaussian, GradCAM, IntegratedGradients, Random, VanillaGradient
from dre.explainers.base import UnsupportedError
from dre.metrics import ClassSensitivity, Faithfulness, PearsonSkewness
from dre.models import Classifier
from dre.modules import ExplainerEvaluation
from tests.callbacks import distributed_evaluation
from tests.callbacks.evaluation import small_evaluation
from tests.data.trees import packed, photo
from tests.explainers.test_bad_input import without_maps
from tests.networks import SmallNetwork, small_batch, small_classifier
from tests.ranks import run_ranks
from tests.training import quiet_trainer, small_data


@pytest.fixture(autouse=True)
def _without_diagrams(monkeypatch):
    """Draw none of ranks: tests of figures and of artifacts do, and smoke runs."""
    monkeypatch.setattr("callbacks.explanation_metrics.write_rank_diagrams", lambda *_: [])


def test_explainers_that_do_not_work_are_refused_or_left_out_with_their_reason():
    builders = {"cam": CAM, "vanilla_gradient": VanillaGradient, "grad_cam": GradCAM}
    with pytest.raises(UnsupportedError, match="flat one"):
        ExplainerEvaluation(without_maps(), builders)
    with pytest.warns(UserWarning, match="cam is left out: CAM"):
        module = ExplainerEvaluation(without_maps(), builders, unsupported="leave_out")
    assert list(module.explainers) == list(module.variants.builders) == ["vanilla_gradient"]
    assert list(module.left_out) == ["cam", "grad_cam"]
    assert "; these work" not in module.left_out["cam"]


def test_an_evaluation_without_any_explainer_that_works_is_refused():
    with pytest.raises(UnsupportedError, match="flat one"), pytest.warns(UserWarning, match="left out"):
        ExplainerEvaluation(without_maps(), {"cam": CAM, "grad_cam": GradCAM}, unsupported="leave_out")


def test_what_is_missing_for_another_reason_is_refused_all_the_same():
    with pytest.raises(ValueError, match="checkpoint"):
        ExplainerEvaluation(small_classifier(), {"dre": DRE, "plain": VanillaGradient}, unsupported="leave_out")


def evaluated(root, names, classes=3, **options):
    classifier = small_classifier(classes)
    classifier.class_names = names
    module = ExplainerEvaluation(classifier, {"random": Random}, **options)
    quiet_trainer(root).test(module, datamodule=small_data(packed(root / "data", val=4)), verbose=False)


@pytest.mark.parametrize("options", [{"target": "label"}, {"images": "correct"}, {"images": "wrong"}])
def test_labels_that_the_classifier_knows_by_other_names_are_refused_where_they_are_used(tmp_path, options):
    with pytest.raises(ValueError, match="class 0 is 'cat' in the data and 'dog' to"):
        evaluated(tmp_path, ("dog", "cat", "emu"), **options)


def test_labels_of_another_number_of_classes_are_said_once_where_they_are_used(tmp_path):
    with pytest.warns(UserWarning, match="labels are right only if") as said:
        evaluated(tmp_path, None, target="label")
    assert sum("labels are right only if" in str(one.message) for one in said) == 1


@pytest.mark.parametrize("names", [("dog", "cat", "emu"), None])
def test_labels_that_are_not_used_may_be_of_any_classes(tmp_path, names):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "labels are right only if")
        evaluated(tmp_path, names)


def test_labels_beyond_the_classifiers_classes_stop_nothing_where_they_are_not_used(tmp_path):
    data = small_data(packed(tmp_path / "data", val=4))
    transfer = data.on_after_batch_transfer
    data.on_after_batch_transfer = lambda batch, index: {**transfer(batch, index), "labels": batch["labels"] + 7}
    module = ExplainerEvaluation(small_classifier(), {"random": Random})
    quiet_trainer(tmp_path).test(module, datamodule=data, verbose=False)
    for options in ({"target": "label"}, {"images": "wrong"}):
        module = ExplainerEvaluation(small_classifier(), {"random": Random}, **options)
        with pytest.raises(ValueError, match=r"has class \d, the classifier knows 0\.\.4"):
            quiet_trainer(tmp_path).test(module, datamodule=data, verbose=False)


@pytest.mark.parametrize("options", [{"target": "label"}, {"images": "correct"}, {"images": "wrong"}])
def test_data_without_classes_are_refused_before_the_run_where_they_are_needed(tmp_path, monkeypatch, options):
    for number in range(3):
        photo(number).save(tmp_path / f"{number}.png")
    data = small_data(tmp_path, allow_train_images_in_val=True)
    quiet_trainer(tmp_path).test(ExplainerEvaluation(small_classifier(), {"random": Random}), data, verbose=False)
    module = ExplainerEvaluation(small_classifier(), {"random": Random}, **options)
    monkeypatch.setattr(Random, "explain", None)  # nothing is explained before the refusal
    with pytest.raises(ValueError, match=r"the data name no classes, which `target: label` .*--model.target predicted"):
        quiet_trainer(tmp_path).test(module, datamodule=data, verbose=False)


def test_labels_of_the_same_classes_are_used(tmp_path):
    evaluated(tmp_path, ("Cat", "dog, Canis familiaris"), classes=2, target="label")


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    return packed(tmp_path_factory.mktemp("four"), train=4, val=4)


def scores_of(root, data, **trainer):
    """Evaluate explainers and a study that need gradients, by a plain trainer; give the table of scores."""
    module = ExplainerEvaluation(
        small_classifier(), {"gradient": VanillaGradient, "ig": partial(IntegratedGradients, steps=3)}
    )
    chosen = [ExplanationMetrics(show=False), ProjectionGap(images=2)]
    defaults = {"inference_mode": True}  # Lightning's own
    quiet_trainer(root, callbacks=chosen, **defaults | trainer).test(module, small_data(data), verbose=False)
    return pd.read_parquet(root / "scores.parquet"), pd.read_parquet(root / "projection_gap.parquet")


@pytest.fixture(scope="module")
def exact(four, tmp_path_factory):
    return scores_of(tmp_path_factory.mktemp("exact"), four, inference_mode=False)


def test_a_plain_trainer_whose_inference_mode_is_on_gives_the_same_numbers(tmp_path, four, exact):
    for found, expected in zip(scores_of(tmp_path, four), exact, strict=True):
        pd.testing.assert_frame_equal(found, expected, check_exact=True)


@pytest.mark.parametrize("precision", ["16-true", "bf16-true"])
def test_an_evaluation_in_half_precision_gives_nearly_the_same_numbers(tmp_path, four, exact, precision):
    found, _ = scores_of(tmp_path, four, precision=precision)
    assert found["value"].notna().all()
    assert (found["value"] - exact[0]["value"]).abs().max() < 0.1  # a pixel may change its place


ROBUST = {
    "faithfulness": partial(Faithfulness, steps=4),
    "transfer": partial(Faithfulness, steps=4, by="transfer"),
    "class_sensitivity": ClassSensitivity,
}


def robust(root, data, *metrics, explainers=None, classifier=None, **options):
    """Evaluate by some of these metrics; give the values, summary.json, cost.json and the text."""
    root.mkdir(exist_ok=True)
    explainers = explainers or {"grad_cam": GradCAM, "random": Random}
    chosen = {name: ROBUST[name]() for name in metrics}
    module = ExplainerEvaluation(classifier or small_classifier(), explainers, metrics=chosen, **options)
    observers = [ExplanationMetrics(show=False), ExplanationCost()]
    quiet_trainer(root, callbacks=observers).test(module, small_data(data, eval_batch_size=3), verbose=False)
    frame = pd.read_parquet(root / "scores.parquet").astype({"explainer": str, "metric": str, "key": str})
    summary, cost = (json.loads((root / f"{name}.json").read_text()) for name in ("summary", "cost"))
    return (
        frame.set_index(["explainer", "metric", "key"])["value"].sort_index(),
        summary,
        cost,
        (root / "summary.md").read_text(),
    )


def test_transfer_to_the_same_classifier_is_faithfulness_and_its_passes_are_counted_apart(four, tmp_path):
    values, summary, cost, text = robust(tmp_path, four, "faithfulness", "transfer", transfer=small_classifier())
    for name in ("grad_cam", "random"):
        assert values[name, "transfer"].tolist() == values[name, "faithfulness"].tolist()
        assert cost[name]["transfer_forwards"] == cost[name]["score_forwards"]
        assert cost[name]["transfer_milliseconds"] > 0
    assert [cost[name]["score_forwards"] for name in ("grad_cam", "random")] == [5, 3]
    assert summary["transfer"] == {"classifier": "SmallNetwork", "unknown": 0}
    assert "does not know" not in text
    _, alone, cost, _ = robust(tmp_path, four, "faithfulness")
    assert (alone["transfer"], cost["random"]["transfer_forwards"]) == (None, None)


def test_a_second_classifier_of_another_size_sees_the_same_copies_resized(four, tmp_path):
    torch.manual_seed(3)
    second = Classifier.wrap(SmallNetwork().eval(), mean=[0.4], std=[0.3], size=(48, 80))
    values, *_ = robust(tmp_path, four, "transfer", transfer=second)
    first, data, sweep = small_classifier(), small_data(four), ROBUST["faithfulness"]().sweep

    def resized(images):
        return second(F.interpolate(images, size=(48, 80), mode="bilinear", antialias=True))

    for batch in data.test_dataloader():
        batch = data.on_after_batch_transfer(batch, 0)
        images, targets = batch["images"], first(batch["images"]).argmax(dim=1)
        saliency = GradCAM(first)(images, targets, batch["key"])
        (scores,) = SweepEngine(resized).run(images, targets, saliency, [sweep], batch["key"])
        found = [values["grad_cam", "transfer", key] for key in batch["key"]]
        assert found == pytest.approx(scores[:, 1:].mean(dim=1).tolist(), rel=1e-4)


def test_images_whose_target_the_second_does_not_know_have_no_value_and_the_reason_is_said(four, tmp_path):
    first, second = small_classifier(2), small_classifier(3)
    first.class_names, second.class_names = ("cat", "dog"), ("emu", "fox", "dog")
    names = "faithfulness", "transfer"
    values, summary, cost, text = robust(tmp_path, four, *names, classifier=first, transfer=second, target="label")
    labels = {}
    for batch in small_data(four).test_dataloader():
        labels |= dict(zip(batch["key"], batch["labels"].tolist(), strict=True))
    dogs = sorted(key for key, label in labels.items() if label == 1)
    assert 0 < len(dogs) < 4
    assert len(values["random", "faithfulness"]) == 4
    assert sorted(values["random", "transfer"].index) == dogs
    assert values.notna().all()
    assert summary["transfer"]["unknown"] == summary["scores"]["random"]["transfer"]["skipped"] == 4 - len(dogs)
    assert f"{4 - len(dogs)} whose target SmallNetwork does not know" in text
    assert cost["random"]["transfer_forwards"] == 3  # of an image whose target is known


def test_a_metric_of_a_second_classifier_without_one_is_refused_before_anything_is_explained(four, tmp_path):
    with pytest.raises(ValueError, match=r"metric transfer \(Faithfulness\) is scored by a second classifier, and the"):
        robust(tmp_path, four, "transfer", explainers={"never": Never})


class Never(Random):
    def explain(self, images, targets):
        raise RuntimeError("explained")


class Flat(Random):
    """The same value everywhere for the first class that is asked for, and noise for others."""

    def explain(self, images, targets):
        return super().explain(images, targets) * (targets != 0)[:, None, None, None]


def step(explainers, classifier, images, targets=None, **options):
    """Explain a batch as a test step does, and the other class as well."""
    module = ExplainerEvaluation(classifier, explainers, **options)
    module.evaluator.explains_other_class = True
    labels = torch.full((len(images),), -1)
    batch = {"images": images, "labels": labels, "key": [f"image_{row}" for row in range(len(images))]}
    return module, module.test_step(batch, 0)


def class_sensitivity(outputs, name):
    metric = ClassSensitivity()
    metric.update(outputs["saliency"][name], outputs["other_saliency"][name])
    return metric


def test_maps_that_do_not_depend_on_the_class_are_not_sensitive_to_it():
    explainers = {"random": Random, "centred": CentredGaussian, "gradient": VanillaGradient}
    _, outputs = step(explainers, small_classifier(), small_batch()[0])
    assert class_sensitivity(outputs, "random").compute() == pytest.approx(1)
    assert class_sensitivity(outputs, "centred").compute() == pytest.approx(1)
    assert class_sensitivity(outputs, "gradient").compute() < 0.999


def test_probabilities_of_two_classes_have_opposite_attributions():
    explainers = {"ig": partial(IntegratedGradients, steps=3, score="probability")}
    _, outputs = step(explainers, small_classifier(2), small_batch()[0])
    assert class_sensitivity(outputs, "ig").latest.tolist() == pytest.approx([-1] * 3, abs=1e-5)


def test_grad_cam_of_opposite_weights_on_a_map_of_two_values():
    """The positive parts of a map of 1 and -1, and of its opposite: where one is 1 the other is 0."""
    network = nn.Sequential(nn.Conv2d(3, 1, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 2))
    for weight, value in ((network[0].weight, 2 / 3), (network[0].bias, -1.0), (network[3].bias, 0.0)):
        nn.init.constant_(weight, value)
    network[3].weight.data = torch.tensor([[1.0], [-1.0]])
    images = (torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)) > 0.4).float().repeat(1, 3, 1, 1)
    _, outputs = step({"grad_cam": GradCAM}, Classifier.wrap(network, size=(8, 8)), images)
    assert class_sensitivity(outputs, "grad_cam").latest.tolist() == pytest.approx([-1, -1])


def test_the_other_class_costs_as_much_again_and_is_no_cost_of_the_explainer(four, tmp_path):
    names = {"grad_cam": GradCAM, "ig": partial(IntegratedGradients, steps=3)}
    _, _, plain, _ = robust(tmp_path / "plain", four, "faithfulness", explainers=names)
    _, _, cost, _ = robust(tmp_path / "both", four, "faithfulness", "class_sensitivity", explainers=names)
    for name in names:
        for kind in ("images", "forwards", "backwards", "head_backwards", "score_forwards"):
            assert cost[name][kind] == plain[name][kind]
        for kind in ("forwards", "backwards", "head_backwards"):
            assert cost[name][f"other_class_{kind}"] == plain[name][kind]
    assert "other_class_forwards" not in plain["grad_cam"]


def test_maps_of_the_other_class_come_from_the_cache(four, tmp_path):
    options = {"explainers": {"gradient": VanillaGradient}, "cache": str(tmp_path / "maps")}
    first, _, cost, _ = robust(tmp_path / "first", four, "class_sensitivity", **options)
    assert len(list((tmp_path / "maps").rglob("*.safetensors"))) == 8
    second, _, again, _ = robust(tmp_path / "second", four, "class_sensitivity", **options)
    pd.testing.assert_series_equal(second, first, check_exact=True)
    assert len(list((tmp_path / "maps").rglob("*.safetensors"))) == 8
    kinds = ["forwards", "other_class_forwards", "other_class_backwards"]
    assert [again["gradient"][kind] for kind in kinds] == [cost["gradient"][kind] for kind in kinds] == [1, 1, 1]


def test_images_with_a_constant_map_have_no_correlation_and_are_counted(four, tmp_path):
    classifier = small_classifier(2)
    predicted = torch.cat([classifier(batch["images"]).argmax(1) for batch in batches_of(four)])
    values, summary, _, _ = robust(
        tmp_path, four, "faithfulness", "class_sensitivity", explainers={"flat": Flat}, classifier=classifier
    )
    assert set(predicted.tolist()) <= {0, 1}  # of two classes one of both maps is flat
    assert len(values["flat", "faithfulness"]) == 4
    assert "class_sensitivity" not in set(values.index.get_level_values("metric"))
    assert (summary["explained"], summary["images"]) == (4, {"faithfulness": 4})


def batches_of(root):
    data = small_data(root)
    return [data.on_after_batch_transfer(batch, 0) for batch in data.test_dataloader()]


class BreaksOnOthers(Random):
    """Fail, or give NaN, on one image when it is asked for the second time."""

    how = "nan"

    def __init__(self, classifier, **options):
        super().__init__(classifier, **options)
        self.asked = []

    def explain(self, images, targets):
        self.cost.forwards += len(images)
        saliency = super().explain(images, targets)
        for row, pair in enumerate(zip(self.keys, targets.tolist(), strict=True)):
            known = [target for key, target in self.asked if key == pair[0]]
            if pair[0] == "val_002" and known and known[0] != pair[1]:
                if self.how == "raise":
                    raise RuntimeError("no map of another class")
                saliency[row, 0, 0, 0] = math.nan
            self.asked.append(pair)
        return saliency


class RaisesOnOthers(BreaksOnOthers):
    how = "raise"


def test_a_broken_map_of_the_other_class_costs_the_image_that_value_alone(four, tmp_path):
    values, summary, _, _ = robust(
        tmp_path, four, "faithfulness", "class_sensitivity", explainers={"broken": BreaksOnOthers}
    )
    assert values["broken", "faithfulness"].notna().all()
    found = values["broken", "class_sensitivity"]
    assert found[found.isna()].index.tolist() == ["val_002"]
    assert len(found) == 4
    assert summary["scores"]["broken"]["class_sensitivity"]["nan"] == 1


def test_an_image_whose_other_class_cannot_be_explained_is_skipped_with_its_reason(four, tmp_path):
    with pytest.warns(UserWarning, match="'val_002' is skipped: RuntimeError: no map of another class"):
        values, summary, cost, _ = robust(
            tmp_path, four, "faithfulness", "class_sensitivity", explainers={"r": RaisesOnOthers}, on_error="skip"
        )
    assert summary["skipped"] == {"val_002": "RuntimeError: no map of another class"}
    assert len(values["r", "class_sensitivity"]) == len(values["r", "faithfulness"]) == 3
    assert cost["r"]["other_class_forwards"] == 1
    with pytest.raises(RuntimeError, match="no map of another class"):
        robust(tmp_path, four, "class_sensitivity", explainers={"r": RaisesOnOthers})


@pytest.mark.ddp
def test_two_ranks_write_the_table_and_the_costs_of_one(four, tmp_path):
    run_ranks(distributed_evaluation.main, 2, four, tmp_path / "two", 1, None, distributed_evaluation.robust)
    module = small_evaluation(**distributed_evaluation.robust())
    observers = [ExplanationMetrics(show=False), ExplanationCost()]
    quiet_trainer(tmp_path, callbacks=observers).test(module, small_data(four, eval_batch_size=1), verbose=False)
    one, two = (pd.read_parquet(root / "scores.parquet") for root in (tmp_path, tmp_path / "two"))
    pd.testing.assert_frame_equal(two, one, rtol=1e-4)
    assert len(one[one["explainer"] == "random"]) == 4 * 2
    costs = [json.loads((root / "cost.json").read_text()) for root in (tmp_path, tmp_path / "two")]
    for name in costs[0]:
        for kind in ("forwards", "transfer_forwards", "other_class_forwards", "other_class_head_backwards"):
            assert costs[1][name][kind] == costs[0][name][kind]
    summary = json.loads((tmp_path / "two" / "summary.json").read_text())
    assert summary["transfer"] == {"classifier": "SmallNetwork", "unknown": 0}


def test_images_without_logits_have_no_map_of_another_class():
    classifier, images = small_classifier(), small_batch()[0]
    with torch.no_grad():
        bright = classifier.normalise(images).flatten(1).mean(1)
    network = classifier.network

    class Faulty(nn.Module):
        def forward(self, images):
            return network(images).masked_fill((images.flatten(1).mean(1) >= bright.max() - 1e-6)[:, None], math.nan)

    classifier.network = Faulty()
    with pytest.warns(UserWarning, match="gave logits with NaN or infinity"):
        _, outputs = step({"random": Random}, classifier, images, metrics={"skewness": PearsonSkewness()})
    expected = (torch.arange(3) == int(bright.argmax())).tolist()
    assert outputs["other_broken"]["random"].tolist() == outputs["broken"]["random"].tolist() == expected


def test_what_callbacks_of_0_1_asked_the_module_for_is_found_with_a_line():
    module = small_evaluation()
    with pytest.warns(FutureWarning, match=r"request` is now `ExplainerEvaluation\.evaluator\.request`"):
        module.request(Faithfulness.sweep)
    assert module.evaluator.sweeps.requested == [Faithfulness.sweep]
    assert not hasattr(module, "nothing")
