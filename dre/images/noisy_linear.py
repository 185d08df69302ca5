"""Noisy linear imputation: hidden pixels that are the weighted mean of their neighbours, solved for a whole batch.

The linear system of each mask is symmetric and positive definite. It is solved by conjugate gradients with one
multigrid cycle as preconditioner: coarser grids have every second pixel, interpolation is bilinear on the hidden pixels
and zero elsewhere, and the coarse systems are those that follow from it (Galerkin), so that any mask is solved.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

TOLERANCE = 1e-3
"""Largest error of a pixel, estimated, at which an image is solved: a quarter of a level of 8 bits."""

MOST_CYCLES = 100
"""Bound on the iterations; photographs need three to six."""

COARSEST = 4
"""Longest side of the grid whose system is inverted."""

DAMPING = 0.9
"""Of the Jacobi iteration on the coarser grids; at full size it needs none."""

SHIFTS = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)]


def linear_imputation(images: Tensor, kept: Tensor, tolerance: float = TOLERANCE) -> Tensor:
    """Return images in which every hidden pixel is the weighted mean of its neighbours: [N, C, H, W], without noise.

    The four direct neighbours weigh 1/6 and the four diagonal ones 1/12, divided by their sum at the border. A hidden
    pixel lies between the lowest and the highest kept pixel of the image. Where nothing is kept the system has no
    single solution, and the image shows its mean colour (our choice). An image does not depend on the others.

    Args:
        images: [N, C, H, W] in [0, 1].
        kept: bool [N, 1, H, W].
        tolerance: Largest error of a pixel, estimated by the last correction.

    Source: Rong et al. 2022, noisy linear imputation; their code solves each image directly, by a sparse solver.

    Example:
        >>> import torch
        >>> image = torch.tensor([[[[0.0, 0.5, 1.0]]]])
        >>> linear_imputation(image, torch.tensor([[[[True, False, True]]]]))
        tensor([[[[0.0000, 0.5000, 1.0000]]]])
    """
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
    share = (1 - hidden).mean(dim=(2, 3), keepdim=True)
    found = known.mean(dim=(2, 3), keepdim=True) / share.where(share > 0, 1.0) * hidden
    residual = _sums(known).mul_(hidden / 12) - grids.apply(found)
    direction, energy = torch.zeros_like(found), torch.ones_like(share)
    for _ in range(MOST_CYCLES):
        correction = grids.cycle(residual)
        before, energy = energy, _products(residual, correction)
        direction = torch.addcmul(correction, direction, energy / before.where(before > 0, 1.0))
        applied = grids.apply(direction)
        slope = _products(direction, applied)
        step = torch.where(slope > 0, energy / slope.where(slope > 0, 1.0), 0.0)
        found = torch.addcmul(found, direction, step)
        error = correction.abs().amax(dim=(1, 2, 3), keepdim=True)
        active = error > tolerance
        if not active.any():
            break
        residual = torch.addcmul(residual, applied, step, value=-1) * active  # zero: what is solved stays as it is
    return found


@dataclass
class _Grid:
    """One grid of the hierarchy.

    Args:
        size: (height, width).
        inverse: What a residual is multiplied with in a Jacobi iteration, zero where there is no unknown.
        stencil: Entries of the system between each pixel and those around it, [N, 9, H, W]; at full size, where they
            are known, its diagonal alone, plus the third that `_sums` has too much.
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
        full = (_sums(torch.ones_like(hidden[0])) - 4) / 12
        size = (hidden.shape[-2], hidden.shape[-1])
        self.grids = [_Grid(size, hidden / full.where(full > 0, 1.0), full + 1 / 3)]
        while max(self.grids[-1].size) > COARSEST:
            self.grids.append(self._coarser())
        self.solution = self._inverted()

    def apply(self, values: Tensor, level: int = 0) -> Tensor:
        """Multiply the system of a grid with values that are zero where there is no unknown."""
        grid = self.grids[level]
        if level == 0:
            return torch.addcmul(_sums(values).mul_(-1 / 12), values, grid.stencil).mul_(self.hidden)
        height, width = grid.size
        around = F.pad(values, (1, 1, 1, 1))
        total = values * grid.stencil[:, 4:5]
        for place, (down, right) in enumerate(SHIFTS):
            if place != 4:
                there = around[..., 1 + down : 1 + down + height, 1 + right : 1 + right + width]
                total.addcmul_(grid.stencil[:, place : place + 1], there)
        return total

    def cycle(self, residual: Tensor, level: int = 0) -> Tensor:
        """Return roughly what corrects the values by their residual; a symmetric function of it."""
        if level == len(self.grids) - 1:
            return torch.matmul(residual.flatten(2), self.solution).view_as(residual)  # which is symmetric
        inverse = self.grids[level].inverse
        correction = residual * inverse
        rest = residual - self.apply(correction, level)
        coarser = self.cycle(_shortened(_shortened(rest, -1), -2), level + 1)
        correction += self._interpolated(coarser, level)
        return correction.addcmul_(residual - self.apply(correction, level), inverse)

    def _interpolated(self, values: Tensor, level: int) -> Tensor:
        """Interpolate from the next coarser grid to this one."""
        height, width = self.grids[level].size
        wide = _lengthened(_lengthened(values, -2, height), -1, width)
        return wide.mul_(self.hidden) if level == 0 else wide

    def _coarser(self) -> _Grid:
        """Form the next coarser system from its products with nine sets of pixels, no two of which are neighbours."""
        level = len(self.grids) - 1
        height, width = ((side + 1) // 2 for side in self.grids[-1].size)
        down, right = (torch.arange(side, device=self.hidden.device) for side in (height, width))
        sets = F.one_hot(down[:, None] % 3 * 3 + right % 3, 9).permute(2, 0, 1)[None].to(self.hidden)
        products = self.apply(self._interpolated(sets.expand(len(self.hidden), -1, -1, -1), level), level)
        products = _shortened(_shortened(products, -1), -2)
        entries = []
        for below, beside in SHIFTS:
            there = (down + below)[:, None], right + beside
            is_inside = (there[0] >= 0) & (there[0] < height) & (there[1] >= 0) & (there[1] < width)
            chosen = (there[0] % 3 * 3 + there[1] % 3).expand(len(products), 1, -1, -1)
            entries.append(products.gather(1, chosen) * is_inside)
        stencil = torch.cat(entries, dim=1)
        diagonal = stencil[:, 4:5]
        return _Grid((height, width), torch.where(diagonal > 0, DAMPING / diagonal, 0.0), stencil)

    def _inverted(self) -> Tensor:
        """Invert the coarsest system, [N, P, P]; what has no unknown, or no single solution, is made invertible."""
        height, width = self.grids[-1].size
        pixels = torch.eye(height * width).to(self.hidden).view(1, -1, height, width)
        products = self.apply(pixels.expand(len(self.hidden), -1, -1, -1), len(self.grids) - 1).flatten(2).double()
        diagonal = products.diagonal(dim1=1, dim2=2)
        added = torch.where(diagonal > 0, 1e-6 * diagonal, 1.0)
        inverse: Tensor = torch.linalg.inv(products + torch.diag_embed(added))
        return inverse.to(self.hidden)


def _products(first: Tensor, second: Tensor) -> Tensor:
    return (first * second).sum(dim=(1, 2, 3), keepdim=True)


def _sums(values: Tensor) -> Tensor:
    """Add up each pixel and its neighbours, four times, twice and once: 12 times the mean, and 4 times the pixel."""
    rows = values * 2
    rows[..., 1:] += values[..., :-1]
    rows[..., :-1] += values[..., 1:]
    sums = rows * 2
    sums[..., 1:, :] += rows[..., :-1, :]
    sums[..., :-1, :] += rows[..., 1:, :]
    return sums


def _shortened(values: Tensor, dim: int) -> Tensor:
    """Transpose of `_lengthened`: every second entry, and half of those between to both sides."""
    length = values.shape[dim]
    kept = values[_every(dim, 0)].clone()
    between = values[_every(dim, 1)] * 0.5
    odd, even = between.shape[dim], kept.shape[dim]
    kept.narrow(dim, 0, odd).add_(between)
    kept.narrow(dim, 1, even - 1).add_(between.narrow(dim, 0, even - 1))
    if length % 2 == 0:
        kept.narrow(dim, even - 1, 1).add_(between.narrow(dim, odd - 1, 1))
    return kept


def _lengthened(values: Tensor, dim: int, length: int) -> Tensor:
    """Interpolate linearly to `length` entries, of which every second one is given; the last is repeated."""
    shape = list(values.shape)
    shape[dim] = length
    out = values.new_empty(shape)
    out[_every(dim, 0)] = values
    even, odd = values.shape[dim], length // 2
    between = out[_every(dim, 1)]
    inner = even - 1
    torch.add(values.narrow(dim, 0, inner), values.narrow(dim, 1, inner), out=between.narrow(dim, 0, inner))
    between.narrow(dim, 0, inner).mul_(0.5)
    if odd > inner:
        between.narrow(dim, odd - 1, 1).copy_(values.narrow(dim, even - 1, 1))
    return out


def _every(dim: int, first: int) -> tuple[Any, ...]:
    """Index every second entry along the last axis, or the one before it."""
    return (..., slice(first, None, 2), slice(None)) if dim == -2 else (..., slice(first, None, 2))
