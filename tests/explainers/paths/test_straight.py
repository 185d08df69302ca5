"""Straight lines and blurs against numbers worked out by hand; what no path accepts."""

import math

import pytest
import torch

from dre.explainers import (
    SAMP,
    BlurIG,
    BlurPath,
    GuidedIG,
    IntegratedGradients,
    SampPath,
    VanillaGradient,
    bare_gradient,
)
from dre.explainers.paths.straight import quadrature
from dre.images.blur import BlurSpectrum, blur_with_slope, gaussian_blur
from tests.explainers.analytic import ZERO, formula_classifier, linear_classifier, random_image
from tests.networks import small_batch, small_classifier

QUADRATURES = ["left", "right", "midpoint", "trapezoid", "gauss_legendre", "pair"]


@pytest.mark.parametrize("name", QUADRATURES)
def test_weights_of_a_quadrature_sum_to_one_and_nodes_ascend(name):
    nodes, weights = quadrature(name, 7)
    assert len(nodes) == len(weights) == 7
    assert nodes == sorted(nodes)
    assert math.isclose(sum(weights), 1.0)


@pytest.mark.parametrize(("name", "degree"), [("trapezoid", 1), ("midpoint", 1), ("gauss_legendre", 9)])
def test_a_quadrature_is_exact_up_to_its_degree(name, degree):
    nodes, weights = quadrature(name, 5)
    for power in range(degree + 1):
        total = sum(weight * node**power for node, weight in zip(nodes, weights, strict=True))
        assert math.isclose(total, 1 / (power + 1), rel_tol=1e-12)


