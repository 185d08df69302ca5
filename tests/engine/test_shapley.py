"""Shapley regression against enumeration, and the Shapley kernel's draws against their closed form."""

from itertools import product
from math import comb, factorial

import pytest
import torch

from dre.engine.shapley import ShapleySettings, efficient, shapley_loss, shapley_subsets, size_weights


def exact_values(scores: torch.Tensor) -> torch.Tensor:
    """Compute Shapley values [d] from the scores of all subsets, in the order of `all_subsets`: a loop over both."""
    players = (len(scores) - 1).bit_length()
    table = dict(zip(product((0, 1), repeat=players), scores.tolist(), strict=True))
    values = torch.zeros(players, dtype=torch.float64)
    for subset, score in table.items():
        size = sum(subset)
        for player in range(players):
            if not subset[player]:
                joined = (*subset[:player], 1, *subset[player + 1 :])
                weight = factorial(size) * factorial(players - size - 1) / factorial(players)
                values[player] += weight * (table[joined] - score)
    return values


def all_subsets(players: int) -> torch.Tensor:
    return torch.tensor(list(product((0.0, 1.0), repeat=players)))


def test_sizes_of_subsets_follow_the_kernel():
    players = 7
    kernel = [(players - 1) / (comb(players, size) * size * (players - size)) for size in range(1, players)]
    mass = torch.tensor([comb(players, size) * one for size, one in enumerate(kernel, start=1)], dtype=torch.float64)
    torch.testing.assert_close(size_weights(players), mass / mass.sum())
    drawn = shapley_subsets(500, 40, players, torch.Generator().manual_seed(0))
    sizes = drawn[:, ::2].sum(dim=2).flatten().long()  # of 10,000 pairs the first: a share has a standard error of .005
    shares = sizes.bincount(minlength=players)[1:] / len(sizes)
    torch.testing.assert_close(shares.double(), size_weights(players), rtol=0, atol=0.02)
    members = drawn[:, ::2][drawn[:, ::2].sum(dim=2) == 1].mean(dim=0)
    torch.testing.assert_close(members, torch.full((players,), 1 / players), rtol=0, atol=0.03)  # none is preferred


def test_every_second_subset_is_the_complement_of_the_one_before_and_none_is_empty():
    drawn = shapley_subsets(20, 6, 5, torch.Generator().manual_seed(1))
    assert drawn.shape == (20, 6, 5)
    assert torch.equal(drawn[:, 1::2], 1 - drawn[:, ::2])
    assert 0 < drawn.sum(dim=2).amin() <= drawn.sum(dim=2).amax() < 5
    assert torch.equal(drawn, shapley_subsets(20, 6, 5, torch.Generator().manual_seed(1)))
    assert not torch.equal(drawn[0], drawn[1])


def test_normalised_values_add_up_to_the_change_and_keep_their_order():
    values, change = torch.randn(4, 9, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    found = efficient(values, change)
    torch.testing.assert_close(found.sum(dim=1), change)
    torch.testing.assert_close(found - found.mean(dim=1, keepdim=True), values - values.mean(dim=1, keepdim=True))


def test_the_loss_is_lowest_at_the_exact_values_of_a_game_and_trains_the_sum_by_its_penalty_alone():
    """Over all subsets, each by its weight under the kernel, as copies of a subset stand for its weight."""
    players = 5
    subsets = all_subsets(players)
    torch.manual_seed(0)
    scores = torch.randn(len(subsets), dtype=torch.float64)
    inner, inner_scores = subsets[1:-1], scores[1:-1]
    copies = torch.tensor([{1: 6, 2: 2, 3: 2, 4: 6}[int(size)] for size in inner.sum(dim=1)])  # 4 / (C(5, k) k (5 - k))
    shown = inner.repeat_interleave(copies, dim=0).double()[None]
    seen = inner_scores.repeat_interleave(copies)[None]
    exact = exact_values(scores)[None].requires_grad_()
    loss = shapley_loss(exact, shown, seen, scores[-1:], scores[:1], efficiency=0.5)
    (gradient,) = torch.autograd.grad(loss, exact)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-12)
    shifted = (exact + 1).detach().requires_grad_()
    loss = shapley_loss(shifted, shown, seen, scores[-1:], scores[:1], efficiency=0.5)
    (gradient,) = torch.autograd.grad(loss, shifted)
    torch.testing.assert_close(gradient, torch.full_like(gradient, 0.5 * 2 * players))
    worse = (exact + torch.eye(players, dtype=torch.float64)[:1]).detach()
    assert shapley_loss(worse, shown, seen, scores[-1:], scores[:1]) > shapley_loss(
        exact, shown, seen, scores[-1:], scores[:1]
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"subsets": 0}, "`subsets` must be at least 2, got 0"),
        ({"subsets": 3}, "`subsets` must be even, as they are drawn in pairs, got 3"),
        ({"uniform_share": 1.5}, r"`uniform_share` is a share in \[0, 1\], got 1\.5"),
        ({"score": "p"}, "`score` must be one of"),
        ({"efficiency": -1.0}, r"`efficiency` must not be negative, got -1\.0"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ShapleySettings(**options)


def test_one_superpixel_is_refused():
    with pytest.raises(ValueError, match="at least two superpixels of 16 pixels, got 1; take larger images"):
        size_weights(1)
