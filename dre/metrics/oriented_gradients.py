"""HOG correlation: Pearson's correlation of the histograms of oriented gradients of two saliency maps."""

import numpy as np
import torch
from torch import Tensor

from dre.images.maps import min_max
from dre.metrics.map_comparison import MapComparison
from dre.metrics.similarity import pearson

CELL = 16
"""Side of a cell in pixels; on maps that are too small for a block of them, a third of the shorter side."""

BLOCK = 3
"""Cells along a block, within which histograms are normalised."""

ORIENTATIONS = 9


def gradient_correlation(saliency: Tensor, reference: Tensor) -> Tensor:
    """Return Pearson's correlation of the histograms of oriented gradients of two maps: float64 [B] in [-1, 1].

    Both maps are scaled to [0, 1] first. NaN where either map is constant. Computed on the CPU, a map at a time.

    Args:
        saliency: [B, 1, H, W], any range, signs kept.
        reference: [B, 1, H, W].

    Source: Adebayo et al. 2018, who compare maps of randomised networks with it; cells of 16 pixels and blocks of
    3 x 3 cells are the usual choice for images of 224 pixels.

    Example:
        >>> import torch
        >>> stripes = torch.arange(12).remainder(4).float().expand(1, 1, 12, 12)
        >>> gradient_correlation(stripes, 3 * stripes).round(decimals=6)
        tensor([1.], dtype=torch.float64)
    """
    one, other = (_histograms(maps) for maps in (saliency, reference))
    return pearson(one, other).to(saliency.device)


def _histograms(maps: Tensor) -> Tensor:
    """Return the histograms of oriented gradients of maps [B, 1, H, W]: float64 [B, D]."""
    from skimage.feature import hog

    height, width = maps.shape[-2:]
    cell = max(1, min(CELL, height // BLOCK, width // BLOCK))
    block = min(BLOCK, height // cell), min(BLOCK, width // cell)
    found = [
        hog(pixels, orientations=ORIENTATIONS, pixels_per_cell=(cell, cell), cells_per_block=block)
        for pixels in min_max(maps.double())[:, 0].cpu().numpy()
    ]
    return torch.from_numpy(np.stack(found))


class GradientCorrelation(MapComparison):
    """Compute the mean over images of the correlation of two maps' histograms of oriented gradients: in [-1, 1].

    Images with a constant map are left out and counted in `dropped`.

    Source: Adebayo et al. 2018.

    Example:
        >>> import torch
        >>> metric = GradientCorrelation()
        >>> stripes = torch.arange(12).remainder(4).float().expand(1, 1, 12, 12)
        >>> metric.update(stripes, 3 * stripes)
        >>> metric.compute().round(decimals=6)
        tensor(1., dtype=torch.float64)
    """

    higher_is_better = None

    def compare(self, saliency: Tensor, reference: Tensor) -> Tensor:
        """Return the correlation of the histograms, [B]."""
        return gradient_correlation(saliency, reference)
