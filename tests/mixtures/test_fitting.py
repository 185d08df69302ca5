import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture

from dre.mixtures import Fitting, Mixtures, fit_mixtures, mixture_distances, quantise, unit_grid
from dre.mixtures.gaussians import monomials
from dre.mixtures.starts import ellipse_start, spread_seeds
from tests.mixtures.maps import counts

SIZE = (14, 9)
GRID = unit_grid(*SIZE)


both = pytest.mark.parametrize("begin", ["ellipse", "k-means++"])


def start(batch, components, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return Mixtures(
        torch.full((batch, components), 1 / components, dtype=torch.float64),
        torch.rand(batch, components, 2, dtype=torch.float64, generator=generator),
        (torch.eye(2, dtype=torch.float64) * 0.02).expand(batch, components, 2, 2),
    )


def same(one, other, tolerance=1e-9):
    for entry, expected in zip(one, other, strict=True):
        torch.testing.assert_close(entry, expected, rtol=tolerance, atol=tolerance)


def is_sound(fit, regularisation=1e-6):
    variances = torch.linalg.eigvalsh(fit.mixtures.covariances)
    torch.testing.assert_close(fit.mixtures.weights.sum(1), torch.ones(len(fit.log_likelihood), dtype=torch.float64))
    assert fit.log_likelihood.isfinite().all()
    assert fit.mixtures.means.isfinite().all()
    assert variances.min() > regularisation * (1 - 1e-6)


@pytest.mark.parametrize("components", [1, 4, 10])
@pytest.mark.parametrize("power", [1.0, 5.0], ids=["smooth", "sparse"])
@pytest.mark.parametrize("iterations", [3, 100])
@pytest.mark.filterwarnings("ignore:Best performing initialization did not converge")
def test_equals_scikit_learn_on_duplicated_points(components, power, iterations):
    given, begun = counts(power=power), start(3, components)
    fit = fit_mixtures(GRID, given, Fitting(components, iterations=iterations), begun)
    for row in range(3):
        points = np.repeat(GRID.numpy(), given[row].numpy(), axis=0)
        peer = GaussianMixture(
            components,
            weights_init=begun.weights[row].numpy(),
            means_init=begun.means[row].numpy(),
            precisions_init=np.linalg.inv(begun.covariances[row].numpy()),
            max_iter=iterations,
        ).fit(points)
        assert fit.iterations[row] == peer.n_iter_
        assert fit.converged[row] == peer.converged_
        np.testing.assert_allclose(fit.log_likelihood[row], peer.score(points), rtol=1e-9)
        np.testing.assert_allclose(fit.mixtures.weights[row], peer.weights_, rtol=0, atol=1e-9)
        np.testing.assert_allclose(fit.mixtures.means[row], peer.means_, rtol=0, atol=1e-9)
        np.testing.assert_allclose(fit.mixtures.covariances[row], peer.covariances_, rtol=0, atol=1e-9)


def test_one_component_is_the_weighted_mean_and_covariance():
    given = counts()
    fit = fit_mixtures(GRID, given, Fitting(1))
    for row in range(3):
        expected = np.cov(GRID.numpy().T, fweights=given[row].numpy(), bias=True) + 1e-6 * np.eye(2)
        np.testing.assert_allclose(fit.mixtures.covariances[row, 0], expected, atol=1e-12)
        mean = np.average(GRID.numpy(), axis=0, weights=given[row].numpy())
        np.testing.assert_allclose(fit.mixtures.means[row, 0], mean, atol=1e-12)


@both
@pytest.mark.parametrize("budget", [1, 700, None], ids=["a pixel", "some", "all"])
def test_a_batch_equals_its_maps_one_by_one_in_any_order_and_pieces(begin, budget):
    given = torch.cat([counts(), counts(2, power=4.0, seed=1)])
    whole = fit_mixtures(GRID, given, Fitting(5, begin))
    order = torch.tensor([3, 0, 4, 1, 2])
    pieces = fit_mixtures(GRID, given[order], Fitting(5, begin, budget=budget))
    assert len(set(whole.iterations.tolist())) > 1  # rows leave the batch at different times
    same(pieces.mixtures, whole.mixtures.take(order))
    same(pieces[1:], [entry[order] for entry in whole[1:]])
    for row in range(5):
        alone = fit_mixtures(GRID, given[row : row + 1], Fitting(5, begin))
        same(alone.mixtures, whole.mixtures.take(slice(row, row + 1)))


@both
def test_counting_everything_seven_times_changes_nothing(begin):
    given = counts()
    fitting = Fitting(10, begin)
    same(fit_mixtures(GRID, 7 * given, fitting).mixtures, fit_mixtures(GRID, given, fitting).mixtures)


def test_points_that_do_not_count_change_nothing():
    given = counts()
    elsewhere = torch.cat([torch.full((1, 2), 5.0, dtype=torch.float64), GRID])
    wider = torch.cat([torch.zeros(3, 1, dtype=torch.int64), given], dim=1)
    same(fit_mixtures(elsewhere, wider).mixtures, fit_mixtures(GRID, given).mixtures)


@both
def test_a_translated_map_has_the_translated_mixture(begin):
    maps = torch.zeros(1, 20, 30, dtype=torch.int64)
    maps[0, 3:13, 4:20] = counts(1, 10, 16).view(10, 16)
    moved = maps.roll((5, 8), dims=(1, 2))
    one, other = (fit_mixtures(unit_grid(20, 30), each.flatten(1), Fitting(6, begin)) for each in (maps, moved))
    same(other.mixtures, one.mixtures.shift(torch.tensor([[5 / 20, 8 / 30]], dtype=torch.float64)))


def test_more_iterations_never_make_it_less_likely():
    given = counts(power=2.0)
    likelihoods = torch.stack(
        [
            fit_mixtures(GRID, given, Fitting(6, tolerance=0, iterations=number)).log_likelihood
            for number in (1, 2, 4, 8, 16, 32)
        ]
    )
    assert (likelihoods.diff(dim=0) > -1e-4).all()  # the regularisation is no part of the likelihood


def test_more_restarts_never_make_it_less_likely_and_the_first_is_the_same():
    given = counts(power=2.0)
    likelihoods = [
        fit_mixtures(GRID, given, Fitting(6, "k-means++", restarts=number)).log_likelihood for number in (1, 2, 8)
    ]
    assert (likelihoods[1] >= likelihoods[0]).all()
    assert (likelihoods[2] >= likelihoods[1]).all()
    assert (likelihoods[2] > likelihoods[0]).any()


def test_two_separate_blobs_are_found():
    down, across = unit_grid(40, 40).T
    maps = [(-((down - y) ** 2 + (across - x) ** 2) / (2 * 0.05**2)).exp() for y, x in ((0.25, 0.3), (0.75, 0.6))]
    given = quantise((maps[0] + 0.5 * maps[1]).clamp(max=1), 100)[None]
    fit = fit_mixtures(unit_grid(40, 40), given, Fitting(2, tolerance=1e-6))
    first, second = fit.mixtures.weights[0].argsort(descending=True).tolist()
    torch.testing.assert_close(fit.mixtures.weights[0, first].item(), 2 / 3, atol=5e-3, rtol=0)
    expected = torch.tensor([[0.25, 0.3], [0.75, 0.6]], dtype=torch.float64)
    torch.testing.assert_close(fit.mixtures.means[0, [first, second]], expected, atol=2e-3, rtol=0)
    variances = fit.mixtures.covariances[0].diagonal(dim1=-2, dim2=-1)
    torch.testing.assert_close(variances, torch.full((2, 2), 0.05**2, dtype=torch.float64), atol=2e-4, rtol=0)


def test_an_empty_map_is_an_even_one():
    empty = torch.zeros(2, len(GRID), dtype=torch.int64)
    fit = fit_mixtures(GRID, empty)
    same(fit.mixtures, fit_mixtures(GRID, torch.ones_like(empty)).mixtures)
    is_sound(fit)


@both
@pytest.mark.parametrize("places", [[40], [3, 100], [0, 1, 2, 3, 4, 5, 6, 7, 8]], ids=["point", "pair", "line"])
def test_fewer_points_than_components_collapse_no_further_than_the_regularisation(begin, places):
    given = torch.zeros(1, len(GRID), dtype=torch.int64)
    given[0, places] = 10
    fit = fit_mixtures(GRID, given, Fitting(10, begin))
    is_sound(fit)
    mean = (fit.mixtures.weights[..., None] * fit.mixtures.means).sum(dim=1)[0]
    torch.testing.assert_close(mean, GRID[places].mean(dim=0), atol=1e-9, rtol=0)


def test_a_component_far_from_all_points_dies_without_a_trace():
    begun = start(1, 3)
    begun.means[0, 2] = 50.0
    begun = begun._replace(covariances=begun.covariances.clone())
    begun.covariances[0, 2] = 1e-6 * torch.eye(2)
    fit = fit_mixtures(GRID, counts(1), Fitting(3), begun)
    is_sound(fit)
    assert fit.mixtures.weights[0, 2] == 0


def test_maps_that_are_alike_have_mixtures_that_are_alike():
    """Random starts lack this property, the reason for the start on the ellipse."""
    coarse, fine = counts(6, 20, 30), counts(6, 20, 30).view(6, 20, 30).repeat_interleave(2, 1).repeat_interleave(2, 2)
    apart = {}
    for begin in ("ellipse", "k-means++"):
        one = fit_mixtures(unit_grid(20, 30), coarse, Fitting(10, begin))
        other = fit_mixtures(unit_grid(40, 60), fine.flatten(1), Fitting(10, begin))
        apart[begin] = mixture_distances(one.mixtures, other.mixtures).sqrt().mean().item()
    assert apart["ellipse"] < 0.05
    assert apart["ellipse"] < apart["k-means++"] / 3


def test_the_ellipse_is_covered_by_components_of_equal_weight():
    features, mass = monomials(GRID[None]), counts(1).double()
    begun = ellipse_start(features, mass, 10, 1e-6)
    spread = begun.means[0] - (mass @ GRID) / mass.sum()
    covariance = 10 * begun.covariances[0, 0]
    torch.testing.assert_close(covariance, fit_mixtures(GRID, mass, Fitting(1)).mixtures.covariances[0, 0])
    squared = (spread @ torch.linalg.inv(covariance) * spread).sum(dim=1)
    shares = torch.tensor([2] * 4 + [6] * 4 + [9] * 2).double() / 10  # two fours and a pair, each at its middle
    torch.testing.assert_close(squared, -2 * (1 - shares).log())
    torch.testing.assert_close(spread.sum(dim=0), torch.zeros(2, dtype=torch.float64))
    assert begun.weights.tolist() == [[0.1] * 10]


@pytest.mark.parametrize("components", [1, 2, 3, 4, 7, 10])
def test_the_start_is_mirrored_and_turned_with_the_points(components):
    mass = counts(8, 9, 9, seed=2).double()
    around = unit_grid(9, 9) - 0.5
    given = ellipse_start(monomials(around[None].expand(8, -1, -1)), mass, components, 1e-6).means
    turn = torch.tensor(0.3, dtype=torch.float64)
    for matrix in (
        [[1, 0], [0, -1]],
        [[-1, 0], [0, 1]],
        [[0, 1], [1, 0]],
        [[turn.cos(), -turn.sin()], [turn.sin(), turn.cos()]],
    ):
        turned = around @ torch.tensor(matrix, dtype=torch.float64).T
        found = ellipse_start(monomials(turned[None].expand(8, -1, -1)), mass, components, 1e-6).means
        apart = torch.cdist(found, given @ torch.tensor(matrix, dtype=torch.float64).T)
        assert (apart.min(dim=2).values < 1e-9).all()
        assert (apart.min(dim=1).values < 1e-9).all()


def test_a_circle_is_spread_along_the_axes_of_the_grid():
    mass = torch.ones(1, 49, dtype=torch.float64)
    means = ellipse_start(monomials(unit_grid(7, 7)[None] - 0.5), mass, 2, 1e-6).means[0]
    torch.testing.assert_close(means[:, 1], torch.zeros(2, dtype=torch.float64))


def test_seeds_are_drawn_by_count_and_squared_distance():
    points = torch.tensor([[[0.0, 0.0], [0.0, 1.0], [0.0, 3.0], [9.0, 9.0]]], dtype=torch.float64)
    mass = torch.tensor([[3.0, 2.0, 1.0, 0.0]], dtype=torch.float64)

    def second_seed(draw):  # the order is 3, 1, 0, and the first seed falls on 0: its share of the mass is 3 / 6
        return spread_seeds(points, mass, torch.tensor([0.51, draw], dtype=torch.float64))[0, 1].tolist()

    assert second_seed(9 / 11 - 1e-6) == [0, 3]  # 1 x 3^2 against 2 x 1^2
    assert second_seed(9 / 11 + 1e-6) == [0, 1]
    assert second_seed(1 - 1e-12) == [0, 1]  # a point that counts nothing is never drawn


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.float64])
def test_any_type_of_counts_gives_float64(dtype):
    fit = fit_mixtures(GRID.float(), counts().to(dtype))
    assert fit.mixtures.means.dtype == fit.log_likelihood.dtype == torch.float64


