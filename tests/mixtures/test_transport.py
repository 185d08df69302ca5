import numpy as np
import ot
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.optimize import linprog

from dre.mixtures import Mixtures, distance_matrix, gaussian_distances, mixture_distances
from tests.mixtures.maps import mixtures


def by_matrix_roots(mean, covariance, other_mean, other_covariance):
    """The definition, with scipy's matrix square root."""
    root = sqrtm(covariance)
    cross = sqrtm(root @ other_covariance @ root)
    trace = np.trace(covariance) + np.trace(other_covariance) - 2 * np.trace(cross).real
    return ((mean - other_mean) ** 2).sum() + trace


def all_costs(first, second, row):
    return np.array(
        [
            [
                by_matrix_roots(*(entry.numpy() for entry in (m, c, n, d)))
                for n, d in zip(second.means[row], second.covariances[row], strict=True)
            ]
            for m, c in zip(first.means[row], first.covariances[row], strict=True)
        ]
    )


def between(first, second):
    return gaussian_distances(
        first.means[:, :, None], first.covariances[:, :, None], second.means[:, None], second.covariances[:, None]
    )


@pytest.mark.parametrize("narrow", [0.0, -2.0, -5.0])
def test_gaussians_equal_the_matrix_square_root_form(narrow):
    first, second = mixtures(seed=0, narrow=narrow), mixtures(seed=1, narrow=narrow)
    actual = between(first, second)
    for row in range(4):
        np.testing.assert_allclose(actual[row], all_costs(first, second, row), rtol=0, atol=1e-9)


def test_equal_gaussians_are_exactly_nothing_apart():
    one = mixtures(narrow=-3.0)
    assert (gaussian_distances(one.means, one.covariances, one.means, one.covariances) == 0).all()


@pytest.mark.parametrize("size", [1.0, 1e-3, 1e-6])
def test_round_gaussians_differ_by_their_radii_to_the_last_digits(size):
    """Between a^2 I and b^2 I the squared distance is 2 (a - b)^2, here a relative 1e-6 of the traces and less."""
    radii = torch.tensor([[1.0, 1.001], [1.0, 1.00001], [0.3, 2.0]], dtype=torch.float64) * size
    covariances = radii[..., None, None].square() * torch.eye(2, dtype=torch.float64)
    nowhere = torch.zeros(3, 2, dtype=torch.float64)
    actual = gaussian_distances(nowhere, covariances[:, 0], nowhere, covariances[:, 1])
    torch.testing.assert_close(actual, 2 * (radii[:, 0] - radii[:, 1]).square(), rtol=1e-8, atol=0)


def test_gaussians_without_extent_are_points():
    point, flat = torch.zeros(2, 2, dtype=torch.float64), torch.diag(torch.tensor([0.09, 0.0], dtype=torch.float64))
    here, there = torch.zeros(2, dtype=torch.float64), torch.tensor([3.0, 4.0], dtype=torch.float64)
    assert gaussian_distances(here, point, there, point) == 25
    torch.testing.assert_close(gaussian_distances(here, point, there, flat).item(), 25.09)
    torch.testing.assert_close(gaussian_distances(here, flat, here, flat.flip(0, 1)).item(), 0.18)


def test_mixtures_equal_a_linear_program_on_matrix_roots():
    first, second = mixtures(3, 4, seed=0), mixtures(3, 6, seed=1)
    actual = mixture_distances(first, second)
    for row in range(3):
        costs = all_costs(first, second, row)
        sums = np.concatenate([np.kron(np.eye(4), np.ones((1, 6))), np.kron(np.ones((1, 4)), np.eye(6))])
        shares = np.concatenate([first.weights[row], second.weights[row]])
        solved = linprog(costs.ravel(), A_eq=sums, b_eq=shares)
        np.testing.assert_allclose(actual[row], solved.fun, rtol=0, atol=1e-9)
        np.testing.assert_allclose(
            actual[row], ot.emd2(first.weights[row].numpy(), second.weights[row].numpy(), costs), rtol=0, atol=1e-9
        )


def test_single_gaussians_are_their_own_distance():
    first, second = mixtures(components=1), mixtures(components=1, seed=1)
    torch.testing.assert_close(mixture_distances(first, second), between(first, second)[:, 0, 0])


def test_a_mixture_is_nothing_from_itself_however_its_components_are_ordered():
    one = mixtures()
    order = torch.tensor([2, 4, 0, 1, 3])
    other = Mixtures(*(entry[:, order] for entry in one))
    torch.testing.assert_close(mixture_distances(one, other), torch.zeros(4, dtype=torch.float64), atol=1e-12, rtol=0)
    assert (mixture_distances(one, one) < 1e-14).all()


def test_components_without_weight_change_nothing():
    one, other = mixtures(), mixtures(seed=1)
    weights = one.weights.clone()
    weights[:, -1] = 0
    weights /= weights.sum(dim=1, keepdim=True)
    without = Mixtures(weights[:, :-1], one.means[:, :-1], one.covariances[:, :-1])
    torch.testing.assert_close(
        mixture_distances(one._replace(weights=weights), other), mixture_distances(without, other)
    )


def test_the_root_is_a_metric():
    """Symmetric, zero on the diagonal alone, and no way round is shorter, over all triples of twelve mixtures."""
    some = Mixtures.join([mixtures(6, 3), mixtures(6, 3, seed=1, narrow=-3.0)])
    squared = distance_matrix(some)
    root = squared.sqrt()
    torch.testing.assert_close(squared, squared.T, rtol=0, atol=0)
    torch.testing.assert_close(
        mixture_distances(some, some.take(torch.arange(11, -1, -1))), squared.fliplr().diagonal()
    )
    assert (squared.diagonal() == 0).all()
    assert (squared[~torch.eye(12, dtype=torch.bool)] > 0).all()
    assert (root[:, None, :] <= root[:, :, None] + root[None, :, :] + 1e-12).all()


def test_translation_by_t_is_the_squared_length_of_t():
    one, moved = mixtures(), torch.randn(4, 2, dtype=torch.float64)
    torch.testing.assert_close(mixture_distances(one, one.shift(moved)), moved.square().sum(dim=1))


def test_a_common_change_of_scale_scales_the_distance():
    one, other = mixtures(), mixtures(seed=1)
    scaled = [each._replace(means=3 * each.means, covariances=9 * each.covariances) for each in (one, other)]
    torch.testing.assert_close(mixture_distances(*scaled), 9 * mixture_distances(one, other))


@pytest.mark.parametrize("pairs", [1, 3, 100])
def test_the_number_of_pairs_held_at_once_changes_nothing(pairs):
    first, second = mixtures(5), mixtures(3, seed=1)
    expected = torch.tensor(
        [
            [mixture_distances(first.take(slice(i, i + 1)), second.take(slice(j, j + 1))).item() for j in range(3)]
            for i in range(5)
        ]
    ).double()
    torch.testing.assert_close(distance_matrix(first, second, pairs), expected, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(
        distance_matrix(first, pairs=pairs), distance_matrix(first, first), rtol=1e-12, atol=1e-12
    )


def test_no_mixtures_have_no_distances():
    none = mixtures().take(slice(0, 0))
    assert mixture_distances(none, none).shape == (0,)
    assert distance_matrix(none, mixtures()).shape == (0, 4)


def test_another_number_of_mixtures_is_refused():
    with pytest.raises(ValueError, match="row by row: got 4 and 3; use distance_matrix"):
        mixture_distances(mixtures(), mixtures(3))
