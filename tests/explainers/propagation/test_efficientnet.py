"""Invariants on a real network: EfficientNet-Lite0 with its ImageNet weights, two photographs of 96 x 128 or less."""

import copy

import pytest
import torch
from torch import Tensor, nn

from dre.explainers import (
    CAM,
    LRP,
    SAMP,
    BlurIG,
    DeepLift,
    GradCAM,
    GradCAMPlusPlus,
    GuidedBackprop,
    GuidedIG,
    InputXGradient,
    IntegratedGradients,
    PathExplainer,
    SampPath,
    SmoothGrad,
    VanillaGradient,
    idgi,
)
from dre.models import Classifier
from tests.photographs import lite0, photographs

KEYS = ["a", "b"]
SINGLE, DOUBLE = torch.float32, torch.float64
ROUNDING = {SINGLE: 1e-5, DOUBLE: 1e-12}
"""Of sums over a hundred layers, relative to what is summed."""

CHEAP = {
    "gradient": VanillaGradient,
    "input x gradient": InputXGradient,
    "guided backprop": GuidedBackprop,
    "SmoothGrad": lambda classifier: SmoothGrad(classifier, samples=2),
    "CAM": CAM,
    "Grad-CAM": GradCAM,
    "Grad-CAM++": GradCAMPlusPlus,
    "IG": lambda classifier: IntegratedGradients(classifier, steps=3),
    "IG+IDGI": lambda classifier: IntegratedGradients(classifier, steps=3, rule=idgi),
    "BlurIG": lambda classifier: BlurIG(classifier, steps=3),
    "DeepLIFT": DeepLift,
    "LRP": LRP,
}
ADDITIVE = {
    "input x gradient": lambda classifier: InputXGradient(classifier, score="logit"),
    "CAM": CAM,
    "Grad-CAM": GradCAM,
    "IG": lambda classifier: IntegratedGradients(classifier, score="logit", steps=3),
    "BlurIG": lambda classifier: BlurIG(classifier, score="logit", steps=3),
    "DeepLIFT": DeepLift,
    "LRP": lambda classifier: LRP(classifier, rule="epsilon", first_layer="same"),
    "LRP flat": lambda classifier: LRP(classifier, rule="epsilon", first_layer="flat"),
}
"""What gives a grey pixel the sum of what its three channels get, or does not look at pixels."""


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return lite0()


@pytest.fixture(scope="module")
def precise() -> Classifier:
    return lite0().double()


@pytest.fixture(scope="module")
def flat() -> Classifier:
    """Give it a ReLU6 behind the logits."""
    network = lite0().network
    network.classifier = nn.Sequential(network.classifier, nn.ReLU6())
    return Classifier.wrap(network, mean=[0.5], std=[0.5], size=(96, 96), name="flat")


@pytest.fixture(scope="module")
def grey(precise) -> Classifier:
    """Give it one channel for the sum of three equal ones."""
    network = copy.deepcopy(precise.network)
    stem = network.conv_stem
    stem.weight, stem.in_channels = nn.Parameter(stem.weight.sum(1, keepdim=True)), 1
    return Classifier.wrap(network, mean=[0.5], std=[0.5], size=(64, 96), channels=1)


@pytest.fixture(scope="module")
def combined(classifier, targets) -> Classifier:
    """Let its first logit be twice the one of the first target less three times the other's."""
    network = copy.deepcopy(classifier.network)
    with torch.no_grad():
        for values in (network.classifier.weight, network.classifier.bias):
            values[0] = 2 * values[targets[0]] - 3 * values[targets[1]]
    return Classifier.wrap(network, mean=[0.5], std=[0.5], size=(96, 96))


@pytest.fixture(scope="module")
def targets(classifier) -> Tensor:
    with torch.no_grad():
        return classifier(photographs(2)).argmax(1)


