"""How a saliency map becomes a distribution over the image: what its relief is, decided once for every distance."""

from typing import Literal, get_args

from torch import Tensor

from dre.imaging import min_max

Sign = Literal["magnitude", "positive", "shift"]
"""What a negative value counts: as much as a positive one, nothing, or less than zero does."""


def relief(saliency: Tensor, sign: Sign = "magnitude") -> Tensor:
    """Non-negative map, scaled to [0, 1] by its own extremes, float64 [B, 1, H, W]; all zero for a constant map.

    Args:
        saliency: [B, 1, H, W], any range.
        sign: `magnitude` takes absolute values, `positive` sets negative ones to zero, `shift` keeps the order of all
            values and lets the smallest count nothing. They agree where no value is negative. A signed map that is
            shifted has its zero, which is most of a path attribution, somewhere in the middle of the range.
    """
    values = saliency.double()
    match sign:
        case "magnitude":
            return min_max(values.abs())
        case "positive":
            return min_max(values.clamp(min=0))
        case "shift":
            return min_max(values)
    raise ValueError(f"unknown sign {sign!r}; choose {', '.join(get_args(Sign))}")


def distribution(saliency: Tensor, sign: Sign = "magnitude") -> Tensor:
    """Give the relief as shares of its sum, float64 [B, H * W]; a constant map is spread evenly."""
    heights = relief(saliency, sign).flatten(1)
    heights = heights.where(heights.any(dim=1, keepdim=True), 1.0)
    return heights / heights.sum(dim=1, keepdim=True)
