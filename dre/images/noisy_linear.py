"""Noisy linear imputation: hidden pixels that are the weighted mean of their neighbours, solved for a whole batch.

The linear system of each mask is symmetric and positive definite. It is solved by conjugate gradients with one
multigrid cycle as preconditioner: coarser grids have every second pixel, interpolation is bilinear on the hidden pixels
and zero elsewhere, and the coarse systems are those that follow from it (Galerkin), so that any mask is solved.
"""

from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

TOLERANCE = 1e-3
"""Largest error of a pixel, estimated, at which an image is solved: a quarter of a level of 8 bits."""

MOST_CYCLES = 100
"""Bound on the iterations; photographs at 224 px need four or five."""

COARSEST = 4
"""Longest side of the grid whose system is inverted."""

DAMPING = 0.9
"""Of the Jacobi iteration on the coarser grids; at full size it needs none."""

SHIFTS = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)]
WEIGHTS = [-1 / 12, -1 / 6, -1 / 12, -1 / 6, 0.0, -1 / 6, -1 / 12, -1 / 6, -1 / 12]
"""Entries of the system between a pixel and those around it, in the order of `SHIFTS`."""


@torch.no_grad()
def linear_imputation(images: Tensor, kept: Tensor, tolerance: float = TOLERANCE) -> Tensor:
    """Return images in which every hidden pixel is the weighted mean of its neighbours: [N, C, H, W], without noise.

    The four direct neighbours weigh 1/6 and the four diagonal ones 1/12, divided by their sum at the border. A hidden
    pixel lies between the lowest and the highest kept pixel of the image. Where nothing is kept the system has no
    single solution, and the image shows its mean colour (our choice). An image does not depend on the others.

    Args:
        images: [N, C, H, W] in [0, 1].
        kept: bool [N, 1, H, W].
        tolerance: Largest error of a pixel, estimated by the last correction.

    Raises:
        ValueError: The shapes do not fit, or `kept` is not boolean.

    Source: Rong et al. 2022, noisy linear imputation; their code solves each image directly, by a sparse solver.

    Example:
        >>> import torch
        >>> image = torch.tensor([[[[0.0, 0.5, 1.0]]]])
        >>> linear_imputation(image, torch.tensor([[[[True, False, True]]]]))
        tensor([[[[0.0000, 0.5000, 1.0000]]]])
    """
    if kept.dtype != torch.bool or kept.shape != (len(images), 1, *images.shape[2:]):
        raise ValueError(
            f"`kept` must be bool {[len(images), 1, *images.shape[2:]]} to match `images`, got {kept.dtype} "
            f"{list(kept.shape)}; compare a mask with 0.5, and repeat images for several masks"
        )
    exact = images.to(torch.promote_types(images.dtype, torch.float32)).contiguous()
    with torch.autocast(images.device.type, enabled=False):
        hidden = (~kept).to(exact)
        solved = torch.where(kept, exact, _solve(exact * kept, hidden, tolerance))
    nothing = ~kept.flatten(1).any(dim=1)
    mean = exact.mean(dim=(2, 3), keepdim=True)
    return torch.where(nothing[:, None, None, None], mean, solved).to(images.dtype)


def _solve(known: Tensor, hidden: Tensor, tolerance: float) -> Tensor:
    """Solve for the hidden pixels, [N, C, H, W], zero elsewhere, given the kept ones, which are zero where hidden."""
    grids = _Grids(hidden)
    found = _rough(known, 1 - hidden) * hidden
    residual = _sums(known).mul_(hidden / 12).sub_(grids.apply(found))
    direction, energy = torch.zeros_like(found), found.new_ones(len(found), 1, 1, 1)
    active = torch.ones_like(energy, dtype=torch.bool)
    for _ in range(MOST_CYCLES):
        correction = grids.cycle(residual)
        before, energy = energy, _products(residual, correction)
        direction = torch.addcmul(correction, direction, energy / before.where(before > 0, 1.0))
        applied = grids.apply(direction)
        slope = _products(direction, applied)
        step = torch.where(active & (slope > 0), energy / slope.where(slope > 0, 1.0), 0.0)
        found.addcmul_(direction, step)  # what is solved stays as it is: an image does not depend on the others
        active = active & (_largest(correction) > tolerance)
        if not active.any():
            break
        residual.addcmul_(applied, step, value=-1)
    return found


