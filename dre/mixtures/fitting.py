"""Expectation maximisation of Gaussian mixtures with weighted points, for a batch of maps on one grid."""

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from dre.checks import check_count, check_finite
from dre.mixtures.gaussians import Mixtures, drop_negligible, expect, maximise, monomials
from dre.mixtures.starts import compact, draws, ellipse_start, fill_empty, nearest_parts, spread_seeds

BUDGET = {"cpu": 2**17, "cuda": 2**27}
"""Densities (points x components x maps) held at once: the cache of a CPU core, or 1 GB of a GPU."""

Begin = Literal["ellipse", "k-means++"]
"""How the start of a fit is chosen when none is given."""


class Fit(NamedTuple):
    """Hold fitted mixtures and how the fit went.

    `log_likelihood` is the mean over the counted points under the mixture that is returned, float64 [B];
    `iterations` is int64 [B]; `converged` is bool [B], whether the likelihood changed by less than the tolerance before
    the iterations ran out.

    Example:
        >>> import torch
        >>> from dre.mixtures import unit_grid
        >>> fit = fit_mixtures(unit_grid(4, 4), torch.ones(2, 16), Fitting(components=1))
        >>> fit.converged, fit.take(torch.tensor([0])).iterations.shape
        (tensor([True, True]), torch.Size([1]))
    """

    mixtures: Mixtures
    log_likelihood: Tensor
    iterations: Tensor
    converged: Tensor

    def take(self, rows: Tensor) -> "Fit":
        """Return the fits of some rows of the batch."""
        return Fit(self.mixtures.take(rows), self.log_likelihood[rows], self.iterations[rows], self.converged[rows])


@dataclass(frozen=True, slots=True)
class Fitting:
    """Set how mixtures are fitted.

    Args:
        components: Gaussians in each mixture, K.
        begin: `ellipse` spreads the components over the points' own ellipse, without draws; `k-means++` draws seeds
            and takes the points nearest to each.
        restarts: Starts of which the likeliest end is kept; they differ in their draws.
        seed: Of the draws.
        tolerance: The fit ends where the mean log-likelihood changes by less.
        iterations: Largest number of steps.
        regularisation: Added to the variances in every step.
        budget: Densities held at once; by default what suits the device.

    Raises:
        ValueError: A number is out of its range, `begin` is unknown, or restarts of `ellipse` are asked for.

    Example:
        >>> Fitting(components=5, begin="k-means++", restarts=3).tolerance
        0.001
    """

    components: int = 10
    begin: Begin = "ellipse"
    restarts: int = 1
    seed: int = 0
    tolerance: float = 1e-3
    iterations: int = 100
    regularisation: float = 1e-6
    budget: int | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("components", "restarts", "iterations"):
            check_count(name, getattr(self, name))
        if self.begin not in get_args(Begin):
            raise ValueError(f"unknown begin {self.begin!r}; choose {', '.join(get_args(Begin))}")
        if self.begin == "ellipse" and self.restarts > 1:
            raise ValueError(f"{self.restarts} restarts need draws to differ in; take begin='k-means++'")
        if self.tolerance < 0 or self.regularisation <= 0:
            raise ValueError(
                f"`tolerance` must not be negative and `regularisation` must be positive, "
                f"got {self.tolerance} and {self.regularisation}"
            )