@pytest.mark.parametrize("name", QUADRATURES)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_quadrature_is_exact_on_a_linear_classifier(name, channels):
    weight = torch.randn(channels, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    images = random_image(channels)
    options = {"quadrature": name, "score": "logit", "baseline": "white"}
    explainer = IntegratedGradients(linear_classifier(weight), steps=5, **options)
    expected = (weight * (images - 1)).sum(1, keepdim=True).float()
    torch.testing.assert_close(explainer(images, ZERO), expected)
    assert explainer.gap.max() < 1e-12


def test_the_bare_gradient_of_a_linear_classifier_is_its_weight_at_every_node():
    weight = torch.randn(3, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    classifier, images = linear_classifier(weight), random_image(3)
    options = {"score": "logit", "reduce": "max_abs"}
    explainer = IntegratedGradients(classifier, steps=5, quadrature="pair", rule=bare_gradient, **options)
    gradient = VanillaGradient(classifier, **options)(images, ZERO)
    torch.testing.assert_close(explainer(images, ZERO), 5 * gradient)


@pytest.mark.parametrize("score", ["probability", "logit", "log_probability"])
def test_integrated_gradients_are_complete(score):
    images, targets = small_batch()
    explainer = IntegratedGradients(small_classifier().double(), steps=200, score=score)
    assert explainer.completeness_gap(images.double(), targets).max() < 1e-4  # order 1 / steps^2 between the kinks


def test_baselines_are_averaged():
    classifier = small_classifier()
    images, targets = small_batch()
    one = torch.full((3, 64, 96), 0.25)
    singles = [IntegratedGradients(classifier, steps=4, baseline=name)(images, targets) for name in ("black", one)]
    explainer = IntegratedGradients(classifier, steps=4, baseline=["black", one])
    torch.testing.assert_close(explainer(images, targets), (singles[0] + singles[1]) / 2)
    assert explainer.cost.backwards == 2 * 4 * 3


def test_named_baselines_are_what_they_say():
    classifier = small_classifier()
    images, targets = small_batch()
    given = {
        "black": torch.zeros_like(images),
        "white": torch.ones_like(images),
        "mean": images.mean((2, 3), keepdim=True).expand_as(images),
        "dataset_mean": torch.full_like(images, 0.5),
        "blur": gaussian_blur(images, 3.0),
    }
    for name, baseline in given.items():
        named = IntegratedGradients(classifier, steps=3, baseline=name, blur_sigma=3.0)(images, targets)
        torch.testing.assert_close(named, IntegratedGradients(classifier, steps=3, baseline=baseline)(images, targets))


def test_a_random_baseline_belongs_to_the_image():
    explainer = IntegratedGradients(small_classifier().double(), steps=3, baseline="noise")
    images, targets = small_batch()
    images = images.double()
    first = explainer(images, targets, ["a", "b", "c"])
    torch.testing.assert_close(explainer(images.flip(0), targets.flip(0), ["c", "b", "a"]).flip(0), first)
    assert not torch.allclose(explainer(images, targets, ["x", "b", "c"])[0], first[0])


def test_sin_applied_to_pixels():
    """Pixel by pixel, the map is sin(image) - sin(blurred image), whatever the grid and the border."""
    classifier = formula_classifier(lambda images: images.sin().sum((1, 2, 3)), size=(9, 14))
    images = random_image(height=9, width=14)
    for grid in ("linear", "sqrt"):
        for border, value in (("reflect", 0.0), ("replicate", 0.0), ("constant", 0.3)):
            path = {"grid": grid, "border": border, "border_value": value, "quadrature": "gauss_legendre"}
            explainer = BlurIG(classifier, steps=160, max_sigma=4.0, score="logit", **path)
            blurred, _ = blur_with_slope(images, 4.0, 16, border, value)
            torch.testing.assert_close(explainer(images, ZERO), (images.sin() - blurred.sin()).float())


def test_zeros_of_normalised_images_lie_beyond_the_border():
    classifier = formula_classifier(lambda images: images.sin().sum((1, 2, 3)), size=(9, 14))
    images = random_image(height=9, width=14)
    options = {"steps": 8, "max_sigma": 4.0, "border": "constant", "score": "logit"}
    mean = BlurIG(classifier, border_value="dataset_mean", **options)(images, ZERO)
    level = classifier.mean.flatten()[0].item()
    torch.testing.assert_close(mean, BlurIG(classifier, border_value=level, **options)(images, ZERO))
    with pytest.raises(ValueError, match="`border_value` must be one of dataset_mean, got 'black'"):
        BlurIG(classifier, border_value="black", **options)


@pytest.mark.parametrize("border", ["reflect", "replicate", "constant"])
@pytest.mark.parametrize("sigma", [0.4, 1.0, 7.0])
def test_the_slope_of_a_blur_is_its_derivative(border, sigma):
    images = random_image(height=5, width=8)
    step = 1e-5
    ahead, behind = (blur_with_slope(images, sigma + sign * step, 30, border, 0.2)[0] for sign in (1, -1))
    slope = blur_with_slope(images, sigma, 30, border, 0.2)[1]
    torch.testing.assert_close(slope, (ahead - behind) / (2 * step), rtol=1e-6, atol=1e-6)  # of order step^2


def test_borders_keep_what_they_continue():
    """A constant image stays itself where the border continues it, also in the corners."""
    flat = torch.full((1, 1, 5, 8), 0.7, dtype=torch.float64)
    for border, value in (("reflect", 0.0), ("replicate", 0.0), ("constant", 0.7)):
        blurred, slope = blur_with_slope(flat, 3.0, 12, border, value)
        torch.testing.assert_close(blurred, flat)
        assert slope.abs().max() < 1e-12
    faded, _ = blur_with_slope(flat, 3.0, 12, "constant", 0.0)
    assert faded.max() < 0.7


def test_blur_ig_is_complete():
    images, targets = small_batch()
    explainer = BlurIG(small_classifier().double(), steps=400, max_sigma=8.0)
    assert explainer.completeness_gap(images.double(), targets).max() < 1e-4


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: IntegratedGradients(small_classifier(), steps=0), "`steps` must be at least 2 for the trapezoid"),
        (lambda: IntegratedGradients(small_classifier(), steps=0, quadrature="midpoint"), "least 1 for the midpoint"),
        (lambda: BlurIG(small_classifier(), steps=0), "`steps` must be at least 2"),
        (lambda: GuidedIG(small_classifier(), steps=0), "`steps` must be at least 1, got 0"),
        (lambda: SAMP(small_classifier(), steps=0), "`steps` must be at least 1, got 0"),
        (lambda: SAMP(small_classifier(), fragments=0), "`fragments` must be at least 1, got 0"),
        (lambda: SAMP(small_classifier(), momentum=0.0), r"weight of the new gradient, in \(0, 1\], got 0.0"),
        (lambda: SAMP(small_classifier(), direction="out"), "`direction` must be one of deletion"),
        (lambda: SampPath(momentum_for="map"), "`momentum_for` must be one of select, both, got 'map'"),
        (lambda: IntegratedGradients(small_classifier(), quadrature="simpson"), "`quadrature` must be one of left"),
        (lambda: IntegratedGradients(small_classifier(), baseline=[]), "`baseline` is empty"),
        (lambda: GuidedIG(small_classifier(), fraction=0.0), r"`fraction` must lie in \(0, 1\], got 0.0"),
        (lambda: GuidedIG(small_classifier(), max_distance=1.5), r"`max_distance` must lie in \[0, 1\], got 1.5"),
        (lambda: BlurPath(max_sigma=0.0), "`max_sigma` must be positive, got 0.0"),
        (lambda: BlurPath(grid="cubic"), "`grid` must be one of linear, sqrt, got 'cubic'"),
        (lambda: BlurPath(border="wrap"), "`border` must be one of reflect, replicate, constant, got 'wrap'"),
    ],
)
def test_paths_that_are_none_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("shape", [(3, 64, 64), (2, 3, 64, 96), (64, 96), (1, 64, 96)])
def test_a_baseline_of_another_shape_is_refused(shape):
    explainer = IntegratedGradients(small_classifier(), baseline=torch.zeros(shape))
    with pytest.raises(ValueError, match=r"`baseline` must have shape \[3, 64, 96\] or \[3, 3, 64, 96\].*got"):
        explainer(*small_batch())


def test_an_unknown_baseline_is_refused():
    with pytest.raises(ValueError, match="unknown fill or baseline 'grey'; choose blur, black, white"):
        GuidedIG(small_classifier(), baseline="grey")(*small_batch())


@pytest.mark.parametrize("size", [(24, 24), (17, 40)])
@pytest.mark.parametrize("sigma", [0.0, 0.3, 2.0, 9.0])
def test_blurs_through_cosines_are_the_blurs_by_their_kernels(size, sigma):
    images = torch.rand(2, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for exact, tolerance in ((images, 1e-12), (images.float(), 3e-6)):  # rounding of the two precisions
        blurred, slope = BlurSpectrum(exact, 36).blur(sigma)
        expected, expected_slope = blur_with_slope(exact, sigma, 36)
        torch.testing.assert_close(blurred, expected, rtol=0, atol=tolerance)
        torch.testing.assert_close(slope, expected_slope, rtol=0, atol=tolerance)


def test_a_wide_blur_leaves_few_cosines():
    spectrum = BlurSpectrum(torch.rand(1, 1, 224, 224), 200)
    assert len(spectrum._gains(spectrum.rows, 20.0)[0]) < 40
