"""Gradient explainers against loops, finite differences and networks that are differentiated by hand."""

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from dre.explainers import GuidedBackprop, InputXGradient, SmoothGrad, VanillaGradient
from dre.explainers.gradient import reduce_channels
from dre.models import Classifier
from tests.networks import small_batch, small_classifier


class TwoLayers(nn.Module):
    """Two linear layers and a ReLU in the spelling that is asked for; `again` uses it twice."""

    def __init__(self, spelling: str, hidden: int = 7) -> None:
        super().__init__()
        self.spelling = spelling
        self.first, self.second, self.head = nn.Linear(12, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, 3)
        self.act = nn.ReLU6(inplace=True) if spelling == "module6" else nn.ReLU()

    def rectify(self, features):
        match self.spelling:
            case "module" | "module6":
                return self.act(features)
            case "functional":
                return F.relu(features)
            case "in place":
                F.relu(features, inplace=True)  # what it returns is not used: the tensor itself has to change
                return features
            case "method":
                return features.relu_()
            case "functional6":
                return F.relu6(features)
            case _:
                return torch.relu(input=features)

    def forward(self, images):
        hidden = self.rectify(self.first(images.flatten(1)))
        return self.head(self.rectify(self.second(hidden)))


def guided_by_hand(network: TwoLayers, images, targets, top: float):
    """Springenberg's rule written out for two rectifiers, one image after the other."""
    maps = []
    for image, target in zip(images, targets, strict=True):
        first = network.first.weight @ image.flatten() + network.first.bias
        second = network.second.weight @ first.clamp(0, top) + network.second.bias
        back = network.head.weight[target]
        for features, layer in ((second, network.second), (first, network.first)):
            is_open = (features > 0) & (features < top)
            back = torch.stack([g if o and g > 0 else g * 0 for g, o in zip(back, is_open, strict=True)])
            back = layer.weight.T @ back
        maps.append(back.view(image.shape))
    return torch.stack(maps).detach()


@pytest.mark.parametrize(
    "spelling", ["module", "module6", "functional", "functional6", "in place", "method", "keyword"]
)
def test_guided_backprop_of_two_layers_by_hand(spelling):
    torch.manual_seed(3)
    network = TwoLayers(spelling).double().eval()
    with torch.no_grad():
        network.first.weight.mul_(12)  # some features pass six
    classifier = Classifier.wrap(network, size=(2, 2), fold=False).double()
    images, targets = torch.rand(5, 3, 2, 2, dtype=torch.float64), torch.tensor([0, 1, 2, 1, 0])
    before = classifier(images)
    expected = guided_by_hand(network, images, targets, 6.0 if spelling.endswith("6") else float("inf"))
    saliency = GuidedBackprop(classifier, reduce="sum")(images, targets)
    torch.testing.assert_close(saliency, expected.sum(1, keepdim=True).float())
    plain = VanillaGradient(classifier, score="logit", reduce="sum")(images, targets)
    assert not torch.allclose(plain, saliency)
    torch.testing.assert_close(classifier(images), before, rtol=0, atol=0)


@pytest.mark.parametrize("fold", [True, False])
def test_guided_backprop_of_efficientnet_with_its_batch_norm_activations(fold):
    classifier = Classifier("tf_efficientnet_lite0", fold=fold)
    images, targets = torch.rand(2, 3, 64, 64), torch.tensor([1, 2])
    guided = GuidedBackprop(classifier)(images, targets)
    hooks = []  # the rule again, with hooks on the modules this time

    def rectify(module, inputs, output):
        output.register_hook(lambda gradient: gradient.clamp_min(0))

    for module in classifier.network.modules():
        if isinstance(module, nn.ReLU6):
            module.inplace = False
            hooks.append(module.register_forward_hook(rectify))
    assert hooks
    expected = VanillaGradient(classifier, score="logit")(images, targets)
    for hook in hooks:
        hook.remove()
    torch.testing.assert_close(guided, expected, rtol=1e-3, atol=1e-4 * expected.max().item())


