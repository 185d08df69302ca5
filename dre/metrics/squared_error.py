"""Log squared error: - log10 of the squared difference of two saliency maps, each divided by its own sum."""

from typing import Literal

import torch
from torch import Tensor

from dre.checks import check_choice
from dre.metrics.map_comparison import MapComparison

Unit = Literal["sum", "magnitude"]
"""What a map is divided by: its signed sum, as in Singhi and Kumari 2024, or the sum of its magnitudes."""

ROUNDING = torch.finfo(torch.float32).eps
"""A signed sum below this share of the magnitudes is rounding error."""


def scaled_squared_error(saliency: Tensor, reference: Tensor, unit: Unit = "magnitude") -> Tensor:
    """Return the mean squared difference of two maps, each divided by its own sum: float64 [B], 0 for equal maps.

    NaN where a sum is zero, up to rounding. The signed sum of a path attribution
    may be close to zero, and the error then says more about that sum than about the map.

    Args:
        saliency: [B, 1, H, W], any range.
        reference: [B, 1, H, W].
        unit: What each map is divided by.

    Raises:
        ValueError: `unit` is neither `sum` nor `magnitude`.

    Source: Singhi and Kumari 2024, Table 5; the division is that of their published code.

    Example:
        >>> import torch
        >>> scaled_squared_error(torch.tensor([[[[0.5, 0.5]]]]), torch.tensor([[[[3.0, 2.0]]]]))
        tensor([0.0100], dtype=torch.float64)
    """
    check_choice("unit", unit, ("sum", "magnitude"))
    one, other = (_in_units(maps.flatten(1).double(), unit) for maps in (saliency, reference))
    return (one - other).square().mean(dim=1)


def log_squared_error(saliency: Tensor, reference: Tensor, unit: Unit = "magnitude") -> Tensor:
    """Return - log10 of `scaled_squared_error`: float64 [B]; higher is steadier, infinite for equal maps.

    Args:
        saliency: [B, 1, H, W], any range.
        reference: [B, 1, H, W].
        unit: What each map is divided by.

    Raises:
        ValueError: `unit` is neither `sum` nor `magnitude`.

    Source: Singhi and Kumari 2024, Table 5; the base of the logarithm is our reading of their figures.

    Example:
        >>> import torch
        >>> log_squared_error(torch.tensor([[[[0.5, 0.5]]]]), torch.tensor([[[[3.0, 2.0]]]])).round(decimals=6)
        tensor([2.], dtype=torch.float64)
    """
    return -scaled_squared_error(saliency, reference, unit).log10()


def _in_units(values: Tensor, unit: Unit) -> Tensor:
    values = values / values.abs().amax(dim=1, keepdim=True)  # NaN for an empty map; tiny values would underflow
    magnitude = values.abs().sum(dim=1, keepdim=True)
    total = values.sum(dim=1, keepdim=True) if unit == "sum" else magnitude
    return values / total.where(total.abs() > ROUNDING * magnitude, torch.nan)


class LogSquaredError(MapComparison):
    """Compute the mean over images of - log10 of the squared difference of two maps, each divided by its own sum.

    No bounds; higher is steadier. Images of which a sum is zero, and images whose maps are equal, are left out and
    counted in `dropped`.

    Args:
        unit: What each map is divided by: its signed `sum` (Singhi and Kumari 2024) or the sum of its `magnitude`.

    Raises:
        ValueError: `unit` is neither `sum` nor `magnitude`.

    Source: Singhi and Kumari 2024, Table 5.

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
        """Return - log10 of the scaled squared error, [B]; NaN where it is infinite."""
        error = log_squared_error(saliency, reference, self.unit)
        return error.where(error.isfinite(), torch.nan)
