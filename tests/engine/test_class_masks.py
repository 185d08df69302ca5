"""NN-Explainer's terms against loops over pixels and against masks whose value is known."""

import math

import pytest
import torch
import torch.nn.functional as F

from dre.engine.class_masks import (
    ClassMaskTerms,
    area_bounds,
    class_mask_loss,
    mean_variation,
    negative_entropy,
    other_classes,
)


def test_negative_entropy_of_a_uniform_and_of_a_sure_prediction():
    assert negative_entropy(torch.zeros(2, 20)).item() == pytest.approx(-math.log(20) / 20)
    assert negative_entropy(torch.tensor([[200.0, 0.0, 0.0]])).item() == pytest.approx(0)  # p log p of 0 is 0
    logits = torch.randn(3, 7)
    expected = -torch.distributions.Categorical(logits=logits).entropy().mean() / 7
    torch.testing.assert_close(negative_entropy(logits), expected)


def bounds_by_hand(mask: torch.Tensor, least: float, most: float) -> float:
    """Go through the pixels of each image from the highest down and add up what is missing and what is too much."""
    total = 0.0
    for image in mask:
        values = sorted(image.flatten().tolist(), reverse=True)
        for place, value in enumerate(values):
            total += max(0.0, (place < int(len(values) * least)) - value)
            total += max(0.0, value - (place < int(len(values) * most)))
    return total / mask.numel()


@pytest.mark.parametrize(("least", "most"), [(0.05, 0.3), (0.0, 1.0), (0.4, 0.4), (0.0, 0.0)])
def test_bounds_of_the_area_are_those_of_a_loop(least, most):
    mask = torch.rand(3, 1, 8, 10, generator=torch.Generator().manual_seed(0))
    assert area_bounds(mask, least, most).item() == pytest.approx(bounds_by_hand(mask, least, most), abs=1e-6)


@pytest.mark.parametrize(("lit", "expected"), [(2, 0.03), (5, 0.0), (20, 0.0), (30, 0.0), (50, 0.2)])
def test_an_area_between_the_bounds_is_free(lit, expected):
    mask = torch.zeros(1, 1, 10, 10)
    mask.view(-1)[:lit] = 1
    assert area_bounds(mask, 0.05, 0.3).item() == pytest.approx(expected, abs=1e-6)


def test_variation_is_that_of_a_loop_over_a_mirrored_border():
    mask = torch.rand(2, 1, 5, 7, generator=torch.Generator().manual_seed(0))
    total = 0.0
    for image in mask[:, 0]:
        for row in range(5):
            for column in range(7):
                right, below = (column + 1 if column < 6 else 5), (row + 1 if row < 4 else 3)
                total += abs(float(image[row, column] - image[row, right]))
                total += abs(float(image[row, column] - image[below, column]))
    assert mean_variation(mask).item() == pytest.approx(total / mask.numel(), abs=1e-6)
    assert mean_variation(torch.full((1, 1, 4, 4), 0.3)) == 0


def test_the_loss_is_the_weighted_sum_of_its_terms():
    torch.manual_seed(0)
    kept, hidden, targets = torch.randn(2, 5), torch.randn(2, 5), torch.tensor([3, 0])
    mask, other = torch.rand(2, 1, 6, 6), torch.rand(2, 1, 6, 6)
    terms = ClassMaskTerms(entropy=2.0, bounds=0.3, area=0.7, other_area=0.11, variation=0.13)
    expected = (
        F.cross_entropy(kept, targets)
        + 2.0 * negative_entropy(hidden)
        + 0.3 * area_bounds(mask, 0.05, 0.3)
        + 0.7 * mask.mean()
        + 0.11 * other.mean()
        + 0.13 * (mean_variation(mask) + mean_variation(other))
    )
    torch.testing.assert_close(class_mask_loss(kept, hidden, targets, mask, other, terms), expected)


def test_other_classes_are_the_runner_up_and_then_any_but_the_target():
    logits = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    others = other_classes(logits, 3, torch.Generator().manual_seed(1))
    ranked = logits.argsort(dim=1, descending=True)
    assert torch.equal(others[0], ranked[:, 1])
    assert (others != ranked[:, 0]).all()
    assert all((others[1] == ranked[:, place]).any() for place in (1, 2, 3))
    assert not torch.equal(others[1], others[2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"others": 0}, "`others` must be at least 1, got 0"),
        ({"entropy": -1.0}, r"`entropy` must not be negative, got -1\.0"),
        ({"least_area": 0.5}, r"`least_area` and `most_area` must ascend within \[0, 1\], got 0\.5 and 0\.3"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ClassMaskTerms(**options)
