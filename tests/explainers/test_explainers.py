"""The contract of explainers: shapes, batches, precision and counted passes of each, and oracles of the plain ones."""

import pytest
import torch
from torch import nn

from dre import explainers
from dre.explainers import DRE, CentredGaussian, Explainer, GradCAM, GradCAMPlusPlus, Random, VanillaGradient
from dre.explainers.gradient import reduce_channels
from dre.images.blur import gaussian_blur
from dre.models import Classifier
from tests.networks import rank_correlation, small_batch, small_classifier, small_estimator, small_vit

LEARNED = {
    "DRE": "dre",
    "DREPlus": "dre",
    "DRERefined": "dre",
    "FastSHAP": "fast_shap",
    "MGnet": "mgnet",
    "NNExplainer": "nn_explainer",
}
ADAPTIVE = ("GuidedIG", "SAMP", "SAMPPlusPlus")  # steered by the gradient: rounding may change the order of two pixels


def gradient_times_input(model, images, targets):
    """A function as its author writes it, for `FunctionExplainer`."""
    pixels = images.clone().requires_grad_()
    model(pixels)[torch.arange(len(images)), targets].sum().backward()
    return (images * pixels.grad).sum(1)


OPTIONS = {
    "BlurIG": {"steps": 6},
    "ControlledExplainer": {"explainer": GradCAM},
    "DRERefined": {"steps": 2, "areas": 3},
    "ExtremalPerturbation": {"areas": (0.1, 0.3), "iterations": 3, "step": 8, "sigma": 12.0},
    "FeatureInversion": {"iterations": 5, "inversion_iterations": 2},
    "FunctionExplainer": {"function": gradient_times_input},
    "GGIG": {"points": 3, "ascents": 2},
    "GuidedIG": {"steps": 6},
    "IntegratedGradients": {"steps": 6},
    "LIME": {"samples": 12, "segmentation": "slic", "segments": 6},
    "MeaningfulPerturbation": {"iterations": 3},
    "RISE": {"masks": 10, "cells": 3},
    "SAMPPlusPlus": {"max_steps": 5},  # how long it walks depends on the image
    "SmoothGrad": {"samples": 5},
    "XRAI": {"attribution": GradCAM, "scales": (20.0, 100.0), "min_size": 20, "size": 48},
}
"""What an explainer cannot do without, and small counts so that tests stay quick; explainers that need neither are not
listed."""

PUBLIC = {name: getattr(explainers, name) for name in explainers.__all__}
ELSEWHERE = ("Captum", "Precomputed", "PytorchGradCam", "Zennit")
"""Explainers that explain nothing themselves, or need another library: their own files test them."""

NAMES = [
    name
    for name, kind in PUBLIC.items()
    if isinstance(kind, type) and issubclass(kind, Explainer) and name not in ("Explainer", "PathExplainer", *ELSEWHERE)
]


