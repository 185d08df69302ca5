"""Relevance rank accuracy: share of the highest pixels, as many as the object has, that lie on the object."""

import torch
from torch import Tensor

from dre.metrics.localisation import Localisation


def relevance_rank_accuracy(saliency: Tensor, objects: Tensor) -> Tensor:
    """Return the share of the K highest pixels on the object, which has K pixels: float64 [B] in [0, 1].

    NaN without an object. Pixels that share the K-th highest value count by their share on the object: the expected
    value where ties are broken at random. So a constant map has the object's share of the area.

    Args:
        saliency: [B, 1, H, W], any range; the order alone is read.
        objects: [B, 1, H, W], 1 on the object, 0 elsewhere.

    NaN for an image without an object, and for a map that is not finite.

    Source: Arras et al. 2022 (CLEVR-XAI), relevance rank accuracy; the ties are our choice.

    Example:
        >>> import torch
        >>> relevance_rank_accuracy(torch.tensor([[[[3.0, 2.0, 1.0, 0.0]]]]), torch.tensor([[[[1.0, 0.0, 1.0, 0.0]]]]))
        tensor([0.5000], dtype=torch.float64)
    """
    values, inside = saliency.flatten(1), objects.flatten(1).double()
    size = inside.sum(dim=1)
    last = (size.long() - 1).clamp_min(0)[:, None]
    threshold = values.sort(dim=1, descending=True).values.gather(1, last)
    above, tied = (values > threshold).double(), (values == threshold).double()
    left = size - above.sum(dim=1)  # places that the tied pixels share
    hits = (above * inside).sum(dim=1) + left * (tied * inside).sum(dim=1) / tied.sum(dim=1)
    return hits / size.where((size > 0) & values.isfinite().all(dim=1), torch.nan)


class RelevanceRankAccuracy(Localisation):
    """Compute the mean over images of the share of the K highest pixels on the object of K pixels: in [0, 1].

    Higher is better. Images without an object (no mask and no box, or none left after the crop) are left out and
    counted in `dropped`. It depends on the order of the values alone; tied pixels count by their share on the object.

    Source: Arras et al. 2022 (CLEVR-XAI).

    Example:
        >>> import torch
        >>> metric = RelevanceRankAccuracy()
        >>> metric.update(torch.ones(1, 1, 2, 2), torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]]))
        >>> metric.compute()
        tensor(0.2500, dtype=torch.float64)
    """

    higher_is_better = True

    def measure(self, saliency: Tensor, objects: Tensor) -> Tensor:
        """Return the share of each map, [B]."""
        return relevance_rank_accuracy(saliency, objects)
