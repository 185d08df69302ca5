from itertools import pairwise, permutations

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.ndimage import binary_dilation

from dre.metrics import (
    BackgroundShare,
    EdgeContrast,
    EnergyPointingGame,
    PointingGame,
    RelevanceRankAccuracy,
    background_share,
    edge_contrast,
    energy_pointing_game,
    inside,
    pointing_game,
    relevance_rank_accuracy,
    spearman,
)
from dre.metrics.localisation import widen

METRICS = {
    PointingGame: pointing_game,
    EnergyPointingGame: energy_pointing_game,
    RelevanceRankAccuracy: relevance_rank_accuracy,
}
BY_VALUE = {BackgroundShare: background_share, EdgeContrast: edge_contrast}


def batch(size=6, height=14, width=9):
    generator = torch.Generator().manual_seed(1)
    saliency = torch.rand(size, 1, height, width, generator=generator)
    return saliency, (torch.rand(size, 1, height, width, generator=generator) > 0.7).float()


def test_they_equal_loops():
    saliency, objects = batch()
    saliency = saliency - 0.3
    for row in range(len(saliency)):
        values, inside = saliency[row].flatten().tolist(), objects[row].flatten().tolist()
        hit = inside[max(range(len(values)), key=values.__getitem__)]
        assert pointing_game(saliency, objects)[row].item() == hit
        positive = [max(value, 0.0) for value in values]
        share = sum(p * i for p, i in zip(positive, inside, strict=True)) / sum(positive)
        assert energy_pointing_game(saliency, objects)[row].item() == pytest.approx(share, rel=1e-6)


@pytest.mark.parametrize("function", METRICS.values())
def test_perfect_and_worst_maps_are_the_extremes(function):
    _, objects = batch()
    assert function(objects, objects).tolist() == [1.0] * 6
    assert function(1 - objects, objects).tolist() == [0.0] * 6


@pytest.mark.parametrize("function", METRICS.values())
def test_a_random_map_has_the_share_of_the_object_in_expectation(function):
    size, height, width = 4000, 8, 10
    saliency = torch.rand(size, 1, height, width, generator=torch.Generator().manual_seed(2))
    objects = torch.zeros(size, 1, height, width)
    objects[..., 1:6, 2:6] = 1  # a quarter
    values = function(saliency, objects)
    assert abs(values.mean().item() - 0.25) < 4 * values.std().item() / size**0.5


@pytest.mark.parametrize("function", METRICS.values())
def test_a_constant_map_has_the_share_of_the_object(function):
    _, objects = batch()
    torch.testing.assert_close(function(torch.full_like(objects, 0.3), objects), objects.double().mean((1, 2, 3)))


@pytest.mark.parametrize(
    ("function", "shift"), [(pointing_game, -5.0), (energy_pointing_game, 0.0), (relevance_rank_accuracy, -5.0)]
)
def test_rescaling_changes_nothing(function, shift):
    saliency, objects = batch()
    torch.testing.assert_close(function(3 * saliency + shift, objects), function(saliency, objects))


def test_tied_peaks_count_by_their_share():
    saliency = torch.tensor([[[[2.0, 2.0, 1.0, 2.0]]]])
    objects = torch.tensor([[[[0.0, 1.0, 1.0, 0.0]]]])
    assert pointing_game(saliency, objects).item() == pytest.approx(1 / 3)


def test_relevance_rank_accuracy_of_distinct_values_counts_the_highest_pixels():
    saliency, objects = batch()
    for one, other, found in zip(saliency, objects, relevance_rank_accuracy(saliency, objects), strict=True):
        values, inside = one.flatten().tolist(), other.flatten().tolist()
        size = int(sum(inside))
        highest = sorted(range(len(values)), key=values.__getitem__, reverse=True)[:size]
        assert found.item() == pytest.approx(sum(inside[place] for place in highest) / size, abs=1e-12)


def test_relevance_rank_accuracy_of_a_map_that_is_not_finite_or_without_an_object_is_nan():
    saliency, objects = torch.rand(3, 1, 2, 2), torch.ones(3, 1, 2, 2)
    saliency[0, 0, 0, 0], objects[1] = torch.nan, 0
    assert relevance_rank_accuracy(saliency, objects).isnan().tolist() == [True, True, False]


