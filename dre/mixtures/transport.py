"""MW2, the Wasserstein distance between Gaussian mixtures: exact transport of components at closed-form costs.

The transport is solved on the CPU, and so small that NumPy prepares it: six numbers a component.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dre.checks import check_count
from dre.mixtures.gaussians import Mixtures

PAIRS = 4096
"""Pairs of mixtures whose costs are held at once: 25 MB for mixtures of ten components."""

Array = NDArray[np.float64]


def gaussian_distances(means: Tensor, covariances: Tensor, other_means: Tensor, other_covariances: Tensor) -> Tensor:
    """Return the squared Wasserstein-2 distance between Gaussians in the plane: float64 [...], 0 for equal ones.

    With u(A) = (A11 - A22, 2 A12, 2 sqrt(det A)), a vector as long as the trace of A, the covariances' part,
    tr A + tr B - 2 tr (A^(1/2) B A^(1/2))^(1/2), is |u(A) - u(B)|^2 / (T + sqrt(T^2 - |u(A) - u(B)|^2)) with T the sum
    of the traces: squares of differences, so that nothing cancels which the covariances still hold.

    Args:
        means: [..., 2].
        covariances: [..., 2, 2], positive semi-definite.
        other_means: Broadcasts to `means`.
        other_covariances: Broadcasts to `covariances`.

    Source: Rhodes et al. 2024, W_2^2 between Gaussians; we derive the form from
    tr (AB)^(1/2) = sqrt(tr AB + 2 sqrt(det AB)).

    Example:
        >>> import torch
        >>> gaussian_distances(torch.zeros(2), torch.eye(2), torch.tensor([3.0, 4.0]), torch.eye(2))
        tensor(25., dtype=torch.float64)
    """
    distances = _cost(_describe(means, covariances), _describe(other_means, other_covariances))
    return torch.as_tensor(distances, device=means.device)


def mixture_distances(first: Mixtures, second: Mixtures, pairs: int = PAIRS) -> Tensor:
    """Return the squared MW2 between mixtures row by row, the least cost of moving the components: float64 [B].

    Args:
        first: B mixtures.
        second: B mixtures, whose number of components may differ.
        pairs: Pairs whose costs are held at once; the memory depends on it alone.

    Raises:
        ValueError: The numbers of mixtures differ.

    Source: Rhodes et al. 2024, MW_2^2 (Delon and Desolneux 2020), solved by POT's network simplex.

    Example:
        >>> import torch
        >>> weights, covariances = torch.full((1, 2), 0.5), torch.eye(2).expand(1, 2, 2, 2)
        >>> first = Mixtures(weights, torch.tensor([[[0.0, 0.0], [0.0, 9.0]]]), covariances)
        >>> second = Mixtures(weights, torch.tensor([[[0.0, 9.0], [2.0, 0.0]]]), covariances)
        >>> mixture_distances(first, second)
        tensor([2.], dtype=torch.float64)
    """
    check_count("pairs", pairs)
    rows = len(first.weights)
    if rows != len(second.weights):
        raise ValueError(
            f"mixtures are compared row by row: got {rows} and {len(second.weights)}; use distance_matrix for all pairs"
        )
    one, other = _read(first), _read(second)
    distances = np.empty(rows)
    for start in range(0, rows, pairs):
        some = slice(start, start + pairs)
        costs = _cost(one.gaussians[:, some, :, None], other.gaussians[:, some, None])
        distances[some] = list(map(_solve, one.weights[some], other.weights[some], costs))
    return torch.from_numpy(distances).to(first.weights.device)


def distance_matrix(first: Mixtures, second: Mixtures | None = None, pairs: int = PAIRS) -> Tensor:
    """Return the squared MW2 between all mixtures of two batches: float64 [N, M]; of one batch, [N, N] and symmetric.

    Args:
        first: N mixtures.
        second: M mixtures; the first ones when not given, and then each pair is solved once.
        pairs: Pairs whose costs are held at once; the memory beside the matrix depends on it alone.

    Raises:
        ValueError: `pairs` is below 1.

    Source: Rhodes et al. 2024, MW_2^2 (Delon and Desolneux 2020).

    Example:
        >>> import torch
        >>> means = torch.tensor([[[0.0, 0.0]], [[3.0, 4.0]]])
        >>> distance_matrix(Mixtures(torch.ones(2, 1), means, torch.eye(2).expand(2, 1, 2, 2)))
        tensor([[ 0., 25.],
                [25.,  0.]], dtype=torch.float64)
    """
    check_count("pairs", pairs)
    one = _read(first)
    other = _read(second) if second is not None else one
    rows, columns = len(one.weights), len(other.weights)
    matrix = np.zeros((rows, columns))
    for row in range(rows):
        gaussians, weights = one.gaussians[:, row : row + 1, :, None], one.weights[row]
        for start in range(0 if second is not None else row + 1, columns, pairs):
            some = slice(start, start + pairs)
            costs = _cost(gaussians, other.gaussians[:, some, None])
            matrix[row, some] = [_solve(weights, *pair) for pair in zip(other.weights[some], costs, strict=True)]
    return torch.from_numpy(matrix if second is not None else matrix + matrix.T).to(first.weights.device)


class _Described(NamedTuple):
    """Hold mixtures on the CPU: their weights [B, K], and six numbers for each Gaussian, [6, B, K]."""

    weights: Array
    gaussians: Array


def _read(mixtures: Mixtures) -> _Described:
    return _Described(mixtures.weights.cpu().numpy(), _describe(mixtures.means, mixtures.covariances))


def _solve(weights: Array, others: Array, costs: Array) -> float:
    """Solve one small linear program without POT's checks, which would take longer than its simplex."""
    import ot  # takes a second, which nothing but a distance needs

    plan = ot.emd(weights, others, costs, center_dual=False, check_marginals=False)
    return float(np.vdot(plan, costs))


def _describe(means: Tensor, covariances: Tensor) -> Array:
    """Return six numbers for each Gaussian, [6, ...]: its mean, u of its covariance, and the trace, the length of u."""
    mean, covariance = means.double().cpu().numpy(), covariances.double().cpu().numpy()
    vertical, mixed, horizontal = covariance[..., 0, 0], covariance[..., 0, 1], covariance[..., 1, 1]
    determinant = np.maximum(vertical * horizontal - mixed * mixed, 0)
    u = vertical - horizontal, 2 * mixed, 2 * np.sqrt(determinant)
    return np.array([mean[..., 0], mean[..., 1], *u, vertical + horizontal])


def _cost(one: Array, other: Array) -> Array:
    """Return the squared distances of Gaussians from their six numbers."""
    squares = one[:5] - other[:5]
    squares *= squares
    apart = squares[2] + squares[3] + squares[4]
    traces = one[5] + other[5]
    length = traces + np.sqrt(np.maximum(traces * traces - apart, 0))
    costs: Array = squares[0] + squares[1] + apart / np.maximum(length, np.finfo(np.float64).tiny)
    return costs
