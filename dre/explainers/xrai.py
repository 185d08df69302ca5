"""XRAI: regions of an image, ranked by the density of another explainer's attribution."""

import math
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dre.checks import check_choice, check_count
from dre.explainers.base import Explainer, maps_below
from dre.explainers.paths.straight import IntegratedGradients
from dre.images.segments import Felzenszwalb, Regions, cut
from dre.models import Classifier

Mode = Literal["full", "fast"]
Values = npt.NDArray[np.float64]


def from_black_and_white(classifier: Classifier) -> Explainer:
    """Build integrated gradients averaged over a black and a white baseline, largest channel, as published for XRAI."""
    return IntegratedGradients(classifier, steps=100, baseline=["black", "white"], reduce="max")


def exactly_summable(values: Values) -> Values:
    """Round to a grid, 2e-11 of the largest magnitude for 224 x 224 values, on which sums have no rounding error.

    Then taking pixels away from a sum gives the bits that adding up the others gives, and two regions of which the same
    pixels are left are tied, as they should be.
    """
    largest = float(np.abs(values).max())
    if largest == 0:
        return values
    digits = 52 - math.frexp(largest)[1] - math.ceil(math.log2(values.size))
    rounded: Values = np.ldexp(np.rint(np.ldexp(values, digits)), -digits)
    return rounded


def rank_regions(
    regions: Regions, attribution: Values, *, mode: Mode = "full", min_pixels: int = 50, area: float = 1.0
) -> tuple[Values, list[int]]:
    """Add regions one after the other; each pixel gets the mean attribution of the pixels that were added with it.

    Areas and sums of what each region would still add are kept up to date: a pixel is taken away once, from the
    regions that hold it, where it is covered. Pixels that are never covered get their own mean.

    Args:
        regions: Of one image.
        attribution: [H, W].
        mode: `full` always adds the region whose uncovered pixels have the highest mean; `fast` sorts the whole
            regions by their means once.
        min_pixels: Regions that add less are left out.
        area: Share of the image that is covered before `full` stops.

    Returns:
        The map [H, W], and the numbers of the regions in the order in which they were added.

    Source: Kapishnikov et al. 2019, Algorithm 1 and its published code.
    """
    pieces, members = regions.pieces.ravel(), regions.members
    areas = np.bincount(pieces).astype(np.float64)
    masses = np.bincount(pieces, weights=exactly_summable(attribution).ravel())
    left: Values = (members @ areas).astype(np.float64)
    mass: Values = (members @ masses).astype(np.float64)
    is_open, covered = np.ones(len(members), dtype=bool), np.zeros(len(areas), dtype=bool)
    gains = np.zeros(len(areas))
    order: list[int] = []
    queue = iter(np.argsort(-mass / left, kind="stable").tolist())
    while areas @ covered <= area * len(pieces) or mode == "fast":
        is_open &= left >= min_pixels
        if not is_open.any():
            break
        best = _densest(mass, left, is_open) if mode == "full" else next(name for name in queue if is_open[name])
        new = (members[best] & ~covered).nonzero()[0]
        gains[new] = mass[best] / left[best]
        covered[new] = True
        left -= members[:, new] @ areas[new]
        mass -= members[:, new] @ masses[new]
        order.append(best)
    if not covered.all():
        gains[~covered] = masses[~covered].sum() / areas[~covered].sum()
    return gains[regions.pieces], order


def _densest(mass: Values, left: Values, is_open: npt.NDArray[np.bool_]) -> int:
    """Find the open region with the highest mean, the first of equals."""
    return int(np.where(is_open, mass / np.where(is_open, left, 1.0), -np.inf).argmax())


class XRAI(Explainer):
    """Rank regions by the attribution that each pixel of them adds; the cost is that of the base attribution.

    Regions are segments at several scales, grown by a few pixels; they overlap. The map is constant on what each region
    adds to those before it, and sums to what the base's map sums to. Signs are the base's: the published one takes the
    largest channel, which lifts most values above zero; with `reduce="sum"`, what speaks against the class is negative.

    Args:
        classifier: What is explained.
        attribution: Builds the explainer whose map is gathered in regions.
        mode: `full` weighs what each region would add at each step, `fast` weighs the whole regions once.
        area: Share of the image after which `full` stops; the rest gets its own mean.
        min_pixels: Regions that add fewer pixels are left out.
        scales: Of the segmentation; a larger one gives larger segments.
        sigma: Of the blur before it.
        min_size: Smallest segment, in pixels of the working size.
        size: Side in pixels of the square that images are resized to for it.
        dilation: By how many pixels each segment grows.

    Raises:
        ValueError: `area` is outside (0, 1], a scale is not positive, a number of pixels is too small, or `mode` is
            unknown.

    Source: Kapishnikov et al. 2019, with the values of its published code, which starts integrated gradients from
    the image's darkest and brightest value where this starts them from black and white.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from dre.explainers import InputXGradient
        >>> from dre.models import Classifier
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
        >>> classifier = Classifier.wrap(network, size=(8, 8))
        >>> images, targets = torch.rand(1, 3, 8, 8), torch.tensor([1])
        >>> XRAI(classifier, InputXGradient, size=32)(images, targets).shape
        torch.Size([1, 1, 8, 8])
    """

    def __init__(
        self,
        classifier: Classifier,
        attribution: Callable[[Classifier], Explainer] = from_black_and_white,
        *,
        mode: Mode = "full",
        area: float = 1.0,
        min_pixels: int = 50,
        scales: Sequence[float] = (50.0, 100.0, 150.0, 250.0, 500.0, 1200.0),
        sigma: float = 0.8,
        min_size: int = 150,
        size: int = 224,
        dilation: int = 5,
    ) -> None:
        check_choice("mode", mode, get_args(Mode))
        if not 0 < area <= 1:
            raise ValueError(f"`area` is a share of the image, in (0, 1], got {area}")
        check_count("min_pixels", min_pixels)
        base = attribution(classifier)
        super().__init__(classifier, score=base.score)
        self.attribution = base
        self.cost = base.cost
        self.mode: Mode = mode
        self.area, self.min_pixels = area, min_pixels
        self.cutter = Felzenszwalb(tuple(scales), sigma, min_size, size, dilation)

    def explain(self, images: Tensor, targets: Tensor) -> Tensor:
        """See `Explainer.forward`."""
        attributions = maps_below(self.attribution, images, targets, self.keys)[:, 0].double().cpu().numpy()
        maps = [self._gather(image, attribution) for image, attribution in zip(images, attributions, strict=True)]
        return torch.from_numpy(np.stack(maps))[:, None].to(images.device)

    def _gather(self, image: Tensor, attribution: Values) -> Values:
        if not np.isfinite(attribution).all():
            return np.full_like(attribution, np.nan)
        regions = cut(image, self.cutter)
        return rank_regions(regions, attribution, mode=self.mode, min_pixels=self.min_pixels, area=self.area)[0]
