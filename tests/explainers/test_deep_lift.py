"""DeepLIFT: it is complete, equals the closed form on linear scores, and sees what a saturated gradient does not."""

import pytest
import torch

from dre.explainers import DeepLift, InputXGradient
from dre.models import Classifier
from tests.explainers.analytic import ZERO, formula_classifier, linear_classifier, random_image
from tests.explainers.propagating import Everything
from tests.networks import small_batch, small_classifier


def everything(bias: bool) -> Classifier:
    torch.manual_seed(0)
    return Classifier.wrap(Everything(bias=bias).eval(), mean=[0.4], std=[0.5], size=(64, 64)).double()


@pytest.mark.parametrize("baseline", ["black", "blur", "random"])
@pytest.mark.parametrize("build", [lambda: small_classifier().double(), lambda: everything(True)], ids=["cnn", "all"])
def test_the_map_sums_to_the_change_of_the_logit(build, baseline):
    images, targets = small_batch()
    explainer = DeepLift(build(), baseline=baseline)
    saliency = explainer.explain(images.double(), targets)
    assert explainer.gap.abs().max() < 1e-9
    assert saliency.flatten(1).sum(1).abs().min() > 1e-6  # there is something to share


def test_on_a_linear_score_it_is_weight_times_difference():
    weight = torch.linspace(-1, 1, 24, dtype=torch.float64).view(1, 4, 6)
    images = random_image()
    saliency = DeepLift(linear_classifier(weight).double()).explain(images, ZERO)
    torch.testing.assert_close(saliency, weight * images)


def test_it_explains_where_the_gradient_is_saturated():
    classifier = formula_classifier(lambda x: 1 - torch.relu(1 - 4 * x.flatten(1).sum(1)))
    images = 0.5 + random_image() / 2  # the sum is far above 1/4, where the score has stopped rising
    assert InputXGradient(classifier, score="logit").explain(images, ZERO).abs().max() == 0
    saliency = DeepLift(classifier).explain(images, ZERO)
    torch.testing.assert_close(saliency.sum((1, 2, 3)), torch.ones(2, dtype=torch.float64))
    torch.testing.assert_close(saliency, images / images.sum((1, 2, 3), keepdim=True))


def test_an_image_that_is_its_baseline_has_an_empty_map():
    saliency = DeepLift(small_classifier())(torch.zeros(2, 3, 64, 64), ZERO)
    assert saliency.abs().max() == 0
