"""What of a map belongs to the object and what to the rest of the image, when that rest is replaced."""

from collections.abc import Callable

import torch
from torch import Tensor

from dre.metrics.localisation import energy_inside
from dre.metrics.relief import relief

Comparison = Callable[[Tensor, Tensor], Tensor]
"""From two batches of maps to one number for each image, [B]."""


def background_share(saliency: Tensor, objects: Tensor) -> Tensor:
    """Share of the map's relief outside the object, float64 [B] in [0, 1]; NaN without an object or for a constant map.

    A random map has the share of the area in expectation.

    Args:
        saliency: [B, 1, H, W], any range; the relief takes magnitudes and the smallest of them for nothing.
        objects: [B, 1, H, W], 1 inside the object, 0 elsewhere.
    """
    heights = relief(saliency)
    return (1 - energy_inside(heights, objects)).where(heights.flatten(1).any(dim=1), torch.nan)


def inside(compare: Comparison, saliency: Tensor, reference: Tensor, objects: Tensor) -> Tensor:
    """Compare two maps on the pixels of the object alone, float64 [B]; NaN without an object.

    Args:
        compare: Looks at pixels one by one, not at their neighbours, such as `spearman`.
        saliency: [B, 1, H, W].
        reference: [B, 1, H, W].
        objects: [B, 1, H, W], 1 inside the object, 0 elsewhere.
    """
    values = torch.full((len(saliency),), torch.nan, dtype=torch.float64, device=saliency.device)
    for place, mask in enumerate(objects > 0):
        if mask.any():
            one, other = (maps[place][mask].view(1, 1, 1, -1) for maps in (saliency, reference))
            values[place] = compare(one, other)[0]
    return values