@pytest.mark.parametrize(("baseline", "precision"), [("black", SINGLE), ("blur", SINGLE), ("blur", DOUBLE)])
def test_deep_lift_is_complete(classifier, precise, targets, baseline, precision):
    """Through ReLU6, padding as in TensorFlow and residual sums, which captum has no rules for."""
    images = photographs(2).to(precision)
    explainer = DeepLift(precise if precision == DOUBLE else classifier, baseline=baseline)
    saliency = explainer.explain(images, targets)
    assert (explainer.gap < ROUNDING[precision] * saliency.abs().sum((1, 2, 3))).all()
    assert (saliency.sum((1, 2, 3)) > 10).all()  # the logits of the predicted classes leave that far behind


@pytest.mark.parametrize(
    ("rule", "precision"),
    [
        ("epsilon", SINGLE),
        ("gamma", SINGLE),
        ("alpha_beta", SINGLE),
        ("composite", SINGLE),
        ("composite", DOUBLE),
        ("composite_alpha_beta", SINGLE),
    ],
)
def test_what_pixels_biases_and_epsilon_get_in_lrp_is_the_logit(classifier, precise, targets, rule, precision):
    explained, images = precise if precision == DOUBLE else classifier, photographs(2).to(precision)
    balance = LRP(explained, rule=rule).conservation(images, targets)
    logits = explained(images)[range(2), targets]
    torch.testing.assert_close(balance.score.to(precision), logits)
    assert (balance.gap < ROUNDING[precision] * (logits + balance.relevance.abs() + balance.bias)).all()
    assert (balance.bias > 0).all()
    assert (balance.relevance.abs() > 1e-5 * balance.score).all()


IDGI = {
    "IG": lambda classifier, **score: IntegratedGradients(classifier, steps=6, rule=idgi, **score),
    "IG inside": lambda classifier, **score: IntegratedGradients(
        classifier, steps=6, rule=idgi, quadrature="midpoint", baseline="white", **score
    ),
    "BlurIG": lambda classifier, **score: BlurIG(classifier, steps=6, rule=idgi, **score),
    "GuidedIG": lambda classifier, **score: GuidedIG(classifier, steps=6, rule=idgi, **score),
    "SAMP deletion": lambda classifier, **score: SAMP(classifier, steps=6, rule=idgi, direction="deletion", **score),
    "SAMP insertion": lambda classifier, **score: SAMP(classifier, steps=6, rule=idgi, direction="insertion", **score),
}


def check_sum(explainer: PathExplainer, saliency: Tensor, targets: Tensor) -> None:
    """Compare with the scores along the path, to 1e-4 of their total variation."""
    path = explainer.path
    scores = torch.stack([stop.score for stop in path.walk(photographs(2, 64, 96), explainer.probe(targets))]).double()
    change = scores[-1] - scores[0]
    if isinstance(path, SampPath) and path.direction == "deletion":  # whose map is negated
        change = -change
    left = saliency.double().sum((1, 2, 3)) + explainer.dropped_mass - change
    assert (left.abs() <= 1e-4 * scores.diff(dim=0).abs().sum(0)).all()


@pytest.mark.parametrize("name", IDGI)
def test_idgi_telescopes(classifier, targets, name):
    explainer = IDGI[name](classifier, score="probability")
    check_sum(explainer, explainer(photographs(2, 64, 96), targets), targets)
    assert (explainer.dropped_mass == 0).all()


@pytest.mark.parametrize("name", [name for name in IDGI if name != "SAMP insertion"])  # it is saturated all the way
def test_idgi_telescopes_but_for_the_dropped_mass(flat, targets, name):
    """Behind a ReLU6 no stop has a gradient whose logit is out of 0..6."""
    explainer = IDGI[name](flat, score="logit")
    with pytest.warns(UserWarning, match=r"the gradient of the logit vanished in \d+ of 12 passes"):
        saliency = explainer(photographs(2, 64, 96), targets)
    check_sum(explainer, saliency, targets)
    assert explainer.dropped_mass.abs().max() > 0.1


