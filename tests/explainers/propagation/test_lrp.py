"""LRP: the rules against matrices, conservation, and each kind of function."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dre.explainers import LRP, InputXGradient
from dre.explainers.gradient import reduce_channels
from dre.explainers.propagation import rules
from dre.models import Classifier
from tests.explainers.propagation.propagating import (
    Everything,
    Gated,
    Residual,
    classifier_of,
    share_alpha_beta,
    share_epsilon,
    share_gamma,
    slow_relevance,
)
from tests.networks import SmallNetwork

RULES = ("epsilon", "gamma", "alpha_beta", "composite", "composite_alpha_beta")
FIRST_LAYERS = ("same", "z_box", "flat")


def batch(size: int = 3, channels: int = 3, height: int = 24, width: int = 32):
    generator = torch.Generator().manual_seed(1)
    return torch.rand(size, channels, height, width, dtype=torch.float64, generator=generator), torch.arange(size) % 5


def map_of(explainer: LRP, images, targets):
    """The map in float64, which `forward` would round."""
    return explainer.explain(images, targets).detach()


@pytest.mark.parametrize("first", FIRST_LAYERS)
@pytest.mark.parametrize(
    ("options", "share", "dense"),
    [
        ({"rule": "epsilon", "epsilon": 0.0}, share_epsilon(0.0), share_epsilon(0.0)),
        ({"rule": "epsilon", "epsilon": 0.25}, share_epsilon(0.25), share_epsilon(0.25)),
        ({"rule": "gamma", "epsilon": 0.0}, share_gamma(0.25), share_gamma(0.25)),
        ({"rule": "gamma", "epsilon": 0.0, "gamma": 3.0}, share_gamma(3.0), share_gamma(3.0)),
        ({"rule": "alpha_beta", "epsilon": 0.0}, share_alpha_beta(1, 0), share_alpha_beta(1, 0)),
        (
            {"rule": "alpha_beta", "epsilon": 0.0, "alpha": 2.0, "beta": 1.0},
            share_alpha_beta(2, 1),
            share_alpha_beta(2, 1),
        ),
        ({"rule": "composite", "epsilon": 0.0}, share_gamma(0.25), share_epsilon(0.0)),
        ({"rule": "composite_alpha_beta", "epsilon": 0.0}, share_alpha_beta(1, 0), share_epsilon(0.0)),
    ],
)
def test_every_rule_is_the_one_written_on_matrices(options, share, dense, first):
    classifier = classifier_of(Residual, size=(5, 5), channels=2)
    images, _ = batch(channels=2, height=5, width=4)
    targets = torch.tensor([0, 3, 1])
    maps = map_of(LRP(classifier, first_layer=first, reduce="sum", **options), images, targets)
    for place in range(3):
        expected = slow_relevance(classifier.network, images[place], int(targets[place]), share, dense, first)
        torch.testing.assert_close(maps[place, 0], expected.sum(0), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("padding", [1, "same"])
def test_both_carriers_of_a_convolution_in_one_pass_give_what_they_give_apart(padding, monkeypatch):
    """`Everything` has convolutions with and without groups, before a ReLU and before a sum, of either sign."""
    images, targets = batch()
    classifier = classifier_of(Everything)
    classifier.network.branch.padding = padding
    explainer = LRP(classifier, rule="gamma", epsilon=0.1)
    together = map_of(explainer, images, targets)
    monkeypatch.setattr(rules, "_is_plain", lambda *_: False)
    torch.testing.assert_close(together, map_of(explainer, images, targets), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("first", FIRST_LAYERS)
@pytest.mark.parametrize("rule", RULES)
def test_what_pixels_biases_and_epsilon_get_is_the_logit(rule, first):
    classifier = classifier_of(Everything)
    images, targets = batch()
    explainer = LRP(classifier, rule=rule, first_layer=first, epsilon=0.1)
    balance = explainer.conservation(images, targets)
    logits = classifier(images)[range(3), targets]
    torch.testing.assert_close(balance.score, logits)
    torch.testing.assert_close(balance.relevance, map_of(explainer, images, targets).sum((1, 2, 3)))
    torch.testing.assert_close(balance.relevance + balance.bias + balance.epsilon, logits)
    assert (balance.gap < 1e-10).all()
    assert (balance.bias.abs() > 1e-3).all()
    assert (balance.epsilon.abs() > 1e-4).all()


def test_accounts_are_those_of_eval_mode_and_the_classifier_is_left_as_found():
    classifier = classifier_of(SmallNetwork, size=(64, 64), fold=False)
    images, targets = batch(height=64, width=64)
    explainer = LRP(classifier)
    expected = explainer.conservation(images, targets)
    classifier.network.stage2.train()
    state = {key: value.clone() for key, value in classifier.state_dict().items()}
    torch.testing.assert_close(explainer.conservation(images, targets).relevance, expected.relevance)
    assert sum(module.training for module in classifier.modules()) == 4
    assert all(torch.equal(value, state[key]) for key, value in classifier.state_dict().items())


@pytest.mark.parametrize("first", FIRST_LAYERS)
@pytest.mark.parametrize("rule", RULES)
def test_without_biases_all_of_the_logit_lies_on_pixels(rule, first):
    classifier = classifier_of(lambda: Everything(bias=False))
    images, targets = batch()
    explainer = LRP(classifier, rule=rule, first_layer=first, epsilon=0.0)
    sums = map_of(explainer, images, targets).sum((1, 2, 3))
    torch.testing.assert_close(sums, classifier(images)[range(3), targets], rtol=1e-9, atol=0)
    assert explainer.conservation(images, targets).bias.tolist() == [0.0, 0.0, 0.0]


def unbiased(network: nn.Module) -> nn.Module:
    """Take what is not proportional to the input out of a network with batch norms."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.zeros_(module.running_mean)
            nn.init.zeros_(module.bias)
        elif getattr(module, "bias", None) is not None:
            nn.init.zeros_(module.bias)
    return network


