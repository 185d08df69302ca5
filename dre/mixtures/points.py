"""From maps to weighted points: the unit grid, the counts of its pixels, and the pixels that count."""

import torch
from torch import Tensor

TIE = 1e-9
"""Lifts a share that rounding error has put just below a half; without it a last bit would move a pixel by one."""


def unit_grid(height: int, width: int, device: torch.device | None = None) -> Tensor:
    """Centres of the pixels in the unit square, float64 [H * W, 2] as (down, across), row by row."""
    down, across = ((torch.arange(side, dtype=torch.float64, device=device) + 0.5) / side for side in (height, width))
    return torch.cartesian_prod(down, across)


def quantise(maps: Tensor, bins: int) -> Tensor:
    """Say how often each pixel is duplicated: round(bins * value), halves upwards, int64 of the maps' shape.

    Args:
        maps: Values in [0, 1].
        bins: Duplicates of a pixel of value 1.

    Source: paper 000, the binning parameter b.
    """
    return (maps.double() * bins + (0.5 + TIE)).floor().long()


def fill_empty(counts: Tensor) -> Tensor:
    """Count every pixel once in the rows of [B, P] that count none: a map without relief says "anywhere"."""
    return counts.where(counts.any(dim=1, keepdim=True), 1)


def compact(points: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Drop the pixels that no map of the batch counts: points [B, Q, 2] in their order, counts [B, Q] padded with 0.

    Args:
        points: [P, 2], the same for all maps.
        counts: [B, P].
    """
    kept = counts > 0
    length = int(kept.sum(dim=1).max())
    order = (~kept).long().argsort(dim=1, stable=True)[:, :length]
    return points[order], counts.gather(1, order)
