import math

import pytest
import torch
from torch import nn

from dre.models import Classifier
from dre.models.randomisation import WeightLayer, add_noise, fold, randomise, standard_deviation, weight_layers
from tests.networks import SmallNetwork, small_batch, small_classifier

REDRAWS = ("initial", "shuffled")


class Everything(nn.Module):
    """Bare parameters, attention that reads a module's weights from outside, a norm, and a head that is never used."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Linear(8, 3)
        self.patches = nn.Conv2d(3, 8, 16, stride=16)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 5)

    def forward(self, images):
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(tokens), -1, -1), tokens], dim=1)
        attended, _ = self.attention(tokens, tokens, tokens)
        return self.head(self.norm(tokens + attended)[:, 0])


def everything() -> Classifier:
    torch.manual_seed(0)
    return Classifier.wrap(Everything(), size=(64, 64))


def unfolded(seed: int = 0) -> Classifier:
    torch.manual_seed(seed)
    return Classifier.wrap(SmallNetwork().eval(), mean=[0.5], std=[0.5], size=(64, 64), fold=False)


def state(classifier) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in classifier.state_dict().items()}


def changed(classifier, copy) -> set[str]:
    """Names of the network's tensors that differ."""
    before, after = classifier.network.state_dict(), copy.network.state_dict()
    return {name for name in before if not torch.equal(before[name], after[name])}


def of_layer(classifier, layer: WeightLayer) -> set[str]:
    tensors = classifier.network.state_dict()
    return {name for name in tensors if name.rpartition(".")[0] in layer.members}


def test_layers_are_in_running_order_and_norms_belong_to_the_layer_before():
    plain, folded = weight_layers(unfolded()), weight_layers(small_classifier())
    names = ["stem.0", "stage2.0", "stage3.0", "stage4.0", "head"]
    assert [layer.name for layer in plain] == [layer.name for layer in folded] == names
    assert plain[0].members == ("stem.0", "stem.1")
    assert folded[0].members == ("stem.0",)


def test_bare_parameters_are_a_layer_and_unused_ones_are_none():
    layers = {layer.name: layer.members for layer in weight_layers(everything())}
    assert layers == {
        "": ("",),  # the class token
        "patches": ("patches",),
        "attention": ("attention",),
        "attention.out_proj": ("attention.out_proj", "norm"),
        "head": ("head",),
    }


@pytest.mark.parametrize("redraw", REDRAWS)
@pytest.mark.parametrize("make", [small_classifier, unfolded, everything])
def test_redrawing_one_layer_touches_it_alone_and_never_the_original(make, redraw):
    classifier = make()
    before = state(classifier)
    for layer in weight_layers(classifier):
        copy = randomise(classifier, [layer], redraw=redraw)
        touched = changed(classifier, copy)
        assert touched
        assert touched <= of_layer(classifier, layer)
    assert changed(classifier, randomise(classifier, [])) == set()
    assert all(torch.equal(before[name], tensor) for name, tensor in classifier.state_dict().items())
    assert not copy.training
    assert not any(parameter.requires_grad for parameter in copy.parameters())
    assert copy.identity() == classifier.identity()  # a learned explainer of the original can be built on it


@pytest.mark.parametrize("redraw", REDRAWS)
def test_a_tensor_has_its_own_stream_whatever_else_is_drawn(redraw):
    classifier = small_classifier()
    layers = weight_layers(classifier)
    alone = randomise(classifier, layers[2:3], 3, redraw).network.state_dict()
    together = randomise(classifier, layers[::-1], 3, redraw).network.state_dict()
    other_seed = randomise(classifier, layers[2:3], 4, redraw).network.state_dict()
    name = f"{layers[2].name}.weight"
    assert torch.equal(alone[name], together[name])
    assert not torch.equal(alone[name], other_seed[name])
    wide = Classifier.wrap(nn.Sequential(nn.Flatten(), nn.Linear(12, 12), nn.Linear(12, 12)), size=(2, 2))
    weights = randomise(wide, weight_layers(wide), redraw="initial").network.state_dict()
    assert not torch.equal(weights["1.weight"], weights["2.weight"])


def test_initial_weights_have_hes_variance_and_norms_their_start():
    classifier = unfolded()
    copy = randomise(classifier, weight_layers(classifier)).network
    weight = copy.stage4[0].weight
    fan_in = weight[0].numel()
    spread = weight.std().item() * math.sqrt(fan_in / 2)
    assert spread == pytest.approx(1, abs=4 / math.sqrt(2 * weight.numel()))  # four standard errors of a deviation
    norm = copy.stage4[1]
    for tensor, value in ((norm.weight, 1), (norm.bias, 0), (norm.running_mean, 0), (norm.running_var, 1)):
        assert (tensor == value).all()
    assert (copy.head.bias == 0).all()


def test_shuffled_tensors_keep_their_values():
    classifier = unfolded()
    copy = randomise(classifier, weight_layers(classifier), redraw="shuffled")
    tensors = classifier.network.state_dict()
    for name, tensor in copy.network.state_dict().items():
        assert torch.equal(tensor.flatten().sort().values, tensors[name].flatten().sort().values)
    assert "stage3.1.running_var" in changed(classifier, copy)


