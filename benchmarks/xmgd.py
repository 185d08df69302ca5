"""Speed of XMGD beside scikit-learn and POT on duplicated points: `python -m benchmarks.xmgd [--threads 1]`.

A fit and a distance are what XMGD repeats at each scale. The peer does them the usual way: every pixel is repeated as
often as it counts, scikit-learn fits the mixture, scipy takes the matrix square roots of every pair of components and
POT solves the transport. Both fits start from the same means, weights and covariances (so the peer runs no k-means) and
stop by the same rule; the benchmark refuses to compare times where the likelihoods that they reach differ. All of it
runs in one process, in turns; memory alone is measured in processes of their own, and on Linux.
"""

import argparse
import ctypes
import gc
import multiprocessing
import warnings
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import ot
import torch
from numpy.typing import NDArray
from scipy.linalg import sqrtm
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from threadpoolctl import threadpool_limits
from torch import Tensor

from benchmarks.timing import in_turns, ratio, seconds
from dre.images.blur import gaussian_blur
from dre.images.maps import min_max
from dre.mixtures import Fit, Fitting, Mixtures, distance_matrix, fit_mixtures, mixture_distances, quantise, unit_grid
from dre.mixtures.gaussians import monomials
from dre.mixtures.starts import ellipse_start
from dre.reporting.terminal import TextTable
from dre.runs.process import machine

TARGETS = {"fit and distance": 10.0, "distance": 20.0, "fit and distance, b = 1": 1.0}
AGREEMENT = 1e-4
"""Relative difference of log-likelihoods up to which two fits count as equally good."""

PAIRS_OF = 20
"""Mixtures of which all pairs are compared."""

PAIRS_IN_A_ROW = 40

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
"""Where Linux says what a process holds, and where its peak is reset."""

Array = NDArray[np.float64]
Mixture = tuple[Array, Array, Array]


def maps(size: int, count: int = 2) -> Tensor:
    """Return maps [count, 1, size, size] with the relief of a smooth mask: blurred noise, squared."""
    noise = torch.rand(count, 1, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return min_max(gaussian_blur(noise, size / 14)).square()


def begin(points: Tensor, counts: Tensor, components: int) -> Mixtures:
    """Return the start of both fits."""
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
        [peer_cost(*one, sqrtm(one[1]), *other) for other in zip(*second[1:], strict=True)]
        for one in zip(*first[1:], strict=True)
    ]
    return float(ot.emd2(first[0], second[0], np.array(costs)))


def thrifty_distance(first: Mixture, second: Mixture) -> float:
    """Do the same with the root of each component taken once, not once a pair of components."""
    roots = [sqrtm(covariance) for covariance in first[2]]
    costs = [
        [peer_cost(*one, *other) for other in zip(*second[1:], strict=True)]
        for one in zip(*first[1:], roots, strict=True)
    ]
    return float(ot.emd2(first[0], second[0], np.array(costs)))


def peer_cost(mean: Array, covariance: Array, root: Array, other: Array, spread: Array) -> float:
    """Squared W2 of two Gaussians as it is written in the literature; `root` is that of the first covariance."""
    cross = np.trace(sqrtm(root @ spread @ root)).real
    return float(((mean - other) ** 2).sum() + np.trace(covariance) + np.trace(spread) - 2 * cross)


def of_peer(mixture: GaussianMixture) -> Mixture:
    """Read scikit-learn's parameters."""
    return mixture.weights_, mixture.means_, mixture.covariances_


class End(NamedTuple):
    """Hold the result of one way: iterations and mean log-likelihood of both fits, and the squared distance."""

    iterations: list[int]
    likelihoods: list[float]
    distance: float


class Comparison(NamedTuple):
    """Return the seconds of both ways, their iterations, and how far likelihoods and distances are apart, relative."""

    times: dict[str, list[float]]
    iterations: dict[str, list[int]]
    likelihood: float
    distance: float


def compare_fits(bins: int, components: int, size: int, repeats: int) -> Comparison:
    """Fit two maps and compare them, both ways; likelihoods are read off after the clock has stopped."""
    points, counts = unit_grid(size, size), quantise(maps(size), bins).flatten(1)
    start = begin(points, counts, components)
    ours: list[tuple[Fit, float]] = []
    theirs: list[tuple[list[tuple[GaussianMixture, Array]], float]] = []

    def fit_ours() -> None:
        fit = fit_mixtures(points, counts, Fitting(components), start)
        distance = mixture_distances(fit.mixtures.take(slice(0, 1)), fit.mixtures.take(slice(1, 2)))
        ours[:] = [(fit, float(distance))]

    def fit_theirs() -> None:
        fits = [peer_fit(points, counts[row], Mixtures(*(entry[row] for entry in start))) for row in (0, 1)]
        theirs[:] = [(fits, peer_distance(of_peer(fits[0][0]), of_peer(fits[1][0])))]

    times = in_turns({"ours": fit_ours, "theirs": fit_theirs}, repeats, warm_up=1)
    (fit, distance), (fits, other) = ours[0], theirs[0]
    one = End(fit.iterations.tolist(), fit.log_likelihood.tolist(), distance)
    two = End([peer.n_iter_ for peer, _ in fits], [float(peer.score(data)) for peer, data in fits], other)
    gap = max(abs(a - b) / abs(b) for a, b in zip(one.likelihoods, two.likelihoods, strict=True))
    if gap > AGREEMENT:
        raise ValueError(
            f"likelihoods differ by {gap:.1e}, more than {AGREEMENT:.0e}: times of unequal fits say nothing"
        )
    iterations = {"ours": one.iterations, "theirs": two.iterations}
    return Comparison(times, iterations, gap, abs(one.distance - two.distance) / two.distance)


