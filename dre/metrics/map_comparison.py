"""Comparisons of maps: base class of metrics that say how alike two maps of an image are."""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from dre.checks import check_saliency
from dre.metrics.base import ImageMean
from dre.metrics.words import metric_name


class MapComparison(ImageMean, ABC):
    """Compute the mean over images of one number for two maps of an image.

    Images for which that number is not defined (NaN, such as the correlation with a constant map) are left out and
    counted in `dropped`.
    """

    is_symmetric: ClassVar[bool] = True
    """True where a map and its reference can change places."""

    @classmethod
    def name_in_runs(cls) -> str:
        """Return the name in run files and results, the words of the class: `EarthMover` is `earth_mover`."""
        return metric_name(cls)

    def update(self, saliency: Tensor, reference: Tensor) -> None:
        """Add a batch of maps and what they are compared with, both [B, 1, H, W].

        Raises:
            ValueError: Maps are broken, or their shapes differ.
        """
        check_pair(saliency, reference)
        values = self.compare(saliency, reference)
        self.accumulate(values, keep=~values.isnan())

    @abstractmethod
    def compare(self, saliency: Tensor, reference: Tensor) -> Tensor:
        """Return a number for each pair of maps, [B]; NaN where it is not defined."""


def check_pair(saliency: Tensor, reference: Tensor) -> None:
    """Check two batches of maps that are to be compared.

    Raises:
        ValueError: One has NaN or infinity in it or is not [B, 1, H, W], or the shapes differ.
    """
    check_saliency(saliency)
    if saliency.shape != reference.shape:
        raise ValueError(
            f"`reference` must have shape {list(saliency.shape)} to match `saliency`, got {list(reference.shape)}; "
            "compare maps of the same images, resized to one size"
        )
    check_saliency(reference)
