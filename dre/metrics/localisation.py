"""Pointing games, the share of saliency in the background, and the contrast of saliency along the object's edge."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from dre import renamed
from dre.checks import check_objects, check_saliency
from dre.metrics.base import ImageMean
from dre.metrics.distribution import normalised_saliency


def pointing_game(saliency: Tensor, objects: Tensor) -> Tensor:
    """Return 1 where the highest pixel lies on the object, else 0, per image: float64 [B]; NaN without an object.

    Where several pixels share the highest value, the result is their share on the object: the chance that one of them,
    drawn at random, lies there. So a constant map has the object's share of the area.

    Args:
        saliency: [B, 1, H, W], any range.
        objects: [B, 1, H, W], 1 on the object, 0 elsewhere.

    Source: Zhang et al. 2016 (excitation backpropagation).

    Example:
        >>> import torch
        >>> pointing_game(torch.tensor([[[[3.0, 2.0, 1.0, 0.0]]]]), torch.tensor([[[[1.0, 1.0, 0.0, 0.0]]]]))
        tensor([1.], dtype=torch.float64)
    """
    values, inside = saliency.flatten(1), objects.flatten(1).double()
    highest = (values == values.amax(dim=1, keepdim=True)).double()
    hits = (highest * inside).sum(dim=1) / highest.sum(dim=1)
    return hits.where(inside.any(dim=1), torch.nan)


def energy_pointing_game(saliency: Tensor, objects: Tensor) -> Tensor:
    """Return the share of the positive saliency inside the object: float64 [B] in [0, 1]; NaN without an object.

    Negative values count as 0. A map without a positive value has 0, as if all of it lay outside.

    Args:
        saliency: [B, 1, H, W], any range.
        objects: [B, 1, H, W], 1 inside the object, 0 elsewhere.

    Source: Wang et al. 2020 (Score-CAM), the energy-based pointing game.

    Example:
        >>> import torch
        >>> energy_pointing_game(torch.tensor([[[[3.0, 1.0, -1.0, 0.0]]]]), torch.tensor([[[[1.0, 0.0, 1.0, 0.0]]]]))
        tensor([0.7500], dtype=torch.float64)
    """
    energy, inside = saliency.flatten(1).double().clamp_min(0), objects.flatten(1).double()
    total = energy.sum(dim=1)
    share = (energy * inside).sum(dim=1) / total.where(total > 0, 1.0)
    return share.where(inside.any(dim=1), torch.nan)


def widen(objects: Tensor, tolerance: float) -> Tensor:
    """Widen objects [B, 1, H, W] by all pixels that are at most `tolerance` pixels away from one of theirs."""
    if tolerance == 0:
        return objects
    near = [
        torch.from_numpy(distance_transform_edt(mask.cpu().numpy() == 0) <= tolerance) if mask.any() else mask.cpu() > 0
        for mask in objects[:, 0]
    ]
    return torch.stack(near)[:, None].to(objects)


class Localisation(ImageMean, ABC):
    """Compute the mean over images of one number for a map and the object in its image.

    Images without an object, or whose number is not defined for another reason (NaN), are left out and counted in
    `dropped`.
    """

    def update(self, saliency: Tensor, objects: Tensor) -> None:
        """Add a batch of maps and object masks, both [B, 1, H, W].

        Raises:
            ValueError: The maps are broken, or the masks have another shape or other values than 0 and 1.
        """
        check_saliency(saliency)
        check_objects(objects, like=saliency)
        values = self.measure(saliency, objects)
        self.accumulate(values, keep=~values.isnan())

    @abstractmethod
    def measure(self, saliency: Tensor, objects: Tensor) -> Tensor:
        """Return a number for each image, [B]; NaN without an object, and where it is not defined."""


class PointingGame(Localisation):
    """Compute the share of the images whose highest pixel lies on the object: in [0, 1], higher is better.

    Images without an object (no mask and no box, or none left after the crop) are left out and counted in `dropped`. It
    depends on the order of the values alone; of tied peaks, the share on the object counts.

    Args:
        tolerance: How far from the object a peak may lie, in pixels; published figures often allow 15.

    Raises:
        ValueError: `tolerance` is negative.

    Source: Zhang et al. 2016 (excitation backpropagation).

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

    def measure(self, saliency: Tensor, objects: Tensor) -> Tensor:
        """Return for each map whether its highest pixel lies on the widened object, [B]."""
        return pointing_game(saliency, widen(objects, self.tolerance))


class EnergyPointingGame(Localisation):
    """Compute the mean over images of the share of the positive saliency inside the object: in [0, 1].

    Higher is better.

    Images without an object (no mask and no box, or none left after the crop) are left out and counted in `dropped`.
    Positive rescaling of a map changes nothing; another zero does. Of maps without negative values it is the relevance
    mass accuracy of Arras et al. 2022.

    Source: Wang et al. 2020 (Score-CAM), the energy-based pointing game.

    Example:
        >>> import torch
        >>> metric = EnergyPointingGame()
        >>> metric.update(torch.ones(1, 1, 2, 2), torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]]))
        >>> metric.compute()
        tensor(0.2500, dtype=torch.float64)
    """

    higher_is_better = True

    def measure(self, saliency: Tensor, objects: Tensor) -> Tensor:
        """Return the share of each map, [B]."""
        return energy_pointing_game(saliency, objects)


Comparison = Callable[[Tensor, Tensor], Tensor]
"""From two batches of maps to one number for each image, [B]."""


