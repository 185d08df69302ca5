"""What XMGD costs beside scikit-learn and POT on duplicated points: `python -m benchmarks.xmgd [--threads 1]`.

A fit and a distance are what XMGD repeats at each scale. The peer does them the usual way: every pixel is repeated as
often as it counts, scikit-learn fits the mixture, scipy takes the matrix square roots of every pair of components and
POT solves the transport. Both fits start from the same means, weights and covariances and stop by the same rule, so
that the likelihoods they reach can be compared. All of it runs in one process, in turns.
"""

import argparse
import multiprocessing
import resource
import warnings
from collections.abc import Callable
from itertools import combinations
from statistics import median

import numpy as np
import ot
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.linalg import sqrtm
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from threadpoolctl import threadpool_limits
from torch import Tensor

from benchmarks.timing import in_turns, machine, ratio
from dre.imaging import gaussian_blur, min_max
from dre.mixtures import Fitting, Mixtures, distance_matrix, fit_mixtures, mixture_distances, quantise, unit_grid
from dre.mixtures.gaussians import monomials
from dre.mixtures.starts import ellipse_start

TARGETS = {"fit and distance": 10.0, "distance": 20.0, "fit and distance, b = 1": 1.0}
AGREEMENT = 1e-4
"""Relative difference of log-likelihoods up to which two fits count as equally good."""

PAIRS_OF = 20
"""Mixtures of which all pairs are compared."""

Array = NDArray[np.float64]
Mixture = tuple[Array, Array, Array]


