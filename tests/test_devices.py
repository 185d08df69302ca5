"""Devices: explainers, metrics, training and evaluation on a pretended accelerator."""

import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from matplotlib.figure import Figure

from callbacks import (
    BackgroundReplacement,
    ExplanationCost,
    ExplanationMetrics,
    JpegStability,
    ModelRandomisation,
    NoiseStability,
    SaliencyPanel,
    SalientPixels,
    WeightPerturbation,
)
from dre import metrics
from dre.modules import ExplainerEvaluation
from tests.accelerator import HERE, THERE, PretendedAccelerator, place_of, pretended_trainer
from tests.callbacks.evaluation import EXPLAINERS
from tests.classification import classification, labelled_data, quarters
from tests.explainers.test_explainers import NAMES, build, classifier_for
from tests.metrics.examples import example, make, metric_classes
from tests.networks import small_batch, small_classifier
from tests.training import quiet_trainer, short_data, small_data, small_training

KEYS = ["a", "b", "c"]


@pytest.fixture(autouse=True)
def _without_diagrams(monkeypatch, undrawn_figures, undrawn_panels):
    """Draw no tables as figures: tests of figures and studies do, and smoke runs."""
    monkeypatch.setattr("callbacks.explanation_metrics.write_rank_diagrams", lambda *_: [])
    monkeypatch.setattr("callbacks.studies.study.points_figure", lambda *_: Figure(figsize=(1, 1)))


class Places(pl.Callback):
    """Note where batches and the weights that they meet lie."""

    def __init__(self):
        self.seen = set()

    def on_train_batch_start(self, trainer, module, batch, index):
        self.seen |= {module.device, batch["images"].device, *(one.device for one in module.parameters())}

    def on_test_batch_start(self, trainer, module, batch, index):
        self.seen |= {module.device, batch["images"].device, module.classifier.mean.device}


def test_what_a_device_refuses_is_refused():
    with PretendedAccelerator():
        there, here = torch.ones(3, device="cuda"), torch.ones(3)
        assert (there.device, here.device, here.to(there).device, there.cpu().device) == (THERE, HERE, THERE, HERE)
        assert (there + 1).device == (there * torch.tensor(2.0)).device == there[torch.tensor([1])].device == THERE
        assert torch.zeros_like(there).is_cuda
        assert there.to("cpu").numpy().sum() == 3
        with pytest.raises(RuntimeError, match="operands lie on two devices"):
            there + here
        with pytest.raises(RuntimeError, match="operands lie on two devices"):
            here[torch.tensor([1], device="cuda")]
        with pytest.raises(RuntimeError, match="operands lie on two devices"):
            torch.nn.Linear(3, 3)(there)
        with pytest.raises(TypeError, match="memory of cuda:0 cannot be read"):
            there.numpy()
        with pytest.raises(RuntimeError, match="a generator of cpu cannot draw on cuda:0"):
            torch.rand(3, device="cuda", generator=torch.Generator())
        assert torch.rand(3, device="cuda", generator=torch.Generator("cuda")).device == THERE
        assert {one.device for one in torch.nn.Linear(3, 3).to(there).parameters()} == {THERE}


@pytest.mark.parametrize("name", NAMES)
def test_explainers_stay_on_the_device_of_their_images(name):
    images, targets = small_batch(height=64, width=64)
    expected = build(name)(images, targets, KEYS)
    with PretendedAccelerator():
        explainer = build(name, classifier_for(name).to("cuda"))
        saliency = explainer(images.to("cuda"), targets.to("cuda"), KEYS)
    assert place_of(saliency) == THERE
    torch.testing.assert_close(saliency, expected)


