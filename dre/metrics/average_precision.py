"""M_E: how well saliency separates the annotated object from the rest."""

import torch
from torch import Tensor

from dre.checks import check_objects, check_saliency
from dre.metrics.base import ImageMean


def average_precision(saliency: Tensor, objects: Tensor) -> Tensor:
    """Average precision of saliency as a detector of object pixels, per image: float64 [B] in [0, 1].

    Equally salient pixels enter together, so the order of ties does not matter. NaN where there is no object.

    Args:
        saliency: [B, 1, H, W], any range.
        objects: [B, 1, H, W], 1 inside the object, 0 outside.

    Source: paper 003, M_E = sum_i P_i (R_i - R_(i-1)) over distinct saliency values.
    """
    values, order = saliency.flatten(1).sort(dim=1, descending=True)
    hits = objects.flatten(1).double().gather(1, order).cumsum(dim=1)
    places = torch.arange(1, hits.shape[1] + 1, dtype=torch.float64, device=hits.device)
    closes = torch.ones_like(values, dtype=torch.bool)  # where the last of equally salient pixels stands
    closes[:, :-1] = values[:, 1:] != values[:, :-1]
    before = torch.where(closes, hits, 0.0).cummax(dim=1).values.roll(1, dims=1)  # hits up to the preceding value
    before[:, 0] = 0
    gained = torch.where(closes, hits - before, 0.0)
    return (hits / places * gained).sum(dim=1) / hits[:, -1]


class Explainability(ImageMean):
    """Mean over images of the average precision of saliency against the object: in [0, 1].

    Images whose `objects` are all zero (no box, or none left after the crop) are left out and counted in `dropped`.

    Example:
        >>> import torch
        >>> metric = Explainability()
        >>> metric.update(torch.tensor([[[[3.0, 2.0, 1.0, 0.0]]]]), torch.tensor([[[[1.0, 0.0, 1.0, 0.0]]]]))
        >>> metric.compute()
        tensor(0.8333, dtype=torch.float64)
    """

    higher_is_better = True

    def update(self, saliency: Tensor, objects: Tensor) -> None:
        """Add a batch of maps and object masks, both [B, 1, H, W]."""
        check_saliency(saliency)
        check_objects(objects, like=saliency)
        self.accumulate(average_precision(saliency, objects), keep=objects.flatten(1).any(dim=1))
