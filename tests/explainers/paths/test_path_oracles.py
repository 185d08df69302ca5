"""Paths against captum and the saliency package, where they are installed."""

import functools

import numpy as np
import pytest
import torch

from dre.engine.scoring import score
from dre.explainers import BlurIG, GuidedIG, IntegratedGradients
from tests.networks import rank_correlation, small_batch, small_classifier

pytestmark = pytest.mark.oracle


@pytest.mark.parametrize(
    ("ours", "steps", "theirs"),
    [
        ("gauss_legendre", 20, "gausslegendre"),
        ("midpoint", 20, "riemann_middle"),
        ("left", 21, "riemann_left"),  # its n pieces have n + 1 ends, of which we count the one that weighs nothing
        ("right", 21, "riemann_right"),
    ],
)
def test_integrated_gradients_of_captum(ours, steps, theirs):
    attr = pytest.importorskip("captum.attr")
    classifier = small_classifier().double()
    images, targets = small_batch()
    images = images.double()
    oracle = attr.IntegratedGradients(classifier)
    expected = oracle.attribute(images, torch.zeros_like(images), targets, n_steps=20, method=theirs)
    saliency = IntegratedGradients(classifier, steps=steps, quadrature=ours, score="logit")(images, targets)
    torch.testing.assert_close(saliency, expected.sum(1, keepdim=True).float())  # rounded to float32 at the end


@pytest.fixture
def saliency_package(monkeypatch):
    """Repair what the newest numpy took away from it: `interpolation` is called `method`."""
    core = pytest.importorskip("saliency.core")
    quantile = np.quantile

    def old_quantile(values, q, interpolation="linear", **options):
        return quantile(values, q, method=interpolation, **options)

    monkeypatch.setattr(np, "quantile", functools.wraps(quantile)(old_quantile))
    return core


def asking(core, classifier, target: int):
    """What the package calls: a batch [B, H, W, C] to its gradients."""

    def gradients(images, call_model_args=None, expected_keys=None):
        pixels = torch.as_tensor(np.asarray(images)).double().permute(0, 3, 1, 2).requires_grad_()
        value = score(classifier(pixels), torch.full((len(pixels),), target), "probability")
        (gradient,) = torch.autograd.grad(value.sum(), pixels)
        return {core.INPUT_OUTPUT_GRADIENTS: gradient.permute(0, 2, 3, 1).numpy()}

    return gradients


def test_integrated_gradients_of_the_saliency_package(saliency_package):
    """It averages over all points, both ends included, and keeps the sum in float32."""
    classifier = small_classifier().double()
    images, targets = small_batch(height=32, width=48, size=1)
    pixels = images[0].double().permute(1, 2, 0).numpy()
    expected = saliency_package.IntegratedGradients().GetMask(
        pixels, asking(saliency_package, classifier, 0), x_baseline=np.zeros_like(pixels), x_steps=12, batch_size=5
    )
    saliency = IntegratedGradients(classifier, steps=12, quadrature="pair")(images.double(), targets)
    near = 1e-6 * float(np.abs(expected).max())
    torch.testing.assert_close(saliency[0, 0], torch.as_tensor(expected.sum(-1)).float(), rtol=1e-5, atol=near)


def test_guided_ig_of_the_saliency_package(saliency_package):
    classifier = small_classifier().double()
    images, targets = small_batch(height=32, width=48, size=1)
    pixels = images[0].double().permute(1, 2, 0).numpy()
    expected = saliency_package.GuidedIG().GetMask(
        pixels,
        asking(saliency_package, classifier, 0),
        x_baseline=np.zeros_like(pixels),
        x_steps=10,
        fraction=0.5,
        max_dist=1.0,
    )
    saliency = GuidedIG(classifier, steps=10)(images.double(), targets)
    assert rank_correlation(saliency[0, 0], torch.as_tensor(expected.sum(-1))) >= 0.99


@pytest.mark.parametrize("grid", ["linear", "sqrt"])
def test_blur_ig_of_the_saliency_package(saliency_package, grid):
    """Its tangent is a finite difference and its blur is cut at four sigma each time: alike, not equal.

    One blur at a time, as several in one batch all get the weight of the last, which only an even grid forgives.
    """
    classifier = small_classifier().double()
    images, targets = small_batch(height=32, width=48, size=1)
    expected = saliency_package.BlurIG().GetMask(
        images[0].double().permute(1, 2, 0).numpy(),
        asking(saliency_package, classifier, 0),
        max_sigma=8,
        steps=40,
        grad_step=0.0001,
        sqrt=grid == "sqrt",
        batch_size=1,
    )
    sigma = 8.0 if grid == "linear" else 8.0**0.5  # its square root is of sigma, not of the variance
    path = {"max_sigma": sigma, "grid": grid, "border": "constant", "quadrature": "right"}
    explainer = BlurIG(classifier, steps=41, **path)
    assert rank_correlation(explainer(images.double(), targets)[0, 0], torch.as_tensor(expected.sum(-1))) >= 0.99