def test_integrated_gradients_become_complete(classifier, targets):
    gaps = []
    for steps in (8, 128):
        explainer = IntegratedGradients(classifier, steps=steps, score="logit", quadrature="midpoint")
        saliency = explainer(photographs(2)[:1], targets[:1])
        gaps.append(explainer.gap.item() / saliency.sum().item())
    assert gaps[0] > 0.1
    assert gaps[1] < 0.01


@pytest.mark.parametrize("name", CHEAP)
def test_neither_batch_nor_order_nor_chunk_matter(precise, targets, name):
    """In float64: in float32 a pass of another shape rounds otherwise, and a ReLU at its kink may change sides."""
    images = photographs(2, 48, 64).double()
    together = CHEAP[name](precise)(images, targets, KEYS)
    assert together.shape == (2, 1, 48, 64)
    assert (together.flatten(1).std(1) > 0).all()
    explainer = CHEAP[name](precise)
    explainer.chunk.size = 1
    swapped = explainer(images.flip(0), targets.flip(0), KEYS[::-1]).flip(0)
    torch.testing.assert_close(swapped, together, rtol=1e-6, atol=1e-8 * together.abs().max().item())


def test_cam_is_grad_cam_times_the_cells_of_the_map(classifier, targets):
    images = photographs(2)
    cam, grad_cam = CAM(classifier)(images, targets), GradCAM(classifier)(images, targets)
    assert (cam.amax((1, 2, 3)) > 0).all()
    torch.testing.assert_close(cam, 3 * 4 * grad_cam, rtol=1e-4, atol=1e-5 * cam.max().item())


@pytest.mark.parametrize("name", ADDITIVE)
def test_a_network_for_grey_images_gets_the_sum_over_three_equal_channels(grey, precise, targets, name):
    images = photographs(2, 64, 96)[:1].double().mean(1, keepdim=True)
    found = ADDITIVE[name](grey)(images, targets[:1])
    expected = ADDITIVE[name](precise)(images.expand(-1, 3, -1, -1), targets[:1])
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8 * expected.abs().max().item())


LINEAR = {
    "gradient": lambda classifier: VanillaGradient(classifier, score="logit", reduce="sum"),
    "input x gradient": lambda classifier: InputXGradient(classifier, score="logit"),
    "IG": lambda classifier: IntegratedGradients(classifier, score="logit", steps=3),
    "BlurIG": lambda classifier: BlurIG(classifier, score="logit", steps=3),
}
"""Methods whose map of a sum of scores is the sum of their maps."""


@pytest.mark.parametrize("name", LINEAR)
def test_the_map_of_a_combination_of_logits_is_the_combination_of_their_maps(combined, targets, name):
    explainer = LINEAR[name](combined)
    first, second = targets.tolist()
    maps = [explainer(photographs(2, 64, 96), torch.tensor([target, target])) for target in (first, second, 0)]
    torch.testing.assert_close(maps[2], 2 * maps[0] - 3 * maps[1], rtol=1e-3, atol=1e-4 * maps[2].abs().max().item())


class Mirrored(nn.Module):
    """What a network makes of an image and of its mirror image."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images) + self.network(images.flip(3))


@pytest.fixture(scope="module")
def mirrored(precise) -> Classifier:
    return Classifier.wrap(Mirrored(precise.network), mean=[0.5], std=[0.5], size=(64, 64))


@pytest.mark.parametrize("name", ["gradient", "input x gradient", "IG", "IG+IDGI", "BlurIG", "GuidedIG"])
def test_pixels_that_the_score_treats_alike_are_explained_alike(mirrored, targets, name):
    images = photographs(2, 64, 64)[:1].double()
    build = CHEAP.get(name, lambda classifier: GuidedIG(classifier, steps=3))
    saliency = build(mirrored)((images + images.flip(3)) / 2, targets[:1])
    assert saliency.std() > 0
    torch.testing.assert_close(saliency, saliency.flip(3), rtol=1e-6, atol=1e-8 * saliency.abs().max().item())
