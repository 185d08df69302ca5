from functools import partial

import pytest
import torch

from dre.explainers import DRE, SAMP, BlurIG, GradCAM, IntegratedGradients, SmoothGrad
from dre.modules import ExplainerEvaluation
from tests.networks import small_batch, small_classifier, small_estimator


def evaluation(**explainers) -> ExplainerEvaluation:
    return ExplainerEvaluation(small_classifier(), explainers)


def test_explainers_are_built_anew_on_the_classifier_that_is_given():
    module = evaluation(grad_cam=GradCAM, ig=partial(IntegratedGradients, steps=4))
    other = module.variants.noisy(1.0)
    built = module.variants.explainers(["ig"], other)
    assert list(built) == ["ig"]
    assert built["ig"].classifier is other
    assert module.variants.explainers(["ig"])["ig"].classifier is module.classifier
    images, targets = small_batch(2, height=64, width=64)
    built["ig"](images, targets)
    assert module.explainers["ig"].cost.forwards == 0  # a study costs the evaluation nothing


def test_steps_override_the_run_file_for_path_explainers_alone():
    module = evaluation(
        blur_ig=partial(BlurIG, steps=3), grad_cam=GradCAM, samp=SAMP, smooth_grad=SmoothGrad, ig=IntegratedGradients
    )
    assert module.variants.path_explainers() == ["blur_ig", "samp", "ig"]
    assert module.variants.explainers(["blur_ig"], steps=7)["blur_ig"].path.steps == 7
    with pytest.raises(TypeError, match="steps"):
        module.variants.explainers(["grad_cam"], steps=7)


def test_a_learned_explainer_reads_the_features_of_the_changed_classifier():
    classifier = small_classifier()
    estimator = small_estimator(classifier)
    module = ExplainerEvaluation(classifier, {"dre": partial(DRE.from_estimator, estimator=estimator)})
    images, targets = small_batch(2, height=64, width=64)
    changed = module.variants.explainers(["dre"], module.variants.randomised(module.variants.layers()[:2]))
    assert not torch.allclose(changed["dre"](images, targets), module.explainers["dre"](images, targets))


def test_a_copy_on_a_device_shares_no_memory():
    module = evaluation(grad_cam=GradCAM)
    copy = module.variants.on_device(torch.device("cpu"))
    pairs = zip(copy.parameters(), module.classifier.parameters(), strict=True)
    assert all(torch.equal(one, other) and one.data_ptr() != other.data_ptr() for one, other in pairs)