@pytest.mark.parametrize("mean", [0.0, 0.4])
def test_epsilon_of_a_folded_relu_network_without_biases_tends_to_gradient_times_input(mean):
    classifier = classifier_of(lambda: unbiased(SmallNetwork()), size=(64, 64), mean=[mean], std=[0.5])
    assert not any(isinstance(module, nn.BatchNorm2d) for module in classifier.network.modules())
    images, targets = batch(height=64, width=96)
    pixels = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(classifier(pixels)[range(3), targets].sum(), pixels)
    expected = reduce_channels((images - classifier.mean) * gradient, "sum")
    distances = []
    for epsilon in (1e-6, 1e-8, 1e-10, 1e-12):
        maps = map_of(LRP(classifier, rule="epsilon", first_layer="same", epsilon=epsilon), images, targets)
        distances.append(((maps - expected).norm() / expected.norm()).item())
    assert distances[0] > 1e-6  # far above rounding, so that the fall below is epsilon's
    assert all(after < before / 30 for before, after in pairwise(distances))
    maps = map_of(LRP(classifier, rule="epsilon", first_layer="same", epsilon=0.0), images, targets)
    torch.testing.assert_close(maps, expected)
    if mean == 0:
        explainer = InputXGradient(classifier, score="logit")
        torch.testing.assert_close(maps, explainer.explain(images, targets).detach())


class Spelled(nn.Module):
    """Convolution, activation in the spelling that is asked for, the same again, and a head."""

    def __init__(self, activation) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, 3)
        self.activation = activation

    def forward(self, images):
        features = self.activation(3 * self.first(images))
        return self.head(self.activation(self.second(features)).mean((2, 3)))


def in_place(features):
    F.relu(features, inplace=True)  # what it returns is not used: the tensor itself has to change
    return features


def six_in_place(features):
    F.hardtanh_(features, 0.0, 6.0)
    return features


