import warnings
from functools import partial

import pandas as pd
import pytest

from callbacks import ExplanationMetrics, ProjectionGap
from dre.explainers import CAM, DRE, GradCAM, IntegratedGradients, Random, VanillaGradient
from dre.explainers.base import UnsupportedError
from dre.modules import ExplainerEvaluation
from tests.data.trees import packed
from tests.explainers.test_bad_input import without_maps
from tests.networks import small_classifier
from tests.training import quiet_trainer, small_data


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
