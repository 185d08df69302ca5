"""Invariants of all explainers on random small networks."""

import pytest
import torch
from torch import nn

from dre.explainers import (
    RISE,
    BlurIG,
    Explainer,
    GuidedIG,
    InputXGradient,
    IntegratedGradients,
    SmoothGrad,
    VanillaGradient,
    idgi,
)
from dre.models import Classifier
from tests.explainers.test_explainers import NAMES, build, classifier_for
from tests.networks import SmallNetwork, small_batch

KEYS = ["a", "b", "c"]
SEEDS = range(3)

LINEAR = {
    "gradient": lambda classifier: VanillaGradient(classifier, score="logit", reduce="sum"),
    "input x gradient": lambda classifier: InputXGradient(classifier, score="logit"),
    "SmoothGrad": lambda classifier: SmoothGrad(classifier, score="logit", reduce="sum", kind="signed", samples=4),
    "IG": lambda classifier: IntegratedGradients(classifier, score="logit", steps=7),
    "BlurIG": lambda classifier: BlurIG(classifier, score="logit", steps=7, max_sigma=5.0),
    "RISE": lambda classifier: RISE(classifier, score="logit", masks=9),
}
"""Methods whose map of a sum of scores is the sum of their maps."""

SYMMETRIC = {
    "gradient": VanillaGradient,
    "input x gradient": InputXGradient,
    "IG": lambda classifier: IntegratedGradients(classifier, steps=7),
    "IG+IDGI": lambda classifier: IntegratedGradients(classifier, steps=7, rule=idgi),
    "BlurIG": lambda classifier: BlurIG(classifier, steps=7, max_sigma=5.0),
    "Guided IG": lambda classifier: GuidedIG(classifier, steps=7),
}
"""Methods that treat pixels alike that the score treats alike."""


def example(seed: int, name: str = "") -> tuple[Classifier, torch.Tensor, torch.Tensor]:
    """A random network and three images, in float64: what is left of a difference is rounding."""
    images, targets = small_batch()
    return classifier_for(name, seed=seed).double(), images.double(), targets


WRAPPED = {"ControlledExplainer": "explainer", "XRAI": "attribution"}
"""Where explainers without passes of their own keep the one that has them."""


@pytest.mark.parametrize("chunk", [1, 2, 50])
@pytest.mark.parametrize("name", NAMES)
def test_neither_the_order_of_images_nor_the_chunk_matters_and_it_bounds_every_pass(name, chunk):
    """Every map costs passes: one run is in another order and in other chunks; the largest holds all of most."""
    classifier, images, targets = example(chunk, name)
    explainer = build(name, classifier)
    expected = explainer(images, targets, KEYS)
    owner = getattr(explainer, WRAPPED[name]) if name in WRAPPED else explainer
    owner.chunk.size, sizes, order = chunk, [], [2, 0, 1]
    classifier.network.register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0])))
    shuffled = explainer(images[order], targets[order], [KEYS[place] for place in order])
    torch.testing.assert_close(shuffled, expected[order], rtol=1e-5, atol=1e-9)
    assert max(sizes, default=0) <= chunk


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", LINEAR)
def test_the_map_of_a_combination_of_scores_is_the_combination_of_their_maps(name, seed):
    classifier, images, _ = example(seed)
    head = classifier.network.head
    with torch.no_grad():
        head.weight[2] = 2 * head.weight[0] - 3 * head.weight[1]
        head.bias[2] = 2 * head.bias[0] - 3 * head.bias[1]
    explainer = LINEAR[name](classifier)
    maps = [explainer(images, torch.full((3,), target), KEYS) for target in range(3)]
    torch.testing.assert_close(maps[2], 2 * maps[0] - 3 * maps[1], rtol=1e-4, atol=1e-5 * maps[2].abs().max().item())


class Mirrored(nn.Module):
    """A network that sees an image and its mirror image, and adds what it makes of both."""

    def __init__(self) -> None:
        super().__init__()
        self.network = SmallNetwork()

    def forward(self, images):
        return self.network(images) + self.network(images.flip(3))


def mirrored_classifier(seed: int) -> Classifier:
    torch.manual_seed(seed)
    return Classifier.wrap(Mirrored().eval(), mean=[0.5], std=[0.5], size=(64, 64)).double()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", SYMMETRIC)
def test_pixels_that_the_score_treats_alike_are_explained_alike(name, seed):
    classifier = mirrored_classifier(seed)
    images, targets = small_batch()
    images = (images + images.flip(3)).double() / 2
    explainer: Explainer = SYMMETRIC[name](classifier)
    saliency = explainer(images, targets)
    torch.testing.assert_close(saliency, saliency.flip(3), rtol=1e-4, atol=1e-7 * saliency.abs().max().item())
    assert saliency.std() > 0


@pytest.mark.parametrize("name", ["gradient", "input x gradient", "IG", "IG+IDGI", "BlurIG"])
def test_the_mirror_image_has_the_mirrored_map(name):
    classifier = mirrored_classifier(seed=4)
    images, targets = small_batch()
    explainer = SYMMETRIC[name](classifier)
    there, back = explainer(images.double(), targets), explainer(images.flip(3).double(), targets).flip(3)
    torch.testing.assert_close(there, back, rtol=1e-4, atol=1e-7 * there.abs().max().item())
    assert not torch.allclose(there, there.flip(3))