@pytest.mark.parametrize(
    ("plain", "spellings"),
    [
        (
            nn.ReLU(),
            [F.relu, torch.relu, in_place, nn.ReLU(inplace=True), lambda x: x.relu_(), lambda x: x.clamp(min=0)],
        ),
        (nn.ReLU6(), [F.relu6, six_in_place, nn.ReLU6(inplace=True), lambda x: x.clamp_(0, 6), nn.Hardtanh(0.0, 6.0)]),
        (nn.SiLU(), [F.silu, nn.SiLU(inplace=True), lambda x: x * torch.sigmoid(x), lambda x: x.mul(x.sigmoid())]),
        (nn.Hardswish(), [F.hardswish, nn.Hardswish(inplace=True), lambda x: x * F.hardsigmoid(x)]),
    ],
)
@pytest.mark.parametrize("rule", ["epsilon", "gamma", "alpha_beta"])
def test_spellings_of_an_activation_are_alike(plain, spellings, rule):
    images, targets = batch(height=12, width=10)
    targets = targets % 3
    classifier = classifier_of(lambda: Spelled(plain), size=(12, 12))
    expected = map_of(LRP(classifier, rule=rule), images, targets)
    assert expected.abs().max() > 0
    for spelling in spellings:
        classifier = classifier_of(lambda spelling=spelling: Spelled(spelling), size=(12, 12))
        torch.testing.assert_close(map_of(LRP(classifier, rule=rule), images, targets), expected)


@pytest.mark.parametrize("kind", [nn.ReLU6, nn.SiLU, nn.GELU, nn.Hardswish, nn.Tanh, nn.ELU, nn.Mish])
def test_activations_pass_relevance_through(kind):
    """The multiplier of x is that of f(x) times f(x) / x; at zero, where there is none to pass, 0."""
    activation = kind()
    weight = torch.tensor([[2.0, -1.0, 0.5]], dtype=torch.float64)

    class Elementwise(nn.Module):
        def forward(self, images):
            features = activation(20 * (images[:, :, :1, :3].flatten(1) - 0.5))
            return torch.cat([F.linear(features, weight.to(features)), features[:, :1]], dim=1)

    classifier = classifier_of(Elementwise, size=(1, 3), channels=1, fold=False)
    images = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64).view(1, 1, 1, 3)  # -8, 0 and 8
    explainer = LRP(classifier, rule="epsilon", first_layer="same", epsilon=0.0)
    maps = map_of(explainer, images, torch.tensor([0]))
    features = 20 * (images - 0.5)
    ratio = torch.where(features == 0, 0.0, activation(features) / features.where(features != 0, 1.0))
    torch.testing.assert_close(maps, 20 * images * ratio * weight.view(1, 1, 1, 3))  # the shift is a bias
    assert explainer.conservation(images, torch.tensor([0])).gap < 1e-12


def test_features_take_all_beside_their_gate():
    classifier = classifier_of(
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), Gated(4), nn.Flatten(), nn.Linear(400, 2)), (12, 12)
    )
    images, _ = batch(size=1, height=12, width=12)
    network = classifier.network
    features = network[0](images)
    gate = network[1](features) / features
    with torch.enable_grad():
        pixels = images.clone().requires_grad_()
        logit = network[3](network[2](network[0](pixels) * gate))[0, 1]  # the gate as a constant
        (gradient,) = torch.autograd.grad(logit, pixels)
    maps = map_of(LRP(classifier, rule="epsilon", first_layer="same", epsilon=0.0), images, torch.tensor([1]))
    torch.testing.assert_close(maps, (gradient * images).sum(1, keepdim=True))


@pytest.mark.parametrize("options", [{}, {"rule": "alpha_beta"}, {"rule": "epsilon", "first_layer": "same"}])
def test_the_logits_are_those_of_the_classifier_to_the_bit(options):
    classifier = classifier_of(lambda: SmallNetwork(), size=(64, 64))
    images, targets = batch(height=64, width=96)
    score = (
        LRP(classifier, **options)
        .probe(targets)
        .leaf_gradients(images, lambda chunk: LRP(classifier, **options)._run(chunk, counts=False))[0]
    )
    assert torch.equal(score, classifier(images)[range(3), targets])


