"""How far a map moves when nothing should: the squared error between maps that are brought to one scale first."""

from typing import Literal

import torch
from torch import Tensor

from dre.checks import check_choice
from dre.metrics.map_comparison import MapComparison

Unit = Literal["sum", "magnitude"]
"""What a map is divided by: its signed sum, as paper 002 does it, or the sum of its magnitudes."""


ROUNDING = torch.finfo(torch.float32).eps
"""A signed sum that is smaller than this share of the magnitudes is that of the map's own rounding."""


def scaled_squared_error(saliency: Tensor, reference: Tensor, unit: Unit = "magnitude") -> Tensor:
    """Mean squared difference of two maps in units of their own sums, float64 [B]; 0 for equal maps.

    NaN where a map has nothing to be divided by: a sum of zero, up to rounding. The signed sum of a path attribution
    may be close to zero, and the error then says more about that sum than about the map.

    Args:
        saliency: [B, 1, H, W], any range.
        reference: [B, 1, H, W].
        unit: What each map is divided by.

    Source: paper 002, table 5; the division is that of its published code.
    """
    check_choice("unit", unit, ("sum", "magnitude"))
    one, other = (_in_units(maps.flatten(1).double(), unit) for maps in (saliency, reference))
    return (one - other).square().mean(dim=1)


def log_squared_error(saliency: Tensor, reference: Tensor, unit: Unit = "magnitude") -> Tensor:
    """- log10 of `scaled_squared_error`, float64 [B]; higher is steadier, infinite for equal maps.

    Args:
        saliency: [B, 1, H, W], any range.
        reference: [B, 1, H, W].
        unit: What each map is divided by.

    Source: paper 002, table 5; the base of the logarithm is our reading of its figures.
    """
    return -scaled_squared_error(saliency, reference, unit).log10()


def _in_units(values: Tensor, unit: Unit) -> Tensor:
    values = values / values.abs().amax(dim=1, keepdim=True)  # NaN for an empty map; tiny values would underflow
    magnitude = values.abs().sum(dim=1, keepdim=True)
    total = values.sum(dim=1, keepdim=True) if unit == "sum" else magnitude
    return values / total.where(total.abs() > ROUNDING * magnitude, torch.nan)


class LogSquaredError(MapComparison):
    """Mean over images of - log10 of the squared difference of two maps, each in units of its own sum: no bounds.

    Images without a unit are left out and counted in `dropped`, and so are images whose maps are equal.

    Args:
        unit: What each map is divided by: its signed `sum` (paper 002) or the sum of its `magnitude`.

    Example:
        >>> import torch
        >>> metric = LogSquaredError()
        >>> metric.update(torch.tensor([[[[0.5, 0.5]]]]), torch.tensor([[[[3.0, 2.0]]]]))
        >>> metric.compute().round(decimals=6)
        tensor(2., dtype=torch.float64)
    """

    higher_is_better = True
    is_share = False

    def __init__(self, unit: Unit = "magnitude") -> None:
        super().__init__()
        check_choice("unit", unit, ("sum", "magnitude"))
        self.unit = unit

    def compare(self, saliency: Tensor, reference: Tensor) -> Tensor:
        """Compare in units of the maps' own sums."""
        error = log_squared_error(saliency, reference, self.unit)
        return error.where(error.isfinite(), torch.nan)