def test_relevance_rank_accuracy_of_ties_is_the_mean_over_all_orders():
    saliency, objects = torch.tensor([2.0, 1.0, 1.0, 3.0, 1.0, 0.0]), torch.tensor([1.0, 1.0, 0.0, 0.0, 1.0, 1.0])
    orders = [
        order
        for order in permutations(range(6))
        if all(saliency[one] >= saliency[other] for one, other in pairwise(order))
    ]
    expected = sum(float(objects[list(order[:4])].sum()) / 4 for order in orders) / len(orders)
    found = relevance_rank_accuracy(saliency.view(1, 1, 2, 3), objects.view(1, 1, 2, 3))
    assert found.item() == pytest.approx(expected, abs=1e-12)
    assert found.item() == pytest.approx((1 + 2 * 2 / 3) / 4)  # one of the two highest, and two of three tied places


def test_the_energy_of_a_map_without_negative_values_is_its_relevance_mass():
    saliency, objects = batch()
    mass = (saliency * objects).sum((1, 2, 3)) / saliency.sum((1, 2, 3))  # Arras et al. 2022
    torch.testing.assert_close(energy_pointing_game(saliency, objects), mass.double())
    signed, objects = torch.tensor([[[[3.0, -2.0, 0.5, 0.5]]]]), torch.tensor([[[[1.0, 0.0, 0.0, 0.0]]]])
    assert float((signed * objects).sum() / signed.sum()) == 1.5  # no share: the positive part is read instead
    assert energy_pointing_game(signed, objects).item() == 0.75


def test_a_map_without_positive_values_has_no_energy_inside():
    objects = torch.ones(2, 1, 2, 2)
    saliency = torch.stack([torch.zeros(1, 2, 2), -torch.ones(1, 2, 2)])
    assert energy_pointing_game(saliency, objects).tolist() == [0.0, 0.0]


def test_huge_and_tiny_maps_are_measured_alike():
    saliency, objects = batch()
    for scale in (1e38, 1e-38):
        torch.testing.assert_close(
            energy_pointing_game(saliency * scale, objects), energy_pointing_game(saliency, objects)
        )


@pytest.mark.parametrize("tolerance", [1, 2.5, 15])
def test_tolerance_widens_objects_by_a_disc(tolerance):
    objects = torch.zeros(2, 1, 20, 30)
    objects[0, 0, 5:8, 10:12] = 1
    reach = torch.arange(-16, 17)
    disc = (reach[:, None] ** 2 + reach[None] ** 2 <= tolerance**2).numpy()
    expected = torch.from_numpy(binary_dilation(objects[0, 0].numpy(), disc)).float()
    assert torch.equal(widen(objects, tolerance)[0, 0], expected)
    assert not widen(objects, tolerance)[1].any()


def test_a_peak_beside_the_object_counts_within_the_tolerance():
    saliency, objects = torch.zeros(1, 1, 9, 9), torch.zeros(1, 1, 9, 9)
    saliency[..., 4, 7], objects[..., 4, :5] = 1.0, 1.0
    for tolerance, expected in ((0, 0.0), (2.9, 0.0), (3, 1.0)):
        metric = PointingGame(tolerance)
        metric.update(saliency, objects)
        assert metric.compute() == expected


@pytest.mark.parametrize("metric_class", [*METRICS, *BY_VALUE])
def test_images_without_object_are_left_out_and_counted(metric_class):
    saliency, objects = batch()
    objects[2] = 0
    metric = metric_class()
    metric.update(saliency, objects)
    assert (metric.count, metric.dropped) == (5, 1)
    kept = [0, 1, 3, 4, 5]
    expected = (METRICS | BY_VALUE)[metric_class](saliency[kept], objects[kept]).mean()
    torch.testing.assert_close(metric.compute(), expected)
    assert metric.latest.isnan().tolist() == [False, False, True, False, False, False]


@pytest.mark.parametrize("metric_class", [*METRICS, *BY_VALUE])
def test_what_does_not_fit_is_refused(metric_class):
    saliency, objects = batch()
    with pytest.raises(ValueError, match="threshold soft masks"):
        metric_class().update(saliency, objects * 0.5)
    with pytest.raises(ValueError, match=r"objects.*\[6, 1, 14, 9\].*\[6, 14, 9\]"):
        metric_class().update(saliency, objects[:, 0])
    saliency[0, 0, 0, 0] = float("inf")
    with pytest.raises(ValueError, match="`saliency` has 1 non-finite"):
        metric_class().update(saliency, objects)
    with pytest.raises(ValueError, match="`tolerance` must not be negative, got -1"):
        PointingGame(-1)


