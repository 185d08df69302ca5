"""Optimised masks: the objective against values by hand, the search against scorers that look at one patch."""

import math

import pytest
import torch

from dre.engine.objectives import total_variation
from dre.explainers import ExtremalPerturbation, FeatureInversion, MeaningfulPerturbation
from dre.explainers.perturbation.smooth_max import SmoothMax, area_term
from tests.explainers.analytic import formula_classifier
from tests.networks import small_batch, small_classifier

PATCH = (slice(16, 32), slice(24, 40))
SIZE = (48, 64)


def patch_classifier():
    """Logit 10 x mean of one patch, so that nothing but the patch counts."""
    return formula_classifier(lambda images: 10 * images[..., PATCH[0], PATCH[1]].mean((1, 2, 3)), size=SIZE)


def patch_images(count: int = 2) -> torch.Tensor:
    """Bright patches on black: hiding a patch lowers the score, hiding anything else does nothing."""
    images = torch.zeros(count, 1, *SIZE)
    images[..., PATCH[0], PATCH[1]] = 1.0
    return images


def contrast(saliency: torch.Tensor) -> float:
    """Mean inside the patch less the mean far from it."""
    far = torch.ones(SIZE, dtype=torch.bool)
    far[6:42, 14:50] = False
    return (saliency[..., PATCH[0], PATCH[1]].mean() - saliency[:, 0, far].mean()).item()


@pytest.mark.parametrize(
    ("build", "least"),
    [
        (
            lambda c: MeaningfulPerturbation(
                c, iterations=120, jitter=0, mask_sigma=2.0, area_weight=0.1, score="logit"
            ),
            0.5,
        ),
        (
            lambda c: MeaningfulPerturbation(
                c, game="preservation", iterations=120, mask_sigma=2.0, area_weight=0.1, score="logit"
            ),
            0.3,
        ),
        (lambda c: ExtremalPerturbation(c, areas=(0.15,), iterations=250, lr=0.1, sigma=8.0, fill="dataset_mean"), 0.3),
    ],
    ids=["deletion", "preservation", "extremal"],
)
def test_the_mask_finds_the_only_patch_that_counts(build, least):
    explainer = build(patch_classifier())
    saliency = explainer(patch_images(), torch.zeros(2, dtype=torch.long), ["a", "b"])
    assert contrast(saliency) > least
    assert saliency.min() >= -1e-6  # a blur's weights add up to one to rounding
    assert saliency.max() <= 1 + 1e-6
    before, after = explainer.objective
    assert (after < before).all()


@pytest.mark.parametrize(
    "build",
    [
        lambda classifier: MeaningfulPerturbation(classifier, iterations=40),
        lambda classifier: ExtremalPerturbation(classifier, areas=(0.2,), iterations=40, lr=0.05),
        lambda classifier: ExtremalPerturbation(classifier, areas=(0.2,), iterations=40, lr=0.05, game="deletion"),
        lambda classifier: FeatureInversion(classifier, iterations=8, inversion_iterations=8),
    ],
    ids=["meaningful", "extremal", "extremal deletion", "inversion"],
)
def test_masks_are_smooth_bounded_and_better_than_their_start(build):
    images, targets = small_batch()
    explainer = build(small_classifier())
    saliency = explainer(images, targets)
    noise = torch.rand_like(saliency)
    variation, of_noise = (total_variation(maps, per_image=True) for maps in (saliency, noise))
    assert (variation < 0.1 * of_noise).all()
    assert (saliency.amax((2, 3)) - saliency.amin((2, 3)) > 0.01).all()  # smooth, not flat
    assert saliency.min() >= -1e-6  # a blur's weights add up to one to rounding
    assert saliency.max() <= 1 + 1e-6
    assert (explainer.objective[1] < explainer.objective[0]).all()


def test_the_price_of_a_mask_by_hand():
    explainer = MeaningfulPerturbation(small_classifier(), area_weight=0.5, variation_weight=2.0, variation_power=2.0)
    values = torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]])  # two cells deleted; two steps of height 1 to the right
    assert explainer.price(values).item() == pytest.approx(0.5 * 2 + 2.0 * 2, rel=1e-3)
    kept = MeaningfulPerturbation(
        small_classifier(), game="preservation", area_weight=0.5, variation_weight=0.0, variation_power=2.0
    )
    assert kept.price(values[..., :1]).item() == pytest.approx(0.5 * 2)


def test_the_area_term_by_hand():
    masks = torch.tensor([[0.9, 0.2, 1.0, 0.4], [0.5, 0.5, 0.5, 0.5], [1.0, 1.0, 1.0, 1.0]]).view(3, 1, 2, 2)
    terms = area_term(masks, torch.tensor([0.5, 0.25, 1.0]))
    first = (0.2**2 + 0.4**2 + 0.1**2 + 0.0) / 4  # the two largest belong to 1, the others to 0
    torch.testing.assert_close(terms, torch.tensor([first, 0.25, 0.0]))