def background_share(saliency: Tensor, objects: Tensor) -> Tensor:
    """Return the share of the normalised saliency outside the object: float64 [B] in [0, 1].

    NaN without an object or for a constant map. A random map has the background's share of the area in expectation.

    Args:
        saliency: [B, 1, H, W], any range; `dre.metrics.distribution.normalised_saliency` says how it is normalised.
        objects: [B, 1, H, W], 1 inside the object, 0 elsewhere.

    Source: our choice.

    Example:
        >>> import torch
        >>> background_share(torch.tensor([[[[4.0, 1.0, 0.0, 0.0]]]]), torch.tensor([[[[1.0, 0.0, 0.0, 0.0]]]]))
        tensor([0.2000], dtype=torch.float64)
    """
    normalised = normalised_saliency(saliency)
    return (1 - energy_pointing_game(normalised, objects)).where(normalised.flatten(1).any(dim=1), torch.nan)


class BackgroundShare(Localisation):
    """Compute the mean over images of the share of the normalised saliency outside the object: in [0, 1].

    Lower is better. It depends on the values and not on their order alone, as M_E does. Images without an object and
    constant maps are left out and counted in `dropped`.

    Source: our choice, for what Fu et al. 2021 (Section 4.4.1) call low but redundant scores on backgrounds.

    Example:
        >>> import torch
        >>> metric = BackgroundShare()
        >>> metric.update(torch.tensor([[[[4.0, 1.0, 0.0, 0.0]]]]), torch.tensor([[[[1.0, 0.0, 0.0, 0.0]]]]))
        >>> metric.compute()
        tensor(0.2000, dtype=torch.float64)
    """

    higher_is_better = False

    def measure(self, saliency: Tensor, objects: Tensor) -> Tensor:
        """Return the share of each map, [B]."""
        return background_share(saliency, objects)


EDGE_WIDTH = 1 / 16
"""Width of the bands on both sides of an edge, as a share of the shorter side of the image: 14 of 224 pixels."""


def edge_contrast(saliency: Tensor, objects: Tensor) -> Tensor:
    """Return the contrast of the normalised saliency along the object's edge: float64 [B] in [-1, 1].

    It is (a - b) / (a + b), a the mean in a band inside the edge, b outside: 1 where nothing lies outside, 0 where the
    edge is not seen. NaN without an object, for one that fills the image, and for a map without saliency at the edge.

    Args:
        saliency: [B, 1, H, W], any range; `dre.metrics.distribution.normalised_saliency` says how it is normalised.
        objects: [B, 1, H, W], 1 inside the object, 0 elsewhere.

    Source: our choice; the contrast is Michelson's.

    Example:
        >>> import torch
        >>> edge_contrast(torch.tensor([[[[9.0, 3.0, 1.0, 0.0]]]]), torch.tensor([[[[1.0, 1.0, 0.0, 0.0]]]]))
        tensor([0.5000], dtype=torch.float64)
    """
    width = max(1.0, EDGE_WIDTH * min(saliency.shape[-2:]))
    objects = (objects > 0).to(torch.float64)
    outer, inner = widen(objects, width) * (1 - objects), widen(1 - objects, width) * objects
    normalised = normalised_saliency(saliency)
    within, beyond = (
        (normalised * band).sum(dim=(1, 2, 3)) / band.sum(dim=(1, 2, 3)) for band in (inner, outer)
    )  # 0 / 0 without an edge
    return (within - beyond) / (within + beyond)


class EdgeContrast(Localisation):
    """Compute the mean over images of the contrast of the saliency along the object's edge: in [-1, 1].

    Higher is sharper. It reads two bands, a sixteenth of the shorter side wide, inside and outside the edge of the mask
    or box. Images without an object or an edge, and maps without saliency there, are left out and counted in `dropped`.

    Source: our choice, for what Fu et al. 2021 (Section 4.4.1) say of DRE+: less noise around the boundaries.

    Example:
        >>> import torch
        >>> metric = EdgeContrast()
        >>> metric.update(torch.tensor([[[[9.0, 3.0, 1.0, 0.0]]]]), torch.tensor([[[[1.0, 1.0, 0.0, 0.0]]]]))
        >>> metric.compute()
        tensor(0.5000, dtype=torch.float64)
    """

    higher_is_better = True

    def measure(self, saliency: Tensor, objects: Tensor) -> Tensor:
        """Return the contrast of each map, [B]."""
        return edge_contrast(saliency, objects)


def inside(compare: Comparison, saliency: Tensor, reference: Tensor, objects: Tensor) -> Tensor:
    """Compare two maps on the pixels of the object alone: float64 [B]; NaN without an object.

    Args:
        compare: A function that looks at pixels one by one, not at their neighbours, such as `spearman`.
        saliency: [B, 1, H, W].
        reference: [B, 1, H, W].
        objects: [B, 1, H, W], 1 inside the object, 0 elsewhere.

    Source: our choice.

    Example:
        >>> import torch
        >>> from dre.metrics import spearman
        >>> saliency, objects = torch.tensor([[[[1.0, 2.0, 9.0]]]]), torch.tensor([[[[1.0, 1.0, 0.0]]]])
        >>> inside(spearman, saliency, -saliency, objects)
        tensor([-1.], dtype=torch.float64)
    """
    values = torch.full((len(saliency),), torch.nan, dtype=torch.float64, device=saliency.device)
    for place, mask in enumerate(objects > 0):
        if mask.any():
            one, other = (maps[place][mask].view(1, 1, 1, -1) for maps in (saliency, reference))
            values[place] = compare(one, other)[0]
    return values


__getattr__ = renamed.getter(__name__)