def test_the_grid_has_pixel_centres_row_by_row():
    expected = [[1 / 4, 1 / 6], [1 / 4, 3 / 6], [1 / 4, 5 / 6], [3 / 4, 1 / 6], [3 / 4, 3 / 6], [3 / 4, 5 / 6]]
    torch.testing.assert_close(unit_grid(2, 3), torch.tensor(expected, dtype=torch.float64))


def test_halves_are_counted_upwards_whatever_the_last_bit():
    values = torch.tensor([0.0, 0.05, 0.04999, 0.15, 0.25 - 1e-15, 0.35, 0.95, 1.0], dtype=torch.float64)
    assert quantise(values, 10).tolist() == [0, 1, 0, 2, 3, 4, 10, 10]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"points": GRID[:5]}, r"`counts` must be \[B, 5\].*got \[3, 126\]"),
        ({"points": GRID[None]}, r"`points` must be \[P, 2\].*got \[1, 126, 2\]"),
        ({"counts": counts()[:0]}, r"at least one map, got \[0, 126\]"),
        ({"counts": -counts()}, "`counts` must not be negative, got -10"),
        ({"counts": counts().double() * torch.nan}, "`counts` has 378 non-finite values in 3 of 3"),
        ({"start": start(3, 4)}, r"`start` must hold 3 mixtures of 10 components, got \[3, 4\]"),
    ],
)
def test_bad_input_is_refused_in_one_line(change, line):
    with pytest.raises(ValueError, match=line):
        fit_mixtures(**({"points": GRID, "counts": counts()} | change))


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"components": 0}, "`components` must be at least 1, got 0"),
        ({"iterations": 0}, "`iterations` must be at least 1"),
        ({"regularisation": 0.0}, "`regularisation` must be positive"),
        ({"begin": "random"}, r"unknown begin 'random'; choose ellipse, k-means\+\+"),
        ({"restarts": 2}, r"2 restarts need draws to differ in; take begin='k-means\+\+'"),
    ],
)
def test_settings_that_fit_nothing_are_refused(settings, line):
    with pytest.raises(ValueError, match=line):
        Fitting(**settings)