def _products(first: Tensor, second: Tensor) -> Tensor:
    """Return the inner product of each pair of images, [N, 1, 1, 1]."""
    products: Tensor = torch.linalg.vecdot(first.flatten(1), second.flatten(1))
    return products[:, None, None, None]


def _largest(values: Tensor) -> Tensor:
    """Return the largest magnitude of each image, [N, 1, 1, 1]."""
    return values.abs().flatten(1).amax(dim=1)[:, None, None, None]


def _rough(known: Tensor, share: Tensor) -> Tensor:
    """Fill what is not known from averages of what is, over larger and larger regions: where the iteration begins.

    Args:
        known: [N, C, H, W], each value times its share.
        share: [N, 1, H, W] in [0, 1], how much is known of each pixel.
    """
    values = known / share.where(share > 0, 1.0)
    height, width = share.shape[-2:]
    if max(height, width) <= COARSEST:
        means = known.sum(dim=(2, 3), keepdim=True) / share.sum(dim=(2, 3), keepdim=True).clamp_min(1e-6)
        return torch.where(share > 0, values, means)
    sums, shares = _shortened(known), _shortened(share)
    scale = shares.clamp_min(1.0)
    coarser = _rough(sums / scale, shares / scale)
    return torch.where(share > 0, values, _lengthened(coarser, height, width))


@dataclass
class _Grid:
    """One grid of the hierarchy.

    Args:
        size: (height, width).
        inverse: What a residual is multiplied with in a Jacobi iteration, zero where there is no unknown.
        stencil: Entries of the system between each pixel and those around it, [N, 9, H, W].
    """

    size: tuple[int, int]
    inverse: Tensor
    stencil: Tensor


class _Grids:
    """The systems of some masks on all grids, from full size to the coarsest.

    Args:
        hidden: [N, 1, H, W], 1 where a pixel is to be found, else 0.
    """

    def __init__(self, hidden: Tensor) -> None:
        self.hidden = hidden
        full = (_sums(torch.ones_like(hidden[:1])) - 4) / 12
        self.diagonal = full + 1 / 3  # `_sums` has a third of the pixel too much
        around = F.pad(hidden, (1, 1, 1, 1))
        size = (hidden.shape[-2], hidden.shape[-1])
        stencil = torch.cat([_shifted(around, size, shift) * hidden for shift in SHIFTS], dim=1)
        stencil *= stencil.new_tensor(WEIGHTS).view(1, 9, 1, 1)
        stencil[:, 4:5] = full * hidden
        self.grids = [_Grid(size, hidden / full.where(full > 0, 1.0), stencil)]
        while max(self.grids[-1].size) > COARSEST:
            self.grids.append(_coarser(self.grids[-1]))
        self.solution = self._inverted()

    def apply(self, values: Tensor, level: int = 0) -> Tensor:
        """Multiply the system of a grid with values that are zero where there is no unknown."""
        if level == 0:
            return torch.addcmul(_sums(values).mul_(-1 / 12), values, self.diagonal).mul_(self.hidden)
        grid = self.grids[level]
        around = F.pad(values, (1, 1, 1, 1))
        total = values * grid.stencil[:, 4:5]
        for place, shift in enumerate(SHIFTS):
            if place != 4:
                total.addcmul_(grid.stencil[:, place : place + 1], _shifted(around, grid.size, shift))
        return total

    def cycle(self, residual: Tensor, level: int = 0) -> Tensor:
        """Return roughly what corrects the values by their residual; a symmetric function of it."""
        if level == len(self.grids) - 1:
            return torch.matmul(residual.flatten(2), self.solution).view_as(residual)  # which is symmetric
        inverse, size = self.grids[level].inverse, self.grids[level].size
        correction = residual * inverse
        coarser = self.cycle(_shortened(residual - self.apply(correction, level)), level + 1)
        finer = _lengthened(coarser, *size)
        correction += finer.mul_(self.hidden) if level == 0 else finer
        return correction.addcmul_(residual - self.apply(correction, level), inverse)

    def _inverted(self) -> Tensor:
        """Invert the coarsest system, [N, P, P]; what has no unknown, or no single solution, is made invertible."""
        height, width = self.grids[-1].size
        pixels = torch.eye(height * width).to(self.hidden).view(1, -1, height, width)
        if len(self.grids) == 1:
            pixels = pixels * self.hidden
        products = self.apply(pixels.expand(len(self.hidden), -1, -1, -1), len(self.grids) - 1).flatten(2).double()
        diagonal = products.diagonal(dim1=1, dim2=2)
        added = torch.where(diagonal > 0, 1e-6 * diagonal, 1.0)
        inverse: Tensor = torch.linalg.inv(products + torch.diag_embed(added))
        return inverse.to(self.hidden)


