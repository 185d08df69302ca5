"""DeepLIFT: completeness, the closed form on linear scores, and attributions where the gradient is saturated."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dre.explainers import DeepLift, InputXGradient
from dre.models import Classifier
from tests.explainers.analytic import ZERO, formula_classifier, linear_classifier, random_image
from tests.explainers.propagation.propagating import Everything
from tests.networks import small_batch, small_classifier


def everything(bias: bool) -> Classifier:
    torch.manual_seed(0)
    return Classifier.wrap(Everything(bias=bias).eval(), mean=[0.4], std=[0.5], size=(64, 64)).double()


@pytest.mark.parametrize("baseline", ["black", "blur", "noise"])
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


@pytest.mark.parametrize(
    ("image", "baseline", "expected"),
    [
        ([0.9, 0.4], [0.1, 0.6], [0.3, 0.0]),  # gained by the pixel that is the largest now
        ([0.2, 0.1], [0.0, 0.9], [0.0, -0.7]),  # lost by the pixel that was the largest
        ([0.9, 0.4], [0.1, 0.4], [0.5, 0.0]),  # a pixel that did not change
        ([0.6, 0.6], [0.6, 0.6], [0.0, 0.0]),
    ],
)
def test_a_maximum_by_hand(image, baseline, expected):
    classifier = formula_classifier(lambda x: F.max_pool2d(x, (1, 2))[:, 0, 0, 0], size=(1, 2))
    image, baseline = (torch.tensor(values, dtype=torch.float64).view(1, 1, 1, 2) for values in (image, baseline))
    saliency = DeepLift(classifier, baseline=baseline).explain(image, torch.tensor([0]))
    torch.testing.assert_close(saliency.flatten(), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("seen", [torch.relu, torch.tanh, F.relu6, F.silu])
def test_where_nothing_changed_the_multiplier_is_the_slope(seen):
    """A pixel that equals its baseline has no quotient; what it would add for a change is what the slope says."""
    weight = torch.tensor([2.0, -3.0], dtype=torch.float64)
    classifier = formula_classifier(lambda x: (seen(3 * x[:, 0, 0]) * weight.to(x)).sum(1), size=(1, 2))
    image = torch.tensor([0.4, 0.7], dtype=torch.float64).view(1, 1, 1, 2)
    baseline = torch.tensor([0.4, 0.2], dtype=torch.float64).view(1, 1, 1, 2)
    explainer = DeepLift(classifier, baseline=baseline)
    saliency = explainer.explain(image, torch.tensor([0])).flatten()
    change = -3 * (seen(3 * image[0, 0, 0, 1]) - seen(3 * baseline[0, 0, 0, 1]))
    torch.testing.assert_close(saliency, torch.stack([torch.zeros_like(change), change]))
    assert explainer.gap < 1e-12


@pytest.mark.parametrize(
    ("ending", "message"),
    [
        (nn.LayerNorm(4), r"DeepLift has no rule for layer_norm in 'ending' \(LayerNorm\) of small"),
        (nn.Softmax(1), r"DeepLift has no rule for softmax in 'ending' \(Softmax\) of small"),
    ],
)
def test_functions_without_a_rule_are_named_with_what_works(ending, message):
    network = nn.Sequential()
    network.add_module("first", nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    network.add_module("ending", ending)
    classifier = Classifier.wrap(network, size=(8, 8), name="small")
    with pytest.raises(ValueError, match=message):
        DeepLift(classifier)


def test_what_it_cannot_explain_is_refused():
    with pytest.raises(ValueError, match="`score` must be 'logit' for DeepLift, got 'probability'"):
        DeepLift(small_classifier(), score="probability")
    with pytest.raises(ValueError, match="`chunk` must be at least one image, got 0"):
        DeepLift(small_classifier(), chunk=0)


def test_an_image_that_is_its_baseline_has_an_empty_map():
    saliency = DeepLift(small_classifier())(torch.zeros(2, 3, 64, 64), ZERO)
    assert saliency.abs().max() == 0


def test_a_clamp_of_whole_numbers_beside_the_image_is_no_obstacle():
    """As of positions that a network computes; nothing flows through them."""
    places = torch.tensor([-1, 0, 5])
    classifier = formula_classifier(lambda x: x.flatten(1)[:, places.clamp(min=0, max=2)].sum(1))
    images = random_image()
    assert DeepLift(classifier).explain(images, ZERO).sum() == pytest.approx(images.flatten(1)[:, [0, 0, 2]].sum())