def test_a_folded_network_becomes_the_same_function_as_the_unfolded_one():
    images, _ = small_batch(height=64, width=64)
    plain, folded = unfolded(), small_classifier()
    with torch.no_grad():
        logits = [randomise(one, weight_layers(one))(images) for one in (plain, folded)]
    torch.testing.assert_close(*logits, rtol=1e-3, atol=1e-4)  # a reset norm divides by sqrt(1 + 1e-5)


@pytest.mark.parametrize("redraw", REDRAWS)
def test_a_randomised_classifier_gives_every_class_its_share_in_expectation(redraw):
    classifier, (images, targets) = small_classifier(), small_batch(height=64, width=64)
    layers, draws = weight_layers(classifier), []
    with torch.no_grad():
        for seed in range(300):
            probabilities = randomise(classifier, layers, seed, redraw)(images).softmax(dim=1)
            draws.append(probabilities.gather(1, targets[:, None])[:, 0])
    means, errors = torch.stack(draws).mean(dim=0), torch.stack(draws).std(dim=0) / math.sqrt(len(draws))
    assert ((means - 1 / 5).abs() < 4 * errors).all(), (means, errors)
    assert torch.stack(draws).std() > 0.01  # not because every class has the same logit


@pytest.mark.parametrize("sigma", ["global", "tensor"])
def test_noise_has_the_asked_deviation_and_leaves_buffers(sigma):
    classifier = unfolded()
    before = state(classifier)
    overall = standard_deviation(classifier.network.parameters())
    copy = add_noise(classifier, 0.5, sigma=sigma)
    assert all(torch.equal(before[name], tensor) for name, tensor in classifier.state_dict().items())
    for name, parameter in classifier.network.named_parameters():
        noise = copy.network.get_parameter(name) - parameter
        expected = 0.5 * (overall if sigma == "global" else standard_deviation([parameter]))
        error = 5 * expected / math.sqrt(2 * noise.numel())
        assert noise.std(correction=0).item() == pytest.approx(expected, abs=max(error, 1e-9)), name
    buffers = dict(copy.network.named_buffers())
    assert all(torch.equal(buffers[name], tensor) for name, tensor in classifier.network.named_buffers())


def test_noise_is_decided_by_seed_level_and_name():
    classifier = small_classifier()
    first = add_noise(classifier, 0.3).network.state_dict()
    assert all(
        torch.equal(first[name], tensor) for name, tensor in add_noise(classifier, 0.3).network.state_dict().items()
    )
    drawn = [
        (copy.network.stem[0].weight - classifier.network.stem[0].weight) / level
        for copy, level in (
            (add_noise(classifier, 0.3), 0.3),
            (add_noise(classifier, 0.6), 0.6),
            (add_noise(classifier, 0.3, seed=1), 0.3),
            (add_noise(classifier, 0.3, draw=1), 0.3),
        )
    ]
    assert not torch.allclose(drawn[0], drawn[1])  # not one direction, stretched
    assert not torch.allclose(drawn[0], drawn[2])
    assert not torch.allclose(drawn[0], drawn[3])
    nothing = add_noise(classifier, 0.0)
    assert nothing is not classifier
    assert changed(classifier, nothing) == set()


def test_folding_afterwards_gives_the_classifier_that_was_built_folded():
    built, later = small_classifier(), small_classifier(fold=False)
    folded = fold(later)
    assert not later.folded
    assert folded.folded == built.folded
    expected = built.network.state_dict()
    for name, tensor in folded.network.state_dict().items():
        torch.testing.assert_close(tensor, expected[name])
    torch.testing.assert_close(folded(small_batch()[0]), later(small_batch()[0]), rtol=1e-4, atol=1e-5)


def test_much_noise_leaves_no_trace_of_the_class():
    classifier, (images, _) = small_classifier(), small_batch(height=64, width=64)
    with torch.no_grad():
        targets = classifier(images).argmax(dim=1)
        draws = torch.stack(
            [
                add_noise(classifier, 30.0, seed)(images).softmax(dim=1).gather(1, targets[:, None])[:, 0]
                for seed in range(300)
            ]
        )
    error = draws.std(dim=0) / math.sqrt(len(draws))
    assert ((draws.mean(dim=0) - 1 / 5).abs() < 4 * error).all()


def test_what_makes_no_sense_is_refused():
    classifier = small_classifier()
    with pytest.raises(ValueError, match=r"`level` is a share of sigma and must not be negative, got -0\.1"):
        add_noise(classifier, -0.1)
    with pytest.raises(ValueError, match="`level` is a share of sigma"):
        add_noise(classifier, math.nan)
    with pytest.raises(ValueError, match="`sigma` must be one of global, tensor, got 'layer'"):
        add_noise(classifier, 0.1, sigma="layer")
    with pytest.raises(ValueError, match="`redraw` must be one of initial, shuffled, got 'zero'"):
        randomise(classifier, [], redraw="zero")
