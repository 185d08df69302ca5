"""Orders of the pixels of saliency maps, for masked copies that keep the highest ones."""

import hashlib

from torch import Tensor

from dre.engine.masking import View, places
from dre.images.blur import gaussian_blur
from dre.images.maps import min_max


def rank(saliency: Tensor) -> Tensor:
    """Return the place of each pixel in the descending order of its map, int64 [B, H*W], 0 for the highest.

    Ties go to the pixel that comes first in row-major order, so each place is taken exactly once.
    """
    return places(saliency.flatten(1).argsort(dim=1, descending=True, stable=True))


def smooth_ranking(saliency: Tensor, weight: float, sigma_share: float = 0.02) -> Tensor:
    """Scale each map to [0, 1] and add a little of its smoothed self, which removes speckles and breaks most ties.

    The paper gives neither weight nor width: both are our choice. The result ranks pixels alike for a map and its
    positive affine rescalings, but not for every increasing function of it.

    Args:
        saliency: [B, 1, H, W], any range.
        weight: Of the smoothed map; 0 returns `saliency` as it is.
        sigma_share: Standard deviation of the Gaussian as a share of the height.

    Source: Fu et al. 2021, implementation details of M_F: M + eps * G_sigma(M).
    """
    if weight == 0:
        return saliency
    scaled = min_max(saliency.double())  # rounded once, at the end: rounding in the blur must not order tied pixels
    return (scaled + weight * gaussian_blur(scaled, sigma_share * saliency.shape[-2])).float()


class MapOrders:
    """Smooth and rank the maps of a batch, each way once, and name what masked copies of them depend on.

    Args:
        saliency: [B, 1, H, W].
    """

    def __init__(self, saliency: Tensor) -> None:
        self.saliency = saliency
        self._ranked: dict[float, tuple[Tensor, Tensor]] = {}
        self._names: dict[tuple[float, bool], bytes] = {}

    def ranked(self, weight: float) -> tuple[Tensor, Tensor]:
        """Return the maps with so much of the smoothed ones, and the places of their pixels."""
        if weight not in self._ranked:
            smoothed = smooth_ranking(self.saliency, weight)
            self._ranked[weight] = (smoothed, rank(smoothed))
        return self._ranked[weight]

    def name(self, view: View) -> bytes:
        """Hash what a masked copy depends on: the places of the pixels, or the values; nothing for a shared one."""
        if not isinstance(view.order, float):
            return b""
        by_place = view.mixing == "ranked"
        if (view.order, by_place) not in self._names:
            values, order = self.ranked(view.order)
            content = (order.int() if by_place else values.float()).cpu().contiguous().numpy()
            self._names[view.order, by_place] = hashlib.sha256(content.data).digest()
        return self._names[view.order, by_place]