def test_first_layer_rules_follow_pixels_that_are_moved_and_scaled_before_a_layer_reads_them():
    class Moved(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.head = nn.Conv2d(3, 4, 3, bias=False), nn.Linear(4, 2, bias=False)

        def forward(self, images):  # as torchvision's GoogLeNet does with its weights
            channels = [images[:, place : place + 1] * (place + 1.0) + 0.5 for place in range(3)]
            return self.head(F.relu(self.first(F.pad(torch.cat(channels, 1), (1, 1)))).mean((2, 3)))

    class Plain(Moved):
        def forward(self, images):
            return self.head(F.relu(self.first(F.pad(images, (1, 1)))).mean((2, 3)))

    images, _ = batch(height=9, width=7)
    targets = torch.tensor([0, 1, 1])
    factors = torch.arange(1.0, 4.0, dtype=torch.float64).view(1, 3, 1, 1)
    for first in ("z_box", "flat"):
        explainer = LRP(classifier_of(Moved, size=(9, 9)), first_layer=first, rule="epsilon")
        maps = map_of(explainer, images, targets)
        shifted = classifier_of(
            Plain, size=(9, 9), mean=(-0.5 / factors.flatten()).tolist(), std=(1 / factors.flatten()).tolist()
        )
        torch.testing.assert_close(maps, map_of(LRP(shifted, first_layer=first, rule="epsilon"), images, targets))
        assert explainer.conservation(images, targets).gap.max() < 1e-12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "deep_taylor"}, "`rule` must be one of epsilon, gamma, alpha_beta, composite.*got 'deep_taylor'"),
        ({"first_layer": "w2"}, "`first_layer` must be one of same, z_box, flat, got 'w2'"),
        ({"epsilon": -1.0}, "`epsilon` must not be negative, got -1.0"),
        ({"gamma": 0.0}, "`gamma` must be positive, got 0.0; rule='epsilon'"),
        ({"alpha": 2.0}, "`alpha` - `beta` must be 1 and `beta` not negative, got 2.0 and 0.0"),
        ({"alpha": 0.0, "beta": -1.0}, "`alpha` - `beta` must be 1 and `beta` not negative, got 0.0 and -1.0"),
        ({"score": "probability"}, "`score` must be 'logit' for LRP, got 'probability'"),
        ({"chunk": 0}, "`chunk` must be at least one image, got 0"),
    ],
)
def test_lrp_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        LRP(classifier_of(Residual, size=(5, 5), channels=2), **options)


class Ending(nn.Module):
    """A layer and an ending."""

    def __init__(self, ending) -> None:
        super().__init__()
        self.first, self.ending = nn.Conv2d(3, 4, 3), ending

    def forward(self, images):
        return self.ending(self.first(images).mean((2, 3)))


@pytest.mark.parametrize(
    ("ending", "message"),
    [
        (nn.Softmax(1), "logits that come from a sigmoid, hard sigmoid or softmax of small"),
        (
            nn.Sequential(nn.Sigmoid(), nn.Linear(4, 2)),
            r"linear in 'ending\.1' \(Linear\), whose input comes from a sig",
        ),
        (nn.LayerNorm(4), r"layer_norm in 'ending' \(LayerNorm\) of small"),
        (nn.Softplus(), r"softplus in 'ending' \(Softplus\) of small"),
        (nn.Hardtanh(1.0, 2.0), r"hardtanh in 'ending' \(Hardtanh\), whose bounds exclude zero"),
    ],
)
def test_functions_without_a_rule_are_named_with_what_works(ending, message):
    classifier: Classifier = classifier_of(lambda: Ending(ending), size=(8, 8), name="small")
    images, targets = batch(height=8, width=9)
    with pytest.raises(ValueError, match=rf"LRP has no rule for {message}"):
        LRP(classifier)(images, targets % 2)
