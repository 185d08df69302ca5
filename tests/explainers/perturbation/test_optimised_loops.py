"""Optimised masks against the published loops, written plainly for one image with an optimiser of their own."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dre.explainers import ExtremalPerturbation, FeatureInversion, MeaningfulPerturbation
from dre.explainers.perturbation.smooth_max import SmoothMax
from dre.images.blur import gaussian_blur
from tests.networks import small_batch, small_classifier

KEYS = ["a", "b"]


def example():
    images, targets = small_batch(2, height=40, width=50)
    return small_classifier().double(), images.double(), targets + 1


def probability(classifier, image: Tensor, target: int) -> Tensor:
    return classifier(image)[0].softmax(0)[target]


def gradient_of(loss: Callable[[Tensor], Tensor], values: Tensor) -> Tensor:
    leaf = values.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(leaf), leaf)
    return gradient


def adam(loss: Callable[[Tensor, int], Tensor], values: Tensor, rates: list[float], most: float) -> Tensor:
    """Kingma and Ba 2015, Algorithm 1; values are kept in 0..most."""
    first, second = torch.zeros_like(values), torch.zeros_like(values)
    for step, rate in enumerate(rates):
        gradient = gradient_of(lambda leaf, step=step: loss(leaf, step), values)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        way = (first / (1 - 0.9 ** (step + 1))) / ((second / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8)
        values = (values - rate * way).clamp(0, most)
    return values


def slopes(values: Tensor, power: float) -> Tensor:
    """Total variation of cells [h, w], cell by cell; the last row and column have no neighbour."""
    total = torch.zeros((), dtype=torch.float64)
    rows, columns = values.shape
    for row in range(rows):
        for column in range(columns):
            down = values[row + 1, column] - values[row, column] if row + 1 < rows else 0 * values[row, column]
            right = values[row, column + 1] - values[row, column] if column + 1 < columns else 0 * values[row, column]
            total = total + (down**2 + right**2).clamp(min=1e-10) ** (power / 2)
    return total


@pytest.mark.parametrize("game", ["deletion", "preservation"])
def test_meaningful_perturbation_is_adam_on_a_coarse_mask(game):
    classifier, images, targets = example()
    options = {"game": game, "iterations": 4, "area_weight": 0.01, "variation_weight": 0.2, "jitter": 0}
    explainer = MeaningfulPerturbation(classifier, **options)
    saliency = explainer(images, targets, KEYS)
    for place, generator in enumerate(explainer.generators(images, 0)):
        image, target = images[place : place + 1], int(targets[place])
        hidden = gaussian_blur(image, 10.0)
        start = torch.rand(1, 5, 7, generator=generator)[0].double()  # 40 x 50 pixels in cells of 8

        def enlarged(values: Tensor) -> Tensor:
            wide = torch.stack([torch.stack([values[y // 8, x // 8] for x in range(50)]) for y in range(40)])
            return gaussian_blur(wide[None, None], 5.0)

        def loss(values: Tensor, step: int, image=image, target=target, hidden=hidden, enlarged=enlarged) -> Tensor:
            mask = enlarged(values)
            score = probability(classifier, image * mask + hidden * (1 - mask), target)
            area = (1 - values if game == "deletion" else values).abs().sum()
            return (score if game == "deletion" else -score) + 0.01 * area + 0.2 * slopes(values, 3.0)

        mask = enlarged(adam(loss, start, [0.1] * 4, most=1.0))
        expected = 1 - mask if game == "deletion" else mask
        torch.testing.assert_close(saliency[place : place + 1], expected.float(), rtol=1e-5, atol=1e-6)


def area_distance(mask: Tensor, area: float) -> Tensor:
    """Mean squared distance of the sorted mask from zeros and then ones; equal values share what falls to them."""
    values = mask.flatten().sort().values
    wanted = (torch.arange(len(values)) >= round(len(values) * (1 - area))).double()
    ties = values.detach().unique_consecutive(return_inverse=True)[1]
    shared = ties.bincount(weights=wanted) / ties.bincount()
    return ((values - shared[ties]) ** 2).mean()


@pytest.mark.parametrize("perturbation", ["blur", "dataset_mean"])
@pytest.mark.parametrize("game", ["preservation", "deletion"])
def test_extremal_perturbation_is_descent_with_momentum_on_bumps(game, perturbation):
    classifier, images, targets = example()
    options = {"areas": (0.2,), "game": game, "perturbation": perturbation, "step": 8, "sigma": 12.0, "lr": 0.05}
    saliency = ExtremalPerturbation(classifier, iterations=4, **options)(images, targets, KEYS)
    shape = SmoothMax((40, 50), 8, 12.0)
    for place in range(2):
        image = images[place : place + 1]
        blurs = [gaussian_blur(image, 20 * (1 - level / 7)) for level in range(8)]

        def shown(mask: Tensor, image=image, blurs=blurs) -> Tensor:
            if perturbation == "dataset_mean":
                return image * mask + 0.5 * (1 - mask)  # this classifier's mean
            return sum((1 - (7 * mask - level).abs()).clamp(min=0) * blur for level, blur in enumerate(blurs))

        values, speed = torch.ones(1, 1, *shape.grid, dtype=torch.float64), None
        for step in range(4):

            def loss(values: Tensor, step=step, place=place, shown=shown) -> Tensor:
                mask = shape.build(values)
                seen = shown(shape.crop(mask if game == "preservation" else 1 - mask))
                logit = classifier(seen.flip(3) if step % 2 == 0 else seen)[0, targets[place]]
                reward = logit if game == "preservation" else -logit
                return 300 * 1.0035**step * area_distance(mask, 0.2) - reward

            gradient = gradient_of(loss, values)
            speed = gradient if speed is None else 0.9 * speed + 0.1 * gradient
            values = (values - 0.05 * speed).clamp(0, 1)
        expected = shape.crop(shape.build(values)).float()
        torch.testing.assert_close(saliency[place : place + 1], expected, rtol=1e-5, atol=1e-6)


def test_feature_inversion_is_adam_on_weights_first_for_features_then_for_scores():
    classifier, images, targets = example()
    network = classifier.network
    saliency = FeatureInversion(classifier, iterations=12, inversion_iterations=3)(images, targets, KEYS)

    def features(image: Tensor) -> Tensor:
        return network.stage4(network.stage3(network.stage2(network.stem(classifier.normalise(image)))))

    for place in range(2):
        image, target = images[place : place + 1], int(targets[place])
        hidden, maps = gaussian_blur(image, 11.0), features(image)

        def masked(weights: Tensor, maps=maps) -> Tensor:
            wide = F.interpolate((weights[:, None, None] * maps[0]).sum(0)[None, None], size=(40, 50), mode="bilinear")
            return (wide - wide.min()) / wide.max()  # published so: over the maximum, not over the range

        def loss(
            weights: Tensor, step: int, image=image, hidden=hidden, maps=maps, target=target, masked=masked
        ) -> Tensor:
            mask = masked(weights)
            kept, left = image * mask + hidden * (1 - mask), image * (1 - mask) + hidden * mask
            if step < 3:
                return ((features(kept) - maps) ** 2).sum() / (maps**2).sum() + 5 * (weights**2).sum()
            change = probability(classifier, left, target) - probability(classifier, kept, target)
            return change + 2 * (weights**2).sum()

        start = torch.full((maps.shape[1],), 0.1, dtype=torch.float64)
        rates = [0.01] * 10 + [0.005] * 2
        expected = masked(adam(loss, start, rates, most=torch.inf))
        torch.testing.assert_close(saliency[place : place + 1], expected.float(), rtol=1e-4, atol=1e-6)
