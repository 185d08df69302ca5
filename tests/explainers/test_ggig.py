"""Gradients gathered on the way up the score: against a slow loop and on a linear classifier."""

import pytest
import torch
from torch import nn

from dre.explainers import GGIG, VanillaGradient
from dre.models import Classifier
from tests.networks import small_batch, small_classifier


@pytest.mark.parametrize("magnitude", [False, True])
def test_ggig_is_a_loop_over_points_and_ascents(magnitude):
    classifier = small_classifier()
    images, targets = small_batch(2, height=32, width=48)
    saliency = GGIG(classifier, points=3, ascents=4, lr=5.0, units="pixels", magnitude=magnitude)(images, targets)
    for place in range(2):
        largest = None
        for point in (0.0, 0.5, 1.0):
            climber = images[place : place + 1] * point
            for _ in range(4):
                climber = climber.detach().requires_grad_()
                (gradient,) = torch.autograd.grad(classifier(climber)[0, targets[place]], climber)
                seen = gradient.abs() if magnitude else gradient
                largest = seen if largest is None else torch.maximum(largest, seen)
                climber = climber + 5.0 * gradient
        expected = largest.amax(1, keepdim=True)
        torch.testing.assert_close(saliency[place : place + 1], expected, rtol=1e-3, atol=1e-5 * expected.max().item())


@pytest.mark.oracle
def test_a_step_in_normalised_units_is_that_of_a_loop_on_the_network_itself():
    """The published setting at a large rate: images are normalised first, and the ascent knows nothing of pixels."""
    torch.manual_seed(0)
    mean, std = (0.25, 0.5, 0.75), (0.25, 0.375, 0.5)  # exact in float32
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Softplus(), nn.Flatten(), nn.Linear(4 * 64, 3)).double()
    classifier = Classifier.wrap(network, size=(8, 8), mean=mean, std=std).double()
    images, targets = torch.rand(2, 3, 8, 8, dtype=torch.float64), torch.tensor([2, 0])
    saliency = GGIG(classifier, points=4, ascents=30, lr=0.1).explain(images, targets)
    centre, spread = (torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (mean, std))
    for image, target, found in zip(images, targets, saliency, strict=True):
        largest = torch.full_like(image, -torch.inf)
        for share in torch.linspace(0, 1, 4, dtype=torch.float64):
            point = ((share * image - centre) / spread).requires_grad_()
            for _ in range(30):
                (gradient,) = torch.autograd.grad(network(point[None])[0, target], point)
                largest = torch.maximum(largest, gradient)
                point = (point + 0.1 * gradient).detach().requires_grad_()
        torch.testing.assert_close(found, (largest / spread).amax(0, keepdim=True), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(("std", "same"), [(1.0, True), (0.25, False)])
def test_units_differ_by_the_square_of_the_deviation(std, same):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 36, 2))
    classifier = Classifier.wrap(network, size=(8, 8), mean=(0.5,) * 3, std=(std,) * 3)
    images, targets = torch.rand(2, 3, 8, 8), torch.tensor([0, 1])
    options = {"points": 2, "ascents": 4}
    normalised = GGIG(classifier, lr=0.5, **options)(images, targets)
    torch.testing.assert_close(
        normalised, GGIG(classifier, lr=0.5 * std**2, units="pixels", **options)(images, targets)
    )
    pixels = GGIG(classifier, lr=0.5, units="pixels", **options)(images, targets)
    assert torch.allclose(normalised, pixels, rtol=1e-6) == same


def test_the_climb_reaches_other_gradients_than_the_line():
    classifier = small_classifier()
    images, targets = small_batch()
    still = GGIG(classifier, points=3, ascents=3, lr=0.0)(images, targets)
    assert not torch.allclose(GGIG(classifier, points=3, ascents=3, lr=5.0)(images, targets), still)
    once = GGIG(classifier, points=3, ascents=1)(images, targets)
    torch.testing.assert_close(still, once)


def test_ggig_of_a_linear_classifier_is_its_weight():
    classifier = Classifier.wrap(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), size=(2, 2))
    images, targets = torch.rand(2, 3, 2, 2), torch.tensor([0, 1])
    saliency = GGIG(classifier, points=2, ascents=2)(images, targets)
    torch.testing.assert_close(saliency, VanillaGradient(classifier, score="logit", reduce="max")(images, targets))


def test_chunks_bound_the_passes_and_do_not_matter():
    classifier, sizes = small_classifier(), []
    images, targets = small_batch(height=32, width=32)
    whole = GGIG(classifier, points=5, ascents=2, lr=0.1, chunk=100)(images, targets)
    classifier.network.register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0])))
    for chunk in (1, 2, 7):
        sizes.clear()
        again = GGIG(classifier, points=5, ascents=2, lr=0.1, chunk=chunk)(images, targets)
        assert max(sizes) <= chunk
        assert sum(sizes) == 3 * 5 * 2
        torch.testing.assert_close(again, whole, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"points": 1}, "`points` must be at least 2, got 1"),
        ({"ascents": 0}, "`ascents` must be at least 1, got 0"),
        ({"units": "levels"}, "`units` must be"),
        ({"lr": -1.0}, "`lr` must not be negative, got -1.0: it would descend"),
        ({"chunk": 0}, "`chunk` must be at least one image, got 0"),
    ],
)
def test_ggig_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        GGIG(small_classifier(), **options)
