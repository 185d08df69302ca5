"""DeepLIFT and LRP against captum and zennit, where they are installed, on networks that these have rules for.

Captum has none for ReLU6, reused or functional activations, nor for sums, padding and flattening: what is beyond these
networks is tested against slow references and by what the maps must sum to.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import vgg

from dre.explainers import LRP, DeepLift
from dre.models import Classifier
from tests.explainers.propagation.propagating import classifier_of
from tests.networks import NarrowVGG, small_batch, small_classifier

pytestmark = pytest.mark.oracle


class Pooling(nn.Module):
    """Two convolutions, each with an activation of its own, a pooling between them, an average and a linear head."""

    def __init__(
        self, activation: type[nn.Module] = nn.ReLU, bias: bool = True, pool: type[nn.Module] = nn.MaxPool2d
    ) -> None:
        super().__init__()
        self.first, self.first_act = nn.Conv2d(3, 6, 3, stride=2, bias=bias), activation()
        self.pool = pool(3, 2, 1)
        self.second, self.second_act = nn.Conv2d(6, 8, 3, padding=1, bias=bias), activation()
        self.average, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(8, 5, bias=bias)

    def forward(self, images: Tensor) -> Tensor:
        features = self.pool(self.first_act(self.first(images)))
        return self.head(self.average(self.second_act(self.second(features)))[..., 0, 0])


def pooling_classifier(
    activation: type[nn.Module] = nn.ReLU, bias: bool = True, pool: type[nn.Module] = nn.MaxPool2d
) -> Classifier:
    return classifier_of(lambda: Pooling(activation, bias, pool), size=(64, 64))


def batch() -> tuple[Tensor, Tensor]:
    images, targets = small_batch(height=32, width=48)
    return images.double(), targets


def check_deep_lift(classifier: Classifier, start: Tensor) -> None:
    """Compare the maps of a batch, each a change since `start`."""
    attr = pytest.importorskip("captum.attr")
    images, targets = batch()
    start = start.expand_as(images)
    expected, gap = attr.DeepLift(classifier).attribute(images, start, targets, return_convergence_delta=True)
    assert gap.abs().max() < 1e-12
    saliency = DeepLift(classifier, baseline=start).explain(images, targets)
    torch.testing.assert_close(saliency, expected.sum(1, keepdim=True).detach(), rtol=1e-6, atol=1e-12)


BLACK = torch.zeros(1, dtype=torch.float64)
NOISE = torch.rand(3, 3, 32, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("start", [BLACK, NOISE], ids=["black", "noise"])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.LeakyReLU, nn.ELU, nn.Tanh, nn.Sigmoid, nn.Softplus])
def test_deep_lift_of_captum(activation, start):
    check_deep_lift(pooling_classifier(activation, pool=nn.AvgPool2d), start)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.ELU])
def test_deep_lift_of_captum_through_a_maximum(activation):
    """From black alone: from noise its own maps miss the change of the logit, as soon as a maximum falls."""
    check_deep_lift(pooling_classifier(activation), BLACK)


def test_deep_lift_of_captum_on_a_folded_network_with_its_normalisation():
    check_deep_lift(small_classifier().double(), NOISE)


TINY = 1e-18
"""Epsilon where there is to be none: it divides by what may be zero."""


def captum_relevance(classifier: Classifier, images: Tensor, targets: Tensor, rules: dict[str, object]) -> Tensor:
    """Its map, with rules for the modules that are named and its own, epsilon with 1e-9, for the others."""
    attr = pytest.importorskip("captum.attr")
    for name, rule in rules.items():
        classifier.network.get_submodule(name).rule = rule
    return attr.LRP(classifier).attribute(images, targets).sum(1, keepdim=True).detach()


def deviations(classifier: Classifier, image: Tensor, names: list[str]) -> dict[str, float]:
    """Standard deviation of the outputs of some layers."""
    found: dict[str, float] = {}
    hooks = [
        classifier.network.get_submodule(name).register_forward_hook(
            lambda _, __, output, name=name: found.update({name: output.std(correction=0).item()})
        )
        for name in names
    ]
    classifier(image)
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize("epsilon", [0.0, 0.01, 0.25])
def test_lrp_epsilon_of_captum(epsilon):
    """Its epsilon is a number, ours a share of the layer's deviation over the image: one image at a time, then."""
    rules = pytest.importorskip("captum.attr._utils.lrp_rules")
    images, targets = batch()
    saliency = LRP(pooling_classifier(), rule="epsilon", first_layer="same", epsilon=epsilon).explain(images, targets)
    for place in range(3):
        classifier, image = pooling_classifier(), images[place : place + 1]
        widths = deviations(classifier, image, ["first", "second", "head"])
        own = {name: rules.EpsilonRule(epsilon * width or TINY) for name, width in widths.items()}
        own |= {name: rules.EpsilonRule(TINY) for name in ("pool", "average")}
        expected = captum_relevance(classifier, image, targets[place : place + 1], own)
        torch.testing.assert_close(saliency[place : place + 1], expected, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "rule", "arguments"),
    [
        ({"rule": "composite"}, "GammaRule", {"gamma": 0.25}),
        ({"rule": "composite", "gamma": 2.0}, "GammaRule", {"gamma": 2.0}),
        ({"rule": "composite_alpha_beta"}, "Alpha1_Beta0_Rule", {}),
    ],
)
def test_lrp_composites_of_captum(options, rule, arguments):
    """Without biases, which it does not favour as contributions, and on pixels above zero, which its rules suppose."""
    rules = pytest.importorskip("captum.attr._utils.lrp_rules")
    images, targets = batch()
    classifier = pooling_classifier(bias=False)
    saliency = LRP(classifier, first_layer="same", epsilon=0.0, **options).explain(images, targets)
    own = {name: getattr(rules, rule)(**arguments) for name in ("first", "second")}
    own |= {name: rules.EpsilonRule(TINY) for name in ("pool", "average", "head")}
    expected = captum_relevance(classifier, images, targets, own)
    near = 1e-6 * expected.abs().max().item()  # its rules for convolutions have an epsilon of 1e-9
    torch.testing.assert_close(saliency, expected, rtol=1e-6, atol=near)