def fit_mixtures(points: Tensor, counts: Tensor, fitting: Fitting | None = None, start: Mixtures | None = None) -> Fit:
    """Fit a mixture of Gaussians to each row of counts, as if every point occurred `counts` times.

    No point is duplicated: its count weighs its share in each sum, and points of count zero are dropped. A row whose
    counts are all zero is fitted as if each point were there once. The draws are the same for every row, so a batch
    equals its rows one by one, and the state in memory depends on the points, never on the counts.

    Args:
        points: [P, 2], such as `unit_grid` gives.
        counts: Not negative, [B, P]; integers as `quantise` gives them, or any weights.
        fitting: The settings; their defaults when not given.
        start: Mixtures to start from, one for each row; what `fitting` says when not given.

    Raises:
        ValueError: A shape is wrong, or a count is negative, NaN or infinite.

    Source: Rhodes et al. 2024, step 2 (a mixture fitted to duplicated points). Numbers follow scikit-learn's
    GaussianMixture.

    Example:
        >>> import torch
        >>> from dre.mixtures import unit_grid
        >>> fit = fit_mixtures(unit_grid(4, 4), torch.ones(1, 16), Fitting(components=1))
        >>> fit.mixtures.means.round(decimals=3).tolist()
        [[[0.5, 0.5]]]
    """
    fitting = fitting or Fitting()
    _check(points, counts, start, fitting)
    counts = fill_empty(counts)
    used = (counts > 0).sum(dim=1)
    order = used.argsort(descending=True, stable=True)  # rows of like length share a batch: less padding
    fits: list[Fit] = []
    first = 0
    while first < len(order):
        budget = fitting.budget or BUDGET.get(counts.device.type, BUDGET["cuda"])
        size = max(1, budget // (int(used[order[first]]) * fitting.components))
        rows = order[first : first + size]
        fits.append(_fit_rows(points, counts[rows], fitting, start and start.take(rows), budget))
        first += size
    whole = Fit(Mixtures.join([fit.mixtures for fit in fits]), *map(torch.cat, list(zip(*fits, strict=True))[1:]))
    return whole.take(order.argsort())


def _fit_rows(points: Tensor, counts: Tensor, fitting: Fitting, start: Mixtures | None, budget: int) -> Fit:
    """Fit rows that fit the budget together, around their own centres of mass."""
    places, weights = compact(points.double(), counts)
    weights = weights.double()
    centres = (places * weights[..., None]).sum(dim=1) / weights.sum(dim=1, keepdim=True)
    places = places - centres[:, None]
    features = monomials(places)
    pixels = max(1, budget // (len(counts) * fitting.components))
    if start is None and fitting.begin == "k-means++":
        best = _best_of_restarts(features, places, weights, fitting, pixels)
    elif start is None:
        spread = ellipse_start(features, weights, fitting.components, fitting.regularisation)
        best = _climb(features, weights, spread, fitting, pixels)
    else:
        moved = Mixtures(*(entry.double() for entry in start)).shift(-centres)
        best = _climb(features, weights, moved, fitting, pixels)
    return best._replace(mixtures=drop_negligible(best.mixtures).shift(centres))


def _best_of_restarts(features: Tensor, places: Tensor, weights: Tensor, fitting: Fitting, pixels: int) -> Fit:
    """Keep the likeliest of several fits of each row; the first of equals."""
    fits = []
    for uniform in draws(fitting.restarts, fitting.components, fitting.seed):
        seeds = spread_seeds(places, weights, uniform)
        start = nearest_parts(features, weights, seeds, fitting.regularisation, pixels)
        fits.append(_climb(features, weights, start, fitting, pixels))
    best = torch.stack([fit.log_likelihood for fit in fits]).argmax(dim=0)
    row = torch.arange(len(best), device=best.device)

    def pick(*entries: Tensor) -> Tensor:
        return torch.stack(entries)[best, row]

    mixtures = Mixtures(*map(pick, *(fit.mixtures for fit in fits)))
    return Fit(mixtures, *map(pick, *(fit[1:] for fit in fits)))


def _climb(features: Tensor, weights: Tensor, start: Mixtures, fitting: Fitting, pixels: int) -> Fit:
    """Iterate every row until its likelihood converges; rows that do leave the batch."""
    rows = torch.arange(len(weights), device=weights.device)
    ends = Mixtures(*(entry.clone() for entry in start))
    taken = torch.full_like(rows, fitting.iterations)
    converged = torch.zeros_like(rows, dtype=torch.bool)
    current, before = start, torch.full_like(weights[:, 0], -torch.inf)
    some_features, some_weights = features, weights
    for iteration in range(1, fitting.iterations + 1):
        moments, likelihood = expect(some_features, some_weights, current, pixels)
        current = maximise(moments, fitting.regularisation)
        rests = (likelihood - before).abs() < fitting.tolerance
        before = likelihood
        if iteration < fitting.iterations and not rests.any():
            continue
        for end, now in zip(ends, current, strict=True):
            end[rows] = now
        converged[rows] = rests
        taken[rows[rests]] = iteration
        if rests.all():
            break
        goes_on = ~rests
        rows, before, current = rows[goes_on], before[goes_on], current.take(goes_on)
        some_features, some_weights = some_features[goes_on], some_weights[goes_on]
    return Fit(ends, expect(features, weights, ends, pixels)[1], taken, converged)


def _check(points: Tensor, counts: Tensor, start: Mixtures | None, fitting: Fitting) -> None:
    if points.ndim != 2 or points.shape[1] != 2 or not len(points):
        raise ValueError(f"`points` must be [P, 2] with at least one point, got {list(points.shape)}")
    if counts.ndim != 2 or counts.shape[1] != len(points) or not len(counts):
        raise ValueError(
            f"`counts` must be [B, {len(points)}], one for each point of at least one map, got {list(counts.shape)}"
        )
    check_finite(points, "points")
    check_finite(counts, "counts")
    if counts.min() < 0:
        raise ValueError(f"`counts` must not be negative, got {counts.min().item():.3g}")
    expected = (len(counts), fitting.components)
    if start is not None and start.weights.shape != expected:
        raise ValueError(
            f"`start` must hold {expected[0]} mixtures of {expected[1]} components, got {list(start.weights.shape)}"
        )
