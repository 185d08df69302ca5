"""Linear imputation by the sparse direct solver of SciPy, one equation at a time."""

import numpy as np
import torch
from scipy.sparse import lil_matrix
from scipy.sparse.linalg import spsolve
from torch import Tensor


def slow_imputation(image: Tensor, kept: Tensor) -> Tensor:
    """Solve for the pixels of an image [C, H, W] that bool [H, W] does not keep, in float64."""
    hidden = [tuple(place) for place in np.argwhere(~kept.numpy()).tolist()]
    number = {place: row for row, place in enumerate(hidden)}
    system, known = lil_matrix((len(hidden), len(hidden))), np.zeros((len(hidden), len(image)))
    for (down, right), row in number.items():
        for step_down, step_right in np.ndindex(3, 3):
            there = down + step_down - 1, right + step_right - 1
            if there == (down, right) or not (0 <= there[0] < kept.shape[0] and 0 <= there[1] < kept.shape[1]):
                continue
            weight = 1 / 6 if down == there[0] or right == there[1] else 1 / 12
            system[row, row] += weight
            if there in number:
                system[row, number[there]] = -weight
            else:
                known[row] += weight * image[(slice(None), *there)].double().numpy()
    filled = image.double().clone()
    if hidden:
        found = spsolve(system.tocsc(), known).reshape(len(hidden), len(image))
        filled[:, ~kept] = torch.from_numpy(found).T
    return filled