def example(batch=3):
    generator = torch.Generator().manual_seed(0)
    objects = torch.zeros(batch, 1, 8, 10)
    objects[..., 2:6, 1:7] = 1
    return torch.randn(batch, 1, 8, 10, generator=generator), torch.randn(batch, 1, 8, 10, generator=generator), objects


def test_inside_compares_the_pixels_of_the_object_and_no_others():
    one, other, objects = example()
    found = inside(spearman, one, other, objects)
    expected = [stats.spearmanr(a[m > 0], b[m > 0]).statistic for a, b, m in zip(one, other, objects, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    changed = torch.where(objects > 0, one, 100.0)
    assert torch.equal(inside(spearman, changed, other, objects), found)


def test_the_share_of_the_background():
    _, _, objects = example(1)
    outside = 1 - objects
    assert background_share(objects, objects) == 0
    assert background_share(-3 * outside, objects) == 1  # magnitudes
    half = objects / objects.sum() + 2 * torch.eye(8, 10) * outside / (torch.eye(8, 10) * outside).sum()
    torch.testing.assert_close(background_share(half, objects), torch.tensor([2 / 3], dtype=torch.float64))


def test_a_random_map_has_the_backgrounds_share_of_the_area():
    objects = torch.zeros(400, 1, 16, 16)
    objects[..., :6, :9] = 1
    found = background_share(torch.rand(objects.shape, generator=torch.Generator().manual_seed(0)), objects)
    error = found.std() / 20
    assert abs(found.mean() - (1 - 54 / 256)) < 4 * error


def test_what_has_no_share_is_undefined():
    one, other, objects = example()
    objects[1] = 0
    assert background_share(one, objects).isnan().tolist() == [False, True, False]
    assert inside(spearman, one, other, objects).isnan().tolist() == [False, True, False]
    assert background_share(torch.ones(3, 1, 8, 10), objects).isnan().all()  # constant: spread evenly, or nowhere?


def test_the_contrast_at_the_edge_equals_a_loop_over_pixels():
    generator = torch.Generator().manual_seed(0)
    saliency = torch.rand(2, 1, 40, 33, generator=generator)
    objects = torch.zeros(2, 1, 40, 33)
    objects[0, 0, 8:30, 5:20] = objects[1, 0, :9, :9] = objects[1, 0, 20:26, 20:] = 1
    places = [(y, x) for y in range(40) for x in range(33)]
    for one, box, found in zip(saliency[:, 0], objects[:, 0], edge_contrast(saliency, objects), strict=True):
        scaled = (one - one.min()) / (one.max() - one.min())
        sides, inside = {1: [], 0: []}, box.tolist()  # numbers of Python are compared faster than tensors
        for y, x in places:
            others = [(v - y) ** 2 + (u - x) ** 2 for v, u in places if inside[v][u] != inside[y][x]]
            if min(others) <= (33 / 16) ** 2:
                sides[int(inside[y][x])].append(float(scaled[y, x]))
        inner, outer = (sum(sides[side]) / len(sides[side]) for side in (1, 0))
        assert float(found) == pytest.approx((inner - outer) / (inner + outer), rel=1e-5)


def test_the_contrast_is_one_for_the_object_itself_and_sees_no_order_alone():
    _, _, objects = example()
    assert edge_contrast(objects, objects).tolist() == [1, 1, 1]
    assert edge_contrast(1 - objects, objects).tolist() == [-1, -1, -1]
    soft = 0.6 * objects + 0.2 * torch.eye(8, 10)
    torch.testing.assert_close(edge_contrast(5 * soft, objects), edge_contrast(soft, objects))
    assert (edge_contrast(soft.square(), objects) > edge_contrast(soft, objects)).all()  # the same ranking
    assert (background_share(soft.square(), objects) < background_share(soft, objects)).all()


def test_what_has_no_edge_is_left_out():
    saliency, objects = torch.rand(4, 1, 8, 10), example(4)[2]
    objects[1], saliency[2], saliency[3] = 1.0, 0.5, 0.0
    saliency[3, 0, 0, 9] = 1  # far from the edge
    metric = EdgeContrast()
    metric.update(saliency, objects)
    assert (metric.count, metric.dropped) == (1, 3)
    shares = BackgroundShare()
    shares.update(saliency, objects)
    assert (shares.count, shares.dropped) == (3, 1)  # without the constant one