def test_the_gradient_of_the_area_term_pulls_each_rank_to_its_side():
    values = torch.tensor([[0.9, 0.2, 0.7, 0.4]]).view(1, 1, 2, 2).requires_grad_()
    (slope,) = torch.autograd.grad(area_term(values, torch.tensor([0.5])).sum(), values)
    expected = 2 * (values.detach() - torch.tensor([1.0, 0.0, 1.0, 0.0]).view(1, 1, 2, 2)) / 4
    torch.testing.assert_close(slope, expected)


def slow_smooth_max(parameters: torch.Tensor, shape: SmoothMax) -> torch.Tensor:
    """Pixel by pixel, cell by cell: sum of z softmax(20 z) over the window of cells, z = parameter x bump."""
    height, width = shape.size
    mask = torch.zeros(height, width, dtype=torch.float64)
    margin = round(shape.sigma)
    for row in range(height):
        for column in range(width):
            heights = []
            places = [(row + margin) // shape.step, (column + margin) // shape.step]
            first = [place - shape.padding for place in places]
            for down in range(first[0], first[0] + 2 * shape.radius + 1):
                for right in range(first[1], first[1] + 2 * shape.radius + 1):
                    inside = 0 <= down < parameters.shape[0] and 0 <= right < parameters.shape[1]
                    value = parameters[down, right].item() if inside else 0.0
                    distance = math.hypot(row - down * shape.step, column - right * shape.step) / shape.sigma
                    heights.append(value * math.exp(-2 * max(distance - 0.5, 0) ** 2))
            z = torch.tensor(heights, dtype=torch.float64)
            mask[row, column] = (z * (20 * z).softmax(0)).sum()
    return mask


def test_smooth_masks_equal_the_sum_written_out_and_their_gradient_the_numerical_one():
    torch.manual_seed(0)
    shape = SmoothMax((11, 14), step=4, sigma=6.0)
    parameters = torch.rand(2, 1, *shape.grid, dtype=torch.float64, requires_grad=True)
    masks = shape.crop(shape.build(parameters))
    assert masks.shape == (2, 1, 11, 14)
    for mask, values in zip(masks[:, 0], parameters[:, 0], strict=True):
        torch.testing.assert_close(mask, slow_smooth_max(values.detach(), shape))
    torch.autograd.gradcheck(shape.build, parameters[:1].detach().requires_grad_())


def test_areas_are_searched_for_apart_and_summed():
    images, targets = small_batch()
    options = {"iterations": 6, "step": 8, "sigma": 12.0}
    together = ExtremalPerturbation(small_classifier(), areas=(0.1, 0.4), **options)
    alone = [ExtremalPerturbation(small_classifier(), areas=(area,), **options) for area in (0.1, 0.4)]
    total = sum(explainer(images, targets, ["a", "b", "c"]) for explainer in alone)
    torch.testing.assert_close(together(images, targets, ["a", "b", "c"]), total, rtol=1e-4, atol=1e-5)
    assert together.cost.forwards == together.cost.backwards == 2 * 6 * 3


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (MeaningfulPerturbation, {"iterations": 0}, "`iterations` must be at least 1, got 0"),
        (MeaningfulPerturbation, {"lr": 0.0}, "`lr` must be positive"),
        (MeaningfulPerturbation, {"game": "hide"}, "`game` must be one of deletion, preservation"),
        (MeaningfulPerturbation, {"start": "square"}, "`start`"),
        (MeaningfulPerturbation, {"variation_power": 0.5}, "variation_power"),
        (MeaningfulPerturbation, {"area_weight": -1.0}, "`area_weight` must not be negative"),
        (ExtremalPerturbation, {"iterations": 0}, "`iterations` must be at least 1, got 0"),
        (FeatureInversion, {"iterations": 0}, "`iterations` must be at least 1, got 0"),
        (ExtremalPerturbation, {"areas": ()}, "`areas`"),
        (ExtremalPerturbation, {"areas": (0.1, 1.5)}, "`areas`"),
        (ExtremalPerturbation, {"sigma": 0.0}, "`sigma`"),
        (ExtremalPerturbation, {"fill": "grey"}, "`fill` must be one of blur, .*mixture, got 'grey'"),
        (FeatureInversion, {"fill": "segment"}, "`fill`"),
    ],
)
def test_settings_that_make_no_search_are_refused(kind, options, message):
    with pytest.raises(ValueError, match=message):
        kind(small_classifier(), **options)


def test_the_smallest_circle_is_a_start_that_costs_forward_passes():
    images, targets = small_batch()
    explainer = MeaningfulPerturbation(small_classifier(), iterations=2, start="circle")
    explainer(images, targets)
    assert explainer.cost.backwards == 2 * 3
    assert explainer.cost.forwards > 2 * 3