@pytest.mark.parametrize("metric_class", metric_classes())
def test_metrics_take_what_lies_on_a_device(metric_class):
    here = make(metric_class)
    here.update(**example(here))
    with PretendedAccelerator():
        metric, other = make(metric_class).to("cuda"), make(metric_class).to("cuda")
        batch = {
            name: one.to("cuda") if isinstance(one, torch.Tensor) else one for name, one in example(metric).items()
        }
        metric.update(**batch)
        found = metric.compute()
        other.update(**batch)
        other.merge_state(metric)
        other.compute()
        if isinstance(metric, metrics.ScoreTable):
            assert len(metric.to_frame()) == len(here.to_frame())
    torch.testing.assert_close(found, here.compute())


@pytest.mark.parametrize("aggregate", ["mean_map", "pairwise"])
def test_mixtures_are_fitted_where_the_maps_lie(aggregate):
    maps = torch.rand(4, 1, 24, 24, generator=torch.Generator().manual_seed(0)) ** 4
    here = metrics.XMGD(groups=["one", "other"], components=3, begin="k-means++", aggregate=aggregate)
    here.update(maps, ["one", "other"] * 2)
    with PretendedAccelerator():
        there = metrics.XMGD(groups=["one", "other"], components=3, begin="k-means++", aggregate=aggregate).to("cuda")
        there.update(maps.to("cuda"), ["one", "other"] * 2)
        found = there.compute()
    torch.testing.assert_close(found, here.compute())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"variant": "mgnet"},
        {"variant": "fast_shap"},
        {"variant": "nn_explainer"},
        {"masks": "random_area", "evidence": True, "embedding_start": "head", "embedding_epochs": 0},
        {"masks": "tuned"},
    ],
    ids=str,
)
def test_a_training_stays_on_its_device(options, five_shards, tmp_path):
    here = quiet_trainer(tmp_path)
    here.fit(small_training(**options), short_data(five_shards, workers=0))
    places = Places()
    with PretendedAccelerator():
        there = pretended_trainer(tmp_path, callbacks=[places], max_epochs=2, enable_checkpointing=False)
        there.fit(small_training(**options), short_data(five_shards, workers=0))
    assert places.seen == {THERE}
    assert set(there.callback_metrics) == set(here.callback_metrics)
    for name, value in here.callback_metrics.items():
        torch.testing.assert_close(there.callback_metrics[name], value, msg=name)


def test_the_training_of_a_classifier_stays_on_its_device(tmp_path):
    folder, places = quarters(tmp_path / "pictures"), Places()
    with PretendedAccelerator():
        model = classification()
        trainer = pretended_trainer(tmp_path, callbacks=[places], max_epochs=1, enable_checkpointing=False)
        trainer.fit(model, labelled_data(folder, model))
    assert places.seen == {THERE}


def evaluate(data, root, make_trainer, *more) -> pd.DataFrame:
    """Evaluate with whatever moves tensors about, and give the table of scores."""
    root.mkdir()
    callbacks = [ExplanationMetrics(show=False), ExplanationCost(), SalientPixels(), SaliencyPanel()]
    studies = [BackgroundReplacement(), JpegStability(), NoiseStability(draws=2)]
    changes = [ModelRandomisation(depths=2), WeightPerturbation(levels=[0.0, 1.0])]
    chosen = {
        "faithfulness": metrics.Faithfulness(steps=4),
        "insertion": metrics.Insertion("idgi"),
        "accuracy_information": metrics.AccuracyInformationCurve("pair"),
        "softmax_information": metrics.SoftmaxInformationCurve("shared_grey_entropy"),
    }
    module = ExplainerEvaluation(small_classifier(), dict(EXPLAINERS), metrics=chosen)
    make_trainer(root, callbacks=[*callbacks, *studies, *changes, *more]).test(module, data, verbose=False)
    return pd.read_parquet(root / "scores.parquet")


def test_an_evaluation_stays_on_its_device(five_shards, tmp_path):
    data, places = small_data(five_shards, workers=0, limit=2), Places()
    here = evaluate(data, tmp_path / "here", quiet_trainer)
    with PretendedAccelerator():
        there = evaluate(data, tmp_path / "there", pretended_trainer, places)
    assert places.seen == {THERE}
    pd.testing.assert_frame_equal(here, there)
