"""Interpolation of performance information curves on a grid, and their median or mean over images with a band."""

import math

import torch
from torch import Tensor

from dre.statistics.curves import NORMAL_QUANTILE

COLUMNS_AT_ONCE = 32
"""Grid points that are sorted together: bounds the memory beside the curves."""


def interpolate_curves(x: Tensor, y: Tensor, points: int) -> Tensor:
    """Interpolate curves at 0, 1 / points, ..., 1, linearly between their points: float64 [B, points + 1].

    Where several points share an x, the last of them counts. The end is 1.

    Args:
        x: [B, K], in any order; no grid point before the first or behind the last.
        y: [B, K].
        points: Of the grid.

    Source: the `saliency` package, whose interpolation follows numpy's.
    """
    x, order = x.double().sort(dim=1, stable=True)
    y = y.double().gather(1, order)
    grid = (torch.arange(points, dtype=torch.float64, device=x.device) / points).expand(len(x), -1).contiguous()
    left = (torch.searchsorted(x.contiguous(), grid, right=True) - 1).clamp(0, x.shape[1] - 2)
    width = x.gather(1, left + 1) - x.gather(1, left)
    share = (grid - x.gather(1, left)) / width.where(width > 0, 1.0)
    curves = torch.lerp(y.gather(1, left), y.gather(1, left + 1), share)
    return torch.cat([curves, torch.ones_like(curves[:, :1])], dim=1)


def information_curve(scores: Tensor, amounts: Tensor, points: int, relative: bool = True) -> Tensor:
    """Return each image's score as a function of information: float64 [B, points + 1], ascending, in [0, 1].

    The score is scaled to 0 where the curve starts and to 1 for the whole image, clipped, and replaced by its running
    maximum. NaN where it is not higher for the whole image, or information is not.

    Args:
        scores: [B, R] from nothing to everything.
        amounts: Information [B, R] of the same versions.
        points: Of the grid of information.
        relative: Scale information likewise; otherwise it must lie in [0, 1].

    Source: Kapishnikov et al. 2019; clipping, running maximum and the added corners as in the `saliency` package.

    Example:
        >>> import torch
        >>> information_curve(torch.tensor([[0.0, 0.5, 1.0]]), torch.tensor([[10.0, 15.0, 20.0]]), points=4)
        tensor([[0.0000, 0.2500, 0.5000, 0.7500, 1.0000]], dtype=torch.float64)
    """
    y = _scaled(scores.double()).cummax(dim=1).values
    x = _scaled(amounts.double()) if relative else amounts.double()
    corners = torch.tensor([[0.0, 1.0]], dtype=torch.float64, device=x.device).expand(len(x), -1)
    undefined = y.isnan().any(dim=1) | x.isnan().any(dim=1)
    x, y = (torch.cat([values.nan_to_num(0.0), corners], dim=1) for values in (x, y))
    return interpolate_curves(x, y, points).masked_fill(undefined[:, None], torch.nan)


def _scaled(values: Tensor) -> Tensor:
    """Scale rows to 0 at their first and 1 at their last entry and clip them; NaN where the last is not higher."""
    first, last = values[:, :1], values[:, -1:]
    return ((values - first) / (last - first).where(last > first, torch.nan)).clamp(0, 1)


def area_under_curves(curves: Tensor) -> Tensor:
    """Return the trapezoid area under curves [..., points + 1] over [0, 1]: float64 [...]."""
    return torch.trapezoid(curves.double(), dim=-1) / (curves.shape[-1] - 1)


def in_order(rows: Tensor, places: list[int]) -> Tensor:
    """Return the values at these places of the ascending order over the first axis: float64 [places, columns]."""
    parts = torch.split(rows, COLUMNS_AT_ONCE, dim=1)
    return torch.cat([part.sort(dim=0).values[places].double() for part in parts], dim=1)


def median_band(curves: Tensor) -> Tensor:
    """Return the order statistics that enclose the median with 95 %, by the normal approximation: [2, columns]."""
    half, count = NORMAL_QUANTILE * math.sqrt(len(curves)) / 2, len(curves)
    return in_order(curves, [max(0, math.floor(count / 2 - half)), min(count - 1, math.ceil(count / 2 + half))])


def mean_band(curves: Tensor) -> Tensor:
    """Return the mean minus and plus 1.96 standard errors: [2, columns]."""
    spread = curves.double().std(dim=0) if len(curves) > 1 else torch.zeros_like(curves[0]).double()
    margin = NORMAL_QUANTILE * spread / math.sqrt(len(curves))
    return curves.mean(dim=0, dtype=torch.float64) + torch.stack([-margin, margin])
