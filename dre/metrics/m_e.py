"""M_E: average precision of saliency as a detector of the pixels of the annotated object, a mask or a box."""

import torch
from torch import Tensor

from dre.metrics.localisation import Localisation


def average_precision(saliency: Tensor, objects: Tensor) -> Tensor:
    """Return the average precision of saliency as a detector of the object's pixels: float64 [B] in [0, 1].

    Equally salient pixels enter together, so the order of ties does not matter. NaN where there is no object. A
    constant map has the object's share of the area, 1 is a map that ranks every pixel of the object above all others.

    Args:
        saliency: [B, 1, H, W], any range.
        objects: [B, 1, H, W], 1 inside the object, 0 outside.

    Source: Fu et al. 2021, M_E = sum_i P_i (R_i - R_(i-1)) over distinct saliency values; scikit-learn's
    `average_precision_score`.

    Example:
        >>> import torch
        >>> average_precision(torch.tensor([[[[3.0, 2.0, 1.0, 0.0]]]]), torch.tensor([[[[1.0, 1.0, 0.0, 0.0]]]]))
        tensor([1.], dtype=torch.float64)
    """
    values, order = saliency.flatten(1).sort(dim=1, descending=True)
    hits = objects.flatten(1).double().gather(1, order).cumsum(dim=1)
    ranks = torch.arange(1, hits.shape[1] + 1, dtype=torch.float64, device=hits.device)
    is_last = torch.ones_like(values, dtype=torch.bool)  # of the pixels that share a value
    is_last[:, :-1] = values[:, 1:] != values[:, :-1]
    before = torch.where(is_last, hits, 0.0).cummax(dim=1).values.roll(1, dims=1)  # hits up to the preceding value
    before[:, 0] = 0
    gained = torch.where(is_last, hits - before, 0.0)
    return (hits / ranks * gained).sum(dim=1) / hits[:, -1]


class Explainability(Localisation):
    """Compute M_E, the mean over images of the average precision of saliency on the object: in [0, 1].

    Higher is better. Images whose `objects` are all zero (no mask and no box, or none left after the crop) are left out
    and counted in `dropped`.

    Source: Fu et al. 2021, who call it explainability; the usual name is average precision.

    Example:
        >>> import torch
        >>> metric = Explainability()
        >>> metric.update(torch.tensor([[[[3.0, 2.0, 1.0, 0.0]]]]), torch.tensor([[[[1.0, 0.0, 1.0, 0.0]]]]))
        >>> metric.compute()
        tensor(0.8333, dtype=torch.float64)
    """

    higher_is_better = True

    def measure(self, saliency: Tensor, objects: Tensor) -> Tensor:
        """Return the average precision of each map, [B]."""
        return average_precision(saliency, objects)
