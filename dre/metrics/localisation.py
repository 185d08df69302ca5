"""Whether the saliency lies on the annotated object: where its peak is, and how much of it is inside."""

from collections.abc import Callable

import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from dre import renamed
from dre.checks import check_objects, check_saliency
from dre.metrics.base import ImageMean
from dre.metrics.distribution import relief


def pointing_game(saliency: Tensor, objects: Tensor) -> Tensor:
    """Whether the highest pixel lies on the object, per image: float64 [B], 0 or 1; NaN where there is no object.

    Where several pixels share the highest value, their share on the object: the chance that one of them drawn at
    random lies there, so a constant map has the object's share of the area.

    Args:
        saliency: [B, 1, H, W], any range.
        objects: [B, 1, H, W], 1 on the object, 0 elsewhere.

    Source: Zhang et al. 2016 (excitation backpropagation).
    """
    values, inside = saliency.flatten(1), objects.flatten(1).double()
    highest = (values == values.amax(dim=1, keepdim=True)).double()
    hits = (highest * inside).sum(dim=1) / highest.sum(dim=1)
    return hits.where(inside.any(dim=1), torch.nan)


def energy_inside(saliency: Tensor, objects: Tensor) -> Tensor:
    """Share of the positive saliency inside the object, per image: float64 [B] in [0, 1]; NaN where there is no object.

    Negative values count as none. A map without a positive value has 0, as if all of it lay outside.

    Args:
        saliency: [B, 1, H, W], any range.
        objects: [B, 1, H, W], 1 inside the object, 0 elsewhere.

    Source: Wang et al. 2020 (Score-CAM), the energy-based pointing game.
    """
    energy, inside = saliency.flatten(1).double().clamp_min(0), objects.flatten(1).double()
    total = energy.sum(dim=1)
    share = (energy * inside).sum(dim=1) / total.where(total > 0, 1.0)
    return share.where(inside.any(dim=1), torch.nan)


def widen(objects: Tensor, tolerance: float) -> Tensor:
    """Add to objects [B, 1, H, W] all pixels that are at most `tolerance` away from one of theirs."""
    if tolerance == 0:
        return objects
    near = [
        torch.from_numpy(distance_transform_edt(mask.cpu().numpy() == 0) <= tolerance) if mask.any() else mask.cpu() > 0
        for mask in objects[:, 0]
    ]
    return torch.stack(near)[:, None].to(objects)


class PointingGame(ImageMean):
    """Share of the images whose highest pixel lies on the object: in [0, 1].

    Images without an object (no box, or none left after the crop) are left out and counted in `dropped`. It depends on
    the order of the values alone; of tied peaks, the share on the object counts.

    Args:
        tolerance: How far from the object a peak may lie, in pixels; published figures often allow 15.

    Example:
        >>> import torch
        >>> metric = PointingGame()
        >>> metric.update(torch.tensor([[[[3.0, 2.0, 1.0, 0.0]]]]), torch.tensor([[[[1.0, 1.0, 0.0, 0.0]]]]))
        >>> metric.compute()
        tensor(1., dtype=torch.float64)
    """

    higher_is_better = True

    def __init__(self, tolerance: float = 0.0) -> None:
        super().__init__()
        if tolerance < 0:
            raise ValueError(f"`tolerance` must not be negative, got {tolerance}")
        self.tolerance = tolerance

    def update(self, saliency: Tensor, objects: Tensor) -> None:
        """Add a batch of maps and object masks, both [B, 1, H, W]."""
        check_saliency(saliency)
        check_objects(objects, like=saliency)
        hits = pointing_game(saliency, widen(objects, self.tolerance))
        self.accumulate(hits, keep=objects.flatten(1).any(dim=1))


class EnergyInside(ImageMean):
    """Mean over images of the share of the positive saliency inside the object: in [0, 1].

    Images without an object (no box, or none left after the crop) are left out and counted in `dropped`. Positive
    rescaling of a map changes nothing; another zero does.

    Example:
        >>> import torch
        >>> metric = EnergyInside()
        >>> metric.update(torch.ones(1, 1, 2, 2), torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]]))
        >>> metric.compute()
        tensor(0.2500, dtype=torch.float64)
    """

    higher_is_better = True

    def update(self, saliency: Tensor, objects: Tensor) -> None:
        """Add a batch of maps and object masks, both [B, 1, H, W]."""
        check_saliency(saliency)
        check_objects(objects, like=saliency)
        self.accumulate(energy_inside(saliency, objects), keep=objects.flatten(1).any(dim=1))


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


__getattr__ = renamed.getter(__name__)