PASSES = {
    "AttentionRollout": (3, 0, 0),
    "BlurIG": (3 * 6, 3 * 6, 0),
    "CAM": (3, 0, 0),
    "CentredGaussian": (0, 0, 0),
    "ControlledExplainer": (3, 0, 3),
    "DRE": (3, 0, 0),
    "DREPlus": (3 * 33, 0, 0),
    "DRERefined": (3 * (1 + 2 * 3), 3 * 2 * 3, 0),
    "DeepLift": (3 + 1, 3, 0),  # black is run once for all
    "EdgeDetector": (0, 0, 0),
    "ExtremalPerturbation": (3 * 2 * 3, 3 * 2 * 3, 0),
    "FastSHAP": (3, 0, 0),
    "FeatureInversion": (3 * 9, 3 * 8, 0),  # two passes for the features, three times two for the score, one look
    "FunctionExplainer": (3, 3, 0),
    "GGIG": (3 * 3 * 2, 3 * 3 * 2, 0),
    "GradCAM": (3, 0, 3),
    "GradCAMPlusPlus": (3, 0, 3),
    "GradientAttention": (3, 3, 0),
    "GuidedBackprop": (3, 3, 0),
    "GuidedIG": (3 * 7, 3 * 6, 0),  # the end of the path is scored without a gradient
    "InputXGradient": (3, 3, 0),
    "IntegratedGradients": (3 * 6, 3 * 6, 0),
    "LIME": (3 * 12, 0, 0),
    "LRP": (3, 3, 0),
    "MGnet": (3, 0, 0),
    "MeaningfulPerturbation": (3 * 3, 3 * 3, 0),
    "NNExplainer": (3, 0, 0),
    "Random": (0, 0, 0),
    "RISE": (3 * 10, 0, 0),
    "SAMP": (3 * 2 * 15, 3 * 2 * 14, 0),  # two walks, each with its end
    "SAMPPlusPlus": (3 * 2 * 6, 3 * 2 * 5, 0),  # cut after five steps
    "SmoothGrad": (3 * 5, 3 * 5, 0),
    "VanillaGradient": (3, 3, 0),
    "XRAI": (3, 0, 3),  # of the Grad-CAM that the options above give it
}
"""Forward passes, backward passes and backward passes through the head, for three images and the options above.

What an explainer counts is compared with what its network runs, whether it is listed here or not."""


ATTENTION = ("AttentionRollout", "GradientAttention")
"""Explainers of transformers alone."""


def classifier_for(name: str, channels: int = 3, seed: int = 0) -> Classifier:
    """Build a small classifier that an explainer works for."""
    return (small_vit if name in ATTENTION else small_classifier)(channels=channels, seed=seed)


def build(name: str, classifier: Classifier | None = None, **options) -> Explainer:
    classifier = classifier or classifier_for(name)
    kind = getattr(explainers, name)
    if name not in LEARNED:
        return kind(classifier, **OPTIONS.get(name, {}) | options)
    return kind.from_estimator(classifier, small_estimator(classifier, LEARNED[name]), **OPTIONS.get(name, {}))


@pytest.mark.parametrize("name", ["BlurIG", "GuidedIG", "IntegratedGradients"])
def test_paths_have_64_steps_where_nothing_is_said(name):
    assert getattr(explainers, name)(small_classifier()).path.steps == 64


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("channels", [1, 3])
def test_shape_of_the_image_and_inputs_left_alone(name, channels):
    explainer = build(name, classifier_for(name, channels))
    images, targets = small_batch(channels=channels)
    before = images.clone()
    saliency = explainer(images, targets)
    assert saliency.shape == (3, 1, 64, 96)
    assert saliency.dtype == torch.float32
    assert not saliency.requires_grad
    assert torch.equal(images, before)
    assert not images.requires_grad
    assert not any(parameter.requires_grad for parameter in explainer.classifier.parameters())
    assert not explainer.classifier.training


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("keys", [None, ["a", "b", "c"]])
def test_a_batch_equals_its_images_one_by_one(name, keys):
    explainer = build(name)
    images, targets = small_batch()
    together = explainer(images, targets, keys)
    for place in range(3):
        key = None if keys is None else keys[place : place + 1]
        alone = explainer(images[place : place + 1], targets[place : place + 1], key)
        if name in ADAPTIVE:
            assert rank_correlation(alone, together[place : place + 1]) >= 0.99
        elif name == "DREPlus":  # pixels whose masks differ by rounding may change places, and then their weights
            close = torch.isclose(alone, together[place : place + 1], rtol=1e-4, atol=1e-6)
            assert close.float().mean() > 0.998
        else:
            torch.testing.assert_close(alone, together[place : place + 1], rtol=1e-4, atol=1e-6)


ROUNDED = {torch.float16: 0.07, torch.bfloat16: 0.25}
"""Distance from the map in float32 that a network in half precision may cause, relative to that map."""