def _coarser(grid: _Grid) -> _Grid:
    """Form the system of the next coarser grid: entries between two of its pixels, over both interpolations."""
    bottom, right_end = (2 - side % 2 for side in grid.size)
    around = F.pad(grid.stencil, (1, right_end, 1, bottom)).contiguous(memory_format=torch.channels_last)
    stencil = F.conv2d(around, _over_both().to(around), stride=2).contiguous()
    diagonal = stencil[:, 4:5]
    size = (stencil.shape[-2], stencil.shape[-1])
    return _Grid(size, torch.where(diagonal > 0, DAMPING / diagonal, 0.0), stencil)


@cache
def _over_both() -> Tensor:
    """Return the weight of each fine entry in each coarse one, at each shift of its first pixel: [9, 9, 3, 3]."""
    hats = {-1: 0.5, 0: 1.0, 1: 0.5}
    weights = torch.zeros(9, 9, 3, 3)
    for (to, entry), below, beside in product(product(range(9), range(9)), hats, hats):
        down, right = (
            there + step - 2 * far for there, step, far in zip((below, beside), SHIFTS[entry], SHIFTS[to], strict=True)
        )
        weights[to, entry, below + 1, beside + 1] = hats[below] * hats[beside] * hats.get(down, 0) * hats.get(right, 0)
    return weights


def _shifted(around: Tensor, size: tuple[int, int], shift: tuple[int, int]) -> Tensor:
    """View the neighbours of all pixels in one direction, in values with a border of one pixel."""
    (height, width), (down, right) = size, shift
    return around[..., 1 + down : 1 + down + height, 1 + right : 1 + right + width]


def _sums(values: Tensor) -> Tensor:
    """Add up each pixel and its neighbours, four times, twice and once: 12 times the mean, and 4 times the pixel."""
    rows = values * 2
    rows[..., 1:] += values[..., :-1]
    rows[..., :-1] += values[..., 1:]
    sums = rows * 2
    sums[..., 1:, :] += rows[..., :-1, :]
    sums[..., :-1, :] += rows[..., 1:, :]
    return sums


def _shortened(values: Tensor) -> Tensor:
    """Add half of every second row and column to both sides: the transpose of `_lengthened`, [..., H // 2 + 1, ...]."""
    for dim in (-1, -2):
        first, second = values[_every(dim, 0)], values[_every(dim, 1)] * 0.5
        length, halves = values.shape[dim] // 2 + 1, second.shape[dim]
        shape = list(values.shape)
        shape[dim] = length
        short = values.new_zeros(shape)
        short.narrow(dim, 0, first.shape[dim]).copy_(first)
        short.narrow(dim, 0, halves).add_(second)
        short.narrow(dim, 1, halves).add_(second)
        values = short
    return values


def _lengthened(values: Tensor, height: int, width: int) -> Tensor:
    """Interpolate linearly between every second row and column; the last may lie one beyond the border."""
    for dim, length in ((-2, height), (-1, width)):
        shape = list(values.shape)
        shape[dim] = length
        long = values.new_empty(shape)
        first, halves = long[_every(dim, 0)], length // 2
        first.copy_(values.narrow(dim, 0, first.shape[dim]))
        torch.add(values.narrow(dim, 0, halves), values.narrow(dim, 1, halves), out=long[_every(dim, 1)]).mul_(0.5)
        values = long
    return values


def _every(dim: int, first: int) -> tuple[Any, ...]:
    """Index every second entry along the last axis, or the one before it."""
    return (..., slice(first, None, 2), slice(None)) if dim == -2 else (..., slice(first, None, 2))
