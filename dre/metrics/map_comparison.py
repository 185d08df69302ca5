"""The base of every metric that compares the map of an image with another map of it."""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from dre.checks import check_saliency
from dre.metrics.image_mean import ImageMean


class MapComparison(ImageMean, ABC):
    """Mean over images of one number for two maps of an image.

    Images for which that number is not defined (NaN, such as the correlation with a constant map) are left out and
    counted in `dropped`.
    """

    is_symmetric: ClassVar[bool] = True
    """Whether a map and its reference can change places."""

    def update(self, saliency: Tensor, reference: Tensor) -> None:
        """Add a batch of maps and what they are compared with, both [B, 1, H, W]."""
        check_pair(saliency, reference)
        values = self.compare(saliency, reference)
        self.accumulate(values, keep=~values.isnan())

    @abstractmethod
    def compare(self, saliency: Tensor, reference: Tensor) -> Tensor:
        """Compare two batches of checked maps, image by image: [B]."""


def check_pair(saliency: Tensor, reference: Tensor) -> None:
    """Refuse maps of which either is broken, or whose shapes differ."""
    check_saliency(saliency)
    if saliency.shape != reference.shape:
        raise ValueError(
            f"`reference` must have shape {list(saliency.shape)} to match `saliency`, got {list(reference.shape)}; "
            "compare maps of the same images, resized to one size"
        )
    check_saliency(reference)
