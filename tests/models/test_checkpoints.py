import copy

import pytest
import torch
from torch import nn

from dre.models import Classifier, check_compatible
from tests.networks import SmallNetwork


def network() -> SmallNetwork:
    torch.manual_seed(0)
    return SmallNetwork().eval()


def content(**changes) -> dict:
    classifier = Classifier.wrap(network(), mean=[0.5], std=[0.25], size=(64, 64), name="a name")
    return {"classifier": {**classifier.identity(), **changes}}


@pytest.mark.parametrize(
    "options",
    [
        {"mean": [0.5], "std": [0.25], "size": (64, 64), "name": "another name"},
        {"mean": [0.5] * 3, "std": [0.25] * 3, "size": (96, 64)},  # the same figures, one a channel
        {"mean": [0.5], "std": [0.25], "size": (64, 64), "fold": False},
    ],
)
def test_the_same_network_is_known_by_any_name_and_way_to_build_it(options):
    check_compatible(content(), Classifier.wrap(network(), **options), "last.ckpt")


class Padded(nn.Module):
    """The same weights, computed with otherwise."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        for name, child in inner.named_children():
            self.add_module(name, child)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                module.padding_mode = "reflect"

    forward = SmallNetwork.forward


def other_weights() -> nn.Module:
    changed = network()
    changed.head.bias.data[0] += 1e-3
    return changed


@pytest.mark.parametrize(
    ("build", "options", "message"),
    [
        (network, {"mean": [0.4], "std": [0.25]}, r"the same weights, but another normalisation, its mean \(\[0\.5, "),
        (
            network,
            {"mean": [0.5], "std": [1.0]},
            r"the same weights, but another normalisation, its standard deviation .* here \[1\.0, ",
        ),
        (other_weights, {"mean": [0.5], "std": [0.25]}, r"another weights \([0-9a-f]{16}, here [0-9a-f]{16}\)"),
        (lambda: Padded(network()), {"mean": [0.5], "std": [0.25]}, "the same weights, but other logits"),
        (lambda: SmallNetwork(4), {"mean": [0.5], "std": [0.25]}, r"another number of classes \(5, here 4\)"),
    ],
)
def test_another_network_or_normalisation_is_refused_with_what_differs(build, options, message):
    classifier = Classifier.wrap(build().eval(), size=(64, 64), **options)
    with pytest.raises(ValueError, match=rf"last\.ckpt explains a name, not \w+: {message}.*give that classifier"):
        check_compatible(content(), classifier, "last.ckpt")


def test_what_an_older_checkpoint_does_not_say_is_not_compared():
    old = copy.deepcopy(content())
    for key in ("mean", "std", "size", "logits"):
        del old["classifier"][key]
    check_compatible(old, Classifier.wrap(network(), mean=[0.1], size=(64, 64)), "last.ckpt")
    named = {**old["classifier"], "options": '{"pad_type": "same"}', "name": "SmallNetwork"}
    with pytest.raises(ValueError, match=r"other options \(.*pad_type.*, here none\)"):
        check_compatible({"classifier": named}, Classifier.wrap(network(), size=(64, 64)), "last.ckpt")
    with pytest.raises(ValueError, match="an unknown classifier"):
        check_compatible({"classifier": {}}, Classifier.wrap(network(), size=(64, 64)), "last.ckpt")
    with pytest.raises(ValueError, match="other logits"):
        check_compatible(content(logits="none"), Classifier.wrap(network(), [0.5], [0.25], size=(64, 64)), "last.ckpt")