@pytest.mark.parametrize("precision", ROUNDED)
@pytest.mark.parametrize("name", NAMES)
def test_a_network_in_half_precision_and_autocast_give_nearly_the_map_in_float32(name, precision):
    images, targets = small_batch(1, height=64, width=64)
    exact = build(name)(images, targets, ["a"])
    with torch.no_grad(), torch.autocast("cpu", precision):
        mixed = build(name)(images, targets, ["a"])
    explainer = build(name, classifier_for(name).to(precision)).to(precision)
    for saliency in (mixed, explainer(images, targets, ["a"]), explainer(images.to(precision), targets, ["a"])):
        assert saliency.dtype == torch.float32
        assert saliency.isfinite().all()
        if name in ADAPTIVE:
            assert rank_correlation(saliency, exact) > 0.7
        else:
            assert (saliency - exact).norm() <= ROUNDED[precision] * exact.norm() + 1e-6


class Gated(nn.Module):
    """Smooth activations, a gate, a residual sum and a maximum: what propagation has rules for."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.gate, self.head = nn.Conv2d(8, 8, 1), nn.Linear(8, 3)

    def forward(self, images):
        maps = nn.functional.silu(self.first(images))
        maps = nn.functional.max_pool2d(maps + nn.functional.relu6(self.second(maps)), 2)
        maps = maps * nn.functional.hardsigmoid(self.gate(maps.mean((2, 3), keepdim=True)))
        return self.head(maps.mean((2, 3)))


@pytest.mark.parametrize("name", ["DeepLift", "LRP", "VanillaGradient"])
def test_quotients_are_formed_in_float32_and_small_gradients_do_not_vanish_in_float16(name):
    torch.manual_seed(0)
    network, images = Gated().eval(), small_batch(2, height=16, width=16)[0]
    images[:, :, :4] = 0
    with torch.no_grad():
        network.head.weight *= 1e-3  # gradients of 1e-7
    options = {"score": "logit"}
    exact = getattr(explainers, name)(Classifier.wrap(network, size=(16, 16)), **options)(images, torch.tensor([0, 1]))
    half = getattr(explainers, name)(Classifier.wrap(network, size=(16, 16)).half(), **options)
    rounding = half(images, torch.tensor([0, 1])) - exact
    assert rounding.norm() < 0.15 * exact.norm()  # of two values that rounding makes equal, another is the maximum


@pytest.mark.parametrize("name", NAMES)
def test_inference_mode_is_left_and_what_was_made_in_it_is_copied(name):
    """The maps are those outside, to the bit, whether images, explainer or network were made in inference mode."""
    images, targets = small_batch(1, height=64, width=64)
    expected = build(name)(images, targets, ["a"])
    with torch.inference_mode():
        assert torch.equal(build(name)(images.clone(), targets.clone(), ["a"]), expected)
        explainer = build(name).double().float()  # its tensors are inference tensors again
        assert any(value.is_inference() for value in explainer.state_dict().values()) or not explainer.state_dict()
    assert torch.equal(explainer(images, targets, ["a"]), expected)


def test_gradients_stay_off_where_inference_mode_is_left():
    seen = []

    class Looking(VanillaGradient):
        def explain(self, images, targets):
            seen.append((torch.is_inference_mode_enabled(), torch.is_grad_enabled()))
            return super().explain(images, targets)

    with torch.inference_mode():
        Looking(small_classifier())(*small_batch())
    assert seen == [(False, False)]


def test_baselines_and_kernels_that_were_made_in_inference_mode_can_be_used_outside():
    images, targets = small_batch(1, height=64, width=64)
    with torch.inference_mode():
        baseline = images[0] / 2
        gaussian_blur(images, 3.25)  # a kernel that is kept
    classifier = small_classifier()
    for kind in (explainers.IntegratedGradients, explainers.GuidedIG):
        inside = kind(classifier, steps=3, baseline=baseline)(images, targets)
        assert torch.equal(inside, kind(classifier, steps=3, baseline=images[0] / 2)(images, targets))
    gaussian_blur(images.clone().requires_grad_(), 3.25).sum().backward()


@pytest.mark.parametrize("name", ["VanillaGradient", "RISE"])
@pytest.mark.parametrize(
    "targets",
    [
        torch.tensor([1, 4], dtype=torch.uint8),
        torch.tensor([1, 4], dtype=torch.int16),
        torch.tensor([1, 4], dtype=torch.int32),
        torch.tensor([1, 4], dtype=torch.uint16),
    ],
)
def test_targets_of_any_integer_type(name, targets):
    images, _ = small_batch(2)
    explainer = build(name)
    assert torch.equal(explainer(images, targets, ["a", "b"]), explainer(images, torch.tensor([1, 4]), ["a", "b"]))
    assert torch.equal(
        explainer(images, torch.tensor(4), ["a", "b"])[1], explainer(images, torch.tensor([1, 4]), ["a", "b"])[1]
    )


def test_passes_are_listed_of_explainers_that_there_are():
    assert set(PASSES) <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_passes_are_counted_as_they_happen(name):
    explainer = build(name)
    forwards, backwards = [], []
    network = explainer.classifier.network
    network.register_forward_hook(lambda _, inputs, __: forwards.append(len(inputs[0])))
    end = network.head if name in ATTENTION else network.stem  # attention is differentiated, and no pixel
    end.register_full_backward_hook(lambda _, __, gradients: backwards.append(len(gradients[0])))
    explainer(*small_batch())
    counted = (explainer.cost.forwards, explainer.cost.backwards, explainer.cost.head_backwards)
    assert counted == PASSES.get(name, counted)
    assert (sum(forwards), sum(backwards)) == counted[:2]


@pytest.mark.parametrize("score", ["probability", "logit", "log_probability"])
def test_vanilla_gradient_is_a_finite_difference(score):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    classifier = Classifier.wrap(network.double(), size=(8, 8), fold=False).double()
    image, target = torch.rand(1, 3, 8, 8, dtype=torch.float64), torch.tensor([2])

    def value(pixels: torch.Tensor) -> float:
        logits = classifier(pixels)[0]
        kinds = {"probability": logits.softmax(0), "logit": logits, "log_probability": logits.log_softmax(0)}
        return kinds[score][2].item()

    expected = torch.zeros(3, 8, 8)
    for index in range(3 * 64):
        step = torch.zeros(3 * 64, dtype=torch.float64)
        step[index] = 1e-5
        step = step.view(1, 3, 8, 8)
        expected.view(-1)[index] = (value(image + step) - value(image - step)) / 2e-5
    saliency = VanillaGradient(classifier, score=score)(image, target)
    torch.testing.assert_close(saliency[0, 0], expected.abs().amax(0), rtol=1e-4, atol=1e-8)


def test_vanilla_gradient_of_a_linear_classifier_is_its_weight():
    linear = nn.Linear(3 * 16, 2)
    classifier = Classifier.wrap(nn.Sequential(nn.Flatten(), linear), size=(4, 4))
    saliency = VanillaGradient(classifier, score="logit", reduce="sum")(torch.rand(2, 3, 4, 4), torch.tensor([0, 1]))
    torch.testing.assert_close(saliency, linear.weight.detach().view(2, 3, 4, 4).sum(1, keepdim=True))


def test_channel_reductions_by_hand():
    values = torch.tensor([1.0, -3.0, 0.5]).view(1, 3, 1, 1)
    reduced = {name: reduce_channels(values, name).item() for name in ("sum", "abs_sum", "sum_abs", "max_abs", "max")}
    assert reduced == {"sum": -1.5, "abs_sum": 1.5, "sum_abs": 4.5, "max_abs": 3.0, "max": 1.0}
    with pytest.raises(ValueError, match="unknown reduction 'mean'"):
        reduce_channels(values, "mean")


def test_grad_cam_of_a_pooled_linear_head_is_its_class_activation_map():
    classifier = small_classifier()
    images, targets = small_batch()
    maps, _ = classifier.activations(images)
    expected = torch.einsum("bchw,bc->bhw", maps.detach(), classifier.head_weights()[targets])[:, None].relu()
    expected = expected / (maps.shape[2] * maps.shape[3])
    expected = torch.nn.functional.interpolate(expected, size=(64, 96), mode="bilinear")
    torch.testing.assert_close(GradCAM(classifier)(images, targets), expected)


def test_grad_cam_plus_plus_against_a_loop_over_its_equation():
    classifier = small_classifier()
    images, targets = small_batch(size=1)
    maps, logits = classifier.activations(images)
    (gradient,) = torch.autograd.grad(logits[0, targets[0]], maps)
    maps, gradient = maps.detach()[0], gradient[0]
    heat = torch.zeros(maps.shape[1:])
    for channel in range(len(maps)):
        weight = 0.0
        for row in range(maps.shape[1]):
            for column in range(maps.shape[2]):
                g = gradient[channel, row, column].item()
                alpha = g**2 / (2 * g**2 + maps[channel].sum().item() * g**3 + 1e-6) if g else 0.0
                weight += alpha * max(g, 0.0)
        heat += weight * maps[channel]
    expected = torch.nn.functional.interpolate(heat.relu()[None, None], size=(64, 96), mode="bilinear")
    torch.testing.assert_close(GradCAMPlusPlus(classifier)(images, targets), expected, rtol=1e-4, atol=1e-7)


def test_random_depends_on_key_and_seed_alone():
    classifier = small_classifier()
    images, targets = small_batch()
    first = Random(classifier)(images, targets, ["a", "b", "c"])
    torch.testing.assert_close(Random(classifier)(images.flip(0), targets, ["c", "b", "a"]).flip(0), first)
    assert not torch.equal(Random(classifier, seed=1)(images, targets, ["a", "b", "c"]), first)
    assert not torch.equal(first[0], first[1])


def test_centred_gaussian_is_symmetric_and_highest_in_the_middle():
    saliency = CentredGaussian(small_classifier())(*small_batch())
    torch.testing.assert_close(saliency, saliency.flip(2))
    torch.testing.assert_close(saliency, saliency.flip(3))
    assert saliency[0, 0, 31:33, 47:49].min() == pytest.approx(saliency.max().item(), rel=1e-6)  # vector and scalar exp


@pytest.mark.parametrize(
    ("images", "targets", "message"),
    [
        (torch.rand(3, 8, 8), torch.tensor([0]), r"must be batched.*\[3, 8, 8\].*images\[None\]"),
        (torch.full((1, 3, 8, 8), 2.0), torch.tensor([0]), r"must lie in \[0, 1\], got \[2, 2\]"),
        (torch.full((1, 3, 8, 8), float("nan")), torch.tensor([0]), r"192 non-finite values in 1 of 1"),
        (torch.rand(1, 1, 8, 8), torch.tensor([0]), r"reads 3 channels, `images` has 1"),
        (torch.rand(1, 3, 8, 8), torch.tensor([5]), r"must lie in 0\.\.4.*got 5\.\.5"),
        (torch.rand(2, 3, 8, 8), torch.tensor([0]), r"must be integers \[2\]"),
        (torch.rand(1, 3, 8, 8), torch.tensor([0.0]), r"must be integers \[1\], got torch.float32"),
    ],
)
def test_bad_input_is_refused_at_the_door(images, targets, message):
    with pytest.raises(ValueError, match=message):
        VanillaGradient(small_classifier())(images, targets)


def test_integer_images_are_refused():
    with pytest.raises(TypeError, match="divide 8-bit images by 255"):
        VanillaGradient(small_classifier())(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.tensor([0]))


def test_dre_without_a_checkpoint_says_how_to_make_one(tmp_path):
    with pytest.raises(ValueError, match=r"DRE needs a `checkpoint`; `python train.py`"):
        DRE(small_classifier())
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*none\.ckpt; `python train.py`"):
        DRE(small_classifier(), checkpoint=str(tmp_path / "none.ckpt"))