def compare_distances(components: int, count: int, repeats: int) -> dict[str, list[float]]:
    """Return the seconds of three ways to compare all pairs of so many mixtures, given the mixtures.

    Each way takes `PAIRS_IN_A_ROW` pairs or more before the next one's turn, so that none is timed with cold caches.
    """
    points, counts = unit_grid(56, 56), quantise(maps(56, count), 10).flatten(1)
    mixtures = fit_mixtures(points, counts, Fitting(components)).mixtures
    arrays = list(zip(*(entry.numpy() for entry in mixtures), strict=True))
    calls = max(1, 2 * PAIRS_IN_A_ROW // (count * (count - 1)))
    times = in_turns(
        {
            "ours": lambda: [distance_matrix(mixtures) for _ in range(calls)],
            "theirs": lambda: [peer_distance(*pair) for _ in range(calls) for pair in combinations(arrays, 2)],
            "thrifty": lambda: [thrifty_distance(*pair) for _ in range(calls) for pair in combinations(arrays, 2)],
        },
        repeats,
    )
    return {name: [taken / calls for taken in some] for name, some in times.items()}


def matrix_seconds(components: int, count: int) -> tuple[float, float]:
    """Seconds for the mixtures of so many maps of 56 px, and for the distances of all their pairs, at one scale."""
    points, counts = unit_grid(56, 56), quantise(maps(56, count), 10).flatten(1)
    fits: list[Mixtures] = []
    fitting = seconds(lambda: fits.append(fit_mixtures(points, counts, Fitting(components)).mixtures))
    return fitting, seconds(lambda: distance_matrix(fits[0]))


def memory(bins: int, settings: argparse.Namespace, peer: bool = False) -> float:
    """Megabytes that a fit of two maps adds to a process of its own, at most."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_grown, (bins, settings.components, settings.size, peer))


def _grown(bins: int, components: int, size: int, peer: bool) -> float:
    torch.set_num_threads(1)
    points, counts = unit_grid(size, size), quantise(maps(size), bins).flatten(1)
    start = begin(points, counts, components)
    fit_mixtures(unit_grid(8, 8), torch.ones(2, 64), Fitting(components))  # what the libraries load is not counted
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # room that is free but kept would hide what the fit takes
    RESET.write_text("5")
    before = _peak()
    if peer:
        for row in (0, 1):
            peer_fit(points, counts[row], Mixtures(*(entry[row] for entry in start)))
    else:
        fit_mixtures(points, counts, Fitting(components), start)
    return _peak() - before


def _peak() -> float:
    """Most megabytes that this process held since the peak was reset."""
    (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def report(settings: argparse.Namespace) -> TextTable:
    """Measure everything and lay it out."""
    columns = ("what", "ours, ms", "peer, ms", "ratio", "at least", "iterations", "likelihoods differ", "distances")
    table = TextTable(*columns, title=f"Two maps of {settings.size} px, {settings.components} components, one process")

    def add(name: str, times: dict[str, list[float]], peer: str, target: float, *more: str) -> None:
        ours, theirs = (f"{1000 * median(times[side]):.3g}" for side in ("ours", peer))
        table.add_row(name, ours, theirs, f"{ratio(times[peer], times['ours']):.1f}", f"{target:g}", *more)

    for bins, target in ((settings.bins, "fit and distance"), (1, "fit and distance, b = 1")):
        found = compare_fits(bins, settings.components, settings.size, settings.repeats)
        more = ["/".join(map(str, counts)) for counts in found.iterations.values()]
        gaps = f"{found.likelihood:.1e}", f"{found.distance:.1e}"
        add(f"fit and distance, b = {bins}", found.times, "theirs", TARGETS[target], ", ".join(more), *gaps)
    for count, repeats in ((2, 30), (PAIRS_OF, settings.repeats)):
        name = f"distance, {count * (count - 1) // 2} pair{'s' if count > 2 else ''}"
        times = compare_distances(settings.components, count, repeats)
        add(name, times, "theirs", TARGETS["distance"])
        add(f"{name}, roots once", times, "thrifty", TARGETS["distance"])
    return table


def memory_report(settings: argparse.Namespace) -> str:
    """Say what a fit takes at several bins, ours and the peer's; empty where Linux does not say it."""
    if not RESET.exists():
        return ""
    ours = ", ".join(f"{memory(bins, settings):.0f} at b = {bins}" for bins in (1, 10, 100, 1000))
    theirs = ", ".join(f"{memory(bins, settings, peer=True):.0f} at b = {bins}" for bins in (1, settings.bins))
    return f"Megabytes that a fit of two maps adds: ours {ours}; the peer's {theirs}."


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--bins", type=int, default=10)
    parser.add_argument("--components", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--matrix", type=int, default=1000, help="maps whose distance matrix is timed; 0 leaves it out")
    settings = parser.parse_args()
    torch.set_num_threads(settings.threads)
    with threadpool_limits(settings.threads):
        print(report(settings))
        print(memory_report(settings))
        if settings.matrix:
            fitting, comparing = matrix_seconds(settings.components, settings.matrix)
            print(f"{settings.matrix} maps of 56 px: mixtures {fitting:.1f} s, all pairs {comparing:.1f} s.")
        print(machine())


if __name__ == "__main__":
    main()