def maps(size: int, count: int = 2) -> Tensor:
    """Give maps [count, 1, size, size] with the relief of a smooth mask: blurred noise, squared."""
    noise = torch.rand(count, 1, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return min_max(gaussian_blur(noise, size / 14)).square()


def begin(points: Tensor, counts: Tensor, components: int) -> Mixtures:
    """Give the start of both fits."""
    features = monomials(points.expand(len(counts), -1, -1))
    return ellipse_start(features, counts.double(), components, Fitting().regularisation)


def peer_fit(points: Tensor, counts: Tensor, start: Mixtures) -> tuple[GaussianMixture, NDArray[np.float64]]:
    """Fit one row of counts with scikit-learn on duplicated points."""
    duplicated = np.repeat(points.numpy(), counts.numpy(), axis=0)
    weights, means, covariances = (entry.numpy() for entry in start)
    mixture = GaussianMixture(
        len(weights), weights_init=weights, means_init=means, precisions_init=np.linalg.inv(covariances)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return mixture.fit(duplicated), duplicated


def peer_distance(first: Mixture, second: Mixture) -> float:
    """Squared MW2 with scipy's matrix square root and POT."""
    costs = [
        [peer_cost(*one, *other) for other in zip(*second[1:], strict=True)] for one in zip(*first[1:], strict=True)
    ]
    return float(ot.emd2(first[0], second[0], np.array(costs)))


def peer_cost(mean: Array, covariance: Array, other: Array, spread: Array) -> float:
    """Squared W2 of two Gaussians as it is written in the literature."""
    root = sqrtm(covariance)
    cross = np.trace(sqrtm(root @ spread @ root)).real
    return float(((mean - other) ** 2).sum() + np.trace(covariance) + np.trace(spread) - 2 * cross)


def of_peer(mixture: GaussianMixture) -> Mixture:
    """Read scikit-learn's parameters."""
    return mixture.weights_, mixture.means_, mixture.covariances_


def compare_fits(bins: int, components: int, size: int, repeats: int) -> tuple[dict[str, list[float]], float, float]:
    """Seconds of both ways to fit two maps and to compare them, and how far likelihoods and distances are apart."""
    points, counts = unit_grid(size, size), quantise(maps(size), bins).flatten(1)
    start = begin(points, counts, components)
    ends: dict[str, tuple[Callable[[], float], float]] = {}

    def ours() -> None:
        fit = fit_mixtures(points, counts, Fitting(components), start)
        distance = mixture_distances(fit.mixtures.take(slice(0, 1)), fit.mixtures.take(slice(1, 2)))
        ends["ours"] = lambda: float(fit.log_likelihood[0]), float(distance)

    def theirs() -> None:
        fits = [peer_fit(points, counts[row], Mixtures(*(entry[row] for entry in start))) for row in (0, 1)]
        distance = peer_distance(of_peer(fits[0][0]), of_peer(fits[1][0]))
        ends["theirs"] = lambda: fits[0][0].score(fits[0][1]), distance

    times = in_turns({"ours": ours, "theirs": theirs}, repeats, warm_up=1)
    likelihood, other = ends["ours"][0](), ends["theirs"][0]()
    distance = abs(ends["ours"][1] - ends["theirs"][1]) / ends["theirs"][1]
    return times, abs(likelihood - other) / abs(other), distance


def compare_distances(components: int, count: int, repeats: int) -> dict[str, list[float]]:
    """Seconds of both ways to compare all pairs of so many mixtures, given the mixtures."""
    points, counts = unit_grid(56, 56), quantise(maps(56, count), 10).flatten(1)
    mixtures = fit_mixtures(points, counts, Fitting(components)).mixtures
    arrays = list(zip(*(entry.numpy() for entry in mixtures), strict=True))
    return in_turns(
        {
            "ours": lambda: distance_matrix(mixtures),
            "theirs": lambda: [peer_distance(*pair) for pair in combinations(arrays, 2)],
        },
        repeats,
    )


def memory(bins: int, components: int, size: int) -> float:
    """Megabytes that a fit adds to a process of its own, at most."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_grown, (bins, components, size))


def _grown(bins: int, components: int, size: int) -> float:
    torch.set_num_threads(1)
    points, counts = unit_grid(size, size), quantise(maps(size), bins).flatten(1)
    fit_mixtures(unit_grid(8, 8), torch.ones(2, 64), Fitting(components))  # what the libraries load is not counted
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    fit_mixtures(points, counts, Fitting(components))
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def report(settings: argparse.Namespace) -> Table:
    """Measure everything and lay it out."""
    table = Table("what", "ours, ms", "peer, ms", "ratio", "at least", "likelihoods differ", "distances differ")
    table.title = f"Two maps of {settings.size} px, {settings.components} components, one process"

    def add(name: str, times: dict[str, list[float]], target: str, *gaps: float) -> None:
        ours, theirs = (f"{1000 * median(times[side]):.3g}" for side in ("ours", "theirs"))
        gained = f"{ratio(times['theirs'], times['ours']):.1f}"
        table.add_row(name, ours, theirs, gained, target, *(f"{gap:.1e}" for gap in gaps))

    measured = compare_fits(settings.bins, settings.components, settings.size, settings.repeats)
    add(f"fit and distance, b = {settings.bins}", measured[0], f"{TARGETS['fit and distance']}", *measured[1:])
    alone = compare_fits(1, settings.components, settings.size, settings.repeats)
    add("fit and distance, b = 1", alone[0], f"{TARGETS['fit and distance, b = 1']}", *alone[1:])
    for count, repeats in ((2, 30), (PAIRS_OF, settings.repeats)):
        name = f"distance, {count * (count - 1) // 2} pair{'s' if count > 2 else ''}"
        add(name, compare_distances(settings.components, count, repeats), f"{TARGETS['distance']}")
    used = ", ".join(f"{memory(b, settings.components, settings.size):.0f} MB at b = {b}" for b in (1, 10, 100, 1000))
    table.caption = f"A fit of two maps takes {used}. {machine()}"
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--bins", type=int, default=10)
    parser.add_argument("--components", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    settings = parser.parse_args()
    torch.set_num_threads(settings.threads)
    with threadpool_limits(settings.threads):
        Console(width=130).print(report(settings))


if __name__ == "__main__":
    main()