def test_guided_backprop_names_the_activations_of_a_network_without_rectifier():
    network = timm.models.VisionTransformer(img_size=16, patch_size=4, embed_dim=8, depth=4, num_heads=2, num_classes=3)
    message = r"GuidedBackprop needs a ReLU.*small ViT has none \(its activations: GELU, first in 'blocks\.0\.mlp\.act'"
    with pytest.raises(ValueError, match=message):
        GuidedBackprop(Classifier.wrap(network, size=(16, 16), name="small ViT"))
    linear = Classifier.wrap(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), size=(2, 2))
    with pytest.raises(ValueError, match=r"has none \(it has no activation module\)"):
        GuidedBackprop(linear)


def test_input_x_gradient_of_a_linear_classifier_sums_to_the_logit_without_its_bias():
    linear = nn.Linear(3 * 16, 2)
    classifier = Classifier.wrap(nn.Sequential(nn.Flatten(), linear), size=(4, 4))
    images, targets = torch.rand(2, 3, 4, 4), torch.tensor([0, 1])
    saliency = InputXGradient(classifier, score="logit")(images, targets)
    torch.testing.assert_close(saliency, (images * linear.weight.detach().view(2, 3, 4, 4)).sum(1, keepdim=True))
    logits = classifier(images)[[0, 1], targets] - linear.bias.detach()
    torch.testing.assert_close(saliency.sum(dim=(1, 2, 3)), logits)


@pytest.mark.parametrize(
    ("kind", "term", "antithetic"),
    [
        ("signed", lambda g: g, False),
        ("magnitude", torch.abs, False),
        ("squared", torch.square, False),
        ("magnitude", torch.abs, True),
    ],
)
def test_smooth_grad_is_a_loop_over_images_and_samples(kind, term, antithetic):
    classifier = small_classifier()
    images, targets = small_batch(2, height=32, width=48)
    images = images * torch.tensor([1.0, 0.3])[:, None, None, None]  # each image has its own range
    options = {"kind": kind, "reduce": "sum", "seed": 7, "antithetic": antithetic}
    explainer = SmoothGrad(classifier, samples=6, chunk=5, **options)  # parts of 3 cut a pair
    saliency = explainer(images, targets, ["a", "b"])
    explainer.keys = ["a", "b"]
    for place, generator in enumerate(explainer.generators(images, 7)):
        image, total = images[place : place + 1], torch.zeros(1, 3, 32, 48)
        noise = torch.zeros(())
        for copy in range(6):
            is_second = antithetic and copy % 2
            noise = -noise if is_second else torch.randn(3, 32, 48, generator=generator)
            pixels = (image + 0.15 * (image.max() - image.min()) * noise).requires_grad_()
            score = classifier(pixels).softmax(1)[0, targets[place]]
            total += term(torch.autograd.grad(score, pixels)[0])
        expected = reduce_channels(total / 6, "sum")
        torch.testing.assert_close(saliency[place : place + 1], expected, rtol=1e-4, atol=1e-7)


def test_smooth_grad_without_noise_is_the_gradient_and_chunks_do_not_matter():
    classifier = small_classifier()
    images, targets = small_batch()
    plain = VanillaGradient(classifier)(images, targets)
    torch.testing.assert_close(SmoothGrad(classifier, noise=0, samples=3)(images, targets), plain, rtol=1e-4, atol=1e-7)
    noisy = SmoothGrad(classifier, samples=7)(images, targets)
    for chunk in (1, 3, 100):
        again = SmoothGrad(classifier, samples=7, chunk=chunk)(images, targets)
        torch.testing.assert_close(again, noisy, rtol=1e-4, atol=1e-7)
    assert not torch.allclose(SmoothGrad(classifier, samples=7, seed=1)(images, targets), noisy, rtol=1e-2)


def test_smooth_grad_never_holds_more_than_a_chunk():
    classifier, sizes = small_classifier(), []
    classifier.network.register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0])))
    SmoothGrad(classifier, samples=10, chunk=4)(*small_batch())
    assert max(sizes) <= 4
    assert sum(sizes) == 30


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 0}, "`samples` must be at least 1, got 0"),
        ({"samples": 7, "antithetic": True}, "`samples` must be even, as antithetic draws are pairs, got 7"),
        ({"chunk": 0}, "`chunk` must be at least one image, got 0"),
        ({"noise": -0.1}, "`noise` must not be negative, got -0.1"),
        ({"kind": "cubed"}, "`kind` must be one of signed, magnitude, squared, got 'cubed'"),
    ],
)
def test_smooth_grad_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        SmoothGrad(small_classifier(), **options)