def zennit_network() -> nn.Module:
    """VGG of a quarter of the channels, with a small head, random weights, and batch norms that do something."""
    torch.manual_seed(0)
    quarter = [size if size == "M" else size // 4 for size in vgg.cfgs["A"]]
    network = NarrowVGG(vgg.make_layers(quarter, batch_norm=True))
    network.classifier = nn.Sequential(nn.Linear(128 * 49, 64), nn.ReLU(), nn.Linear(64, 10))
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for values in (norm.running_var, norm.weight.data):
                values.uniform_(0.5, 1.5)
            for values in (norm.running_mean, norm.bias.data):
                values.normal_(0, 0.1)
    return network.double().eval()


COMPOSITES = {
    "EpsilonGammaBox": {"rule": "composite", "first_layer": "z_box"},
    "EpsilonPlus": {"rule": "composite_alpha_beta", "first_layer": "same"},
    "EpsilonPlusFlat": {"rule": "composite_alpha_beta", "first_layer": "flat"},
    "EpsilonAlpha2Beta1": {"rule": "composite_alpha_beta", "first_layer": "same", "alpha": 2.0, "beta": 1.0},
}


def test_lrp_composites_of_zennit():
    """Without residual sums, which zennit shares by contribution and ours by the rule of convolutions."""
    attribution, composites, canonizers = (
        pytest.importorskip(f"zennit.{part}") for part in ("attribution", "composites", "torchvision")
    )
    images = torch.rand(2, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    targets, network = torch.tensor([1, 7]), zennit_network()
    classifier = Classifier.wrap(network, size=(64, 64)).double()
    pixels = {"low": torch.zeros_like(images[:1]), "high": torch.ones_like(images[:1])}
    for composite, options in COMPOSITES.items():
        box = pixels if composite == "EpsilonGammaBox" else {}
        built = getattr(composites, composite)(canonizers=[canonizers.VGGCanonizer()], **box)
        with attribution.Gradient(network, built) as attributor:
            _, relevance = attributor(images.clone(), lambda out: F.one_hot(targets, 10).to(out) * out)
        expected = relevance.sum(1).flatten(1).detach()
        found = LRP(classifier, **options).explain(images, targets).flatten(1)
        for one, other in zip(found, expected, strict=True):
            assert torch.corrcoef(torch.stack([one, other]))[0, 1] > 0.9999, composite
            assert one.sum().item() == pytest.approx(other.sum().item(), rel=1e-2)
