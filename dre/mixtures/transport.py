"""Wasserstein distances: between Gaussians in closed form, between mixtures by exact transport of their components."""

import numpy as np
import ot
import torch
from numpy.typing import NDArray
from torch import Tensor

from dre.checks import check_count
from dre.mixtures.gaussians import Mixtures

PAIRS = 4096
"""Pairs of mixtures whose costs are held at once: 20 MB for mixtures of ten components."""


def gaussian_distances(means: Tensor, covariances: Tensor, other_means: Tensor, other_covariances: Tensor) -> Tensor:
    """Squared Wasserstein-2 distance between Gaussians in the plane: [...], exactly 0 for equal ones.

    For 2 x 2 covariances A and B with D = A - B the covariances' part, tr A + tr B - 2 tr (A^(1/2) B A^(1/2))^(1/2),
    is ((D11 - D22)^2 + 4 D12^2 + 4 (sqrt(det A) - sqrt(det B))^2) / (tr A + tr B + 2 t), where t is that last trace,
    sqrt(tr AB + 2 sqrt(det A det B)): a sum of squares, in which nothing cancels that the inputs still hold.

    Args:
        means: [..., 2].
        covariances: [..., 2, 2], positive semi-definite.
        other_means: Broadcasts to `means`.
        other_covariances: Broadcasts to `covariances`.

    Source: paper 000, W_2^2 between Gaussians; the form is derived from tr (AB)^(1/2) = sqrt(tr AB + 2 sqrt(det AB)).
    """
    moved = (means - other_means).square().sum(dim=-1)
    roots = [_determinant(each).clamp(min=0).sqrt() for each in (covariances, other_covariances)]
    difference = covariances - other_covariances
    diagonal = difference[..., 0, 0] - difference[..., 1, 1]
    numerator = diagonal.square() + 4 * difference[..., 0, 1].square() + 4 * (roots[0] - roots[1]).square()
    traces = _trace(covariances) + _trace(other_covariances)
    denominator = traces + (traces.square() - numerator).clamp(min=0).sqrt()
    return moved + numerator / denominator.where(denominator > 0, 1.0)


def mixture_distances(first: Mixtures, second: Mixtures, pairs: int = PAIRS) -> Tensor:
    """Squared MW2 between mixtures row by row, float64 [B]: the cheapest exact transport of component to component.

    Args:
        first: B mixtures.
        second: B mixtures, whose number of components may differ.
        pairs: Pairs whose costs are held at once; the memory depends on it alone.

    Source: paper 000, MW_2^2 (Delon and Desolneux 2020), solved by POT's network simplex.
    """
    if len(first.weights) != len(second.weights):
        raise ValueError(
            f"mixtures are compared row by row: got {len(first.weights)} and {len(second.weights)}; "
            "use distance_matrix for all pairs"
        )
    check_count("pairs", pairs)
    distances = [
        _transport(first.take(slice(start, start + pairs)), second.take(slice(start, start + pairs)))
        for start in range(0, len(first.weights), pairs)
    ]
    return torch.from_numpy(np.concatenate([np.empty(0), *distances])).to(first.weights.device)


def distance_matrix(first: Mixtures, second: Mixtures | None = None, pairs: int = PAIRS) -> Tensor:
    """Squared MW2 between all mixtures of two batches, float64 [N, M]; within one batch, [N, N] and symmetric.

    Args:
        first: N mixtures.
        second: M mixtures; the first ones when not given, and then each pair is solved once.
        pairs: Pairs whose costs are held at once; the memory beside the matrix depends on it alone.
    """
    rows, columns = len(first.weights), len((second or first).weights)
    matrix = torch.zeros(rows, columns, dtype=torch.float64, device=first.weights.device)
    above = torch.ones(rows, columns, dtype=torch.bool, device=matrix.device)
    index = (above if second is not None else above.triu(1)).nonzero()
    for some in torch.split(index, pairs):
        left, right = some.unbind(dim=1)
        matrix[left, right] = mixture_distances(first.take(left), (second or first).take(right), pairs)
    return matrix if second is not None else matrix + matrix.T


def _transport(first: Mixtures, second: Mixtures) -> NDArray[np.float64]:
    """Solve one small linear program for each row."""
    costs = gaussian_distances(
        first.means[:, :, None], first.covariances[:, :, None], second.means[:, None], second.covariances[:, None]
    )
    arrays = (each.cpu().numpy() for each in (first.weights, second.weights, costs))
    return np.array([_solve(*problem) for problem in zip(*arrays, strict=True)])


def _solve(weights: NDArray[np.float64], other: NDArray[np.float64], costs: NDArray[np.float64]) -> float:
    plan = ot.emd(weights, other, costs, center_dual=False, check_marginals=False)
    return float((plan * costs).sum())


def _determinant(matrices: Tensor) -> Tensor:
    return matrices[..., 0, 0] * matrices[..., 1, 1] - matrices[..., 0, 1] * matrices[..., 1, 0]


def _trace(matrices: Tensor) -> Tensor:
    return matrices[..., 0, 0] + matrices[..., 1, 1]
