"""What an explainer would show: the best-ranked pixels of a few photographs over their blur, as a picture."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from callbacks.first_photographs import FirstPhotographs
from dre.imaging import blend, gaussian_blur
from dre.reporting.panel import Photograph


class SalientPixels(FirstPhotographs):
    """Draw `salient_PERCENT.png` for each share: photographs across, and below them what each explainer keeps.

    Kept are as many of the highest-ranked pixels as the share says; of equal values the first. The rest is blurred. W&B
    gets them as `test/salient_PERCENT`.

    Args:
        shares: Of the pixels, in (0, 1].
        images: Photographs to draw: the first that are evaluated.
        explainers: Rows to draw; all that are evaluated when not given.
        sigma: Of the blur in pixels.

    Source: paper 004, figures 1, 4 and 9.
    """

    def __init__(
        self,
        shares: Sequence[float] = (0.05, 0.1),
        images: int = 8,
        explainers: list[str] | None = None,
        sigma: float = 10.0,
    ) -> None:
        if not shares or any(not 0 < share <= 1 for share in shares):
            raise ValueError(f"`shares` must lie above 0 and not above 1, got {list(shares)}")
        super().__init__(images, explainers)
        self.shares, self.sigma = tuple(shares), sigma

    def titles(self) -> list[str]:
        """See `FirstPhotographs`."""
        return [f"salient_{100 * share:g}" for share in self.shares]

    def columns(self, outputs: Any, names: list[str], rows: list[int]) -> dict[str, list[Photograph]]:
        """See `FirstPhotographs`."""
        images = outputs["images"][rows].cpu()
        blurred = gaussian_blur(images, self.sigma)
        saliency = {name: outputs["saliency"][name][rows].cpu() for name in names}
        found: dict[str, list[Photograph]] = {}
        for title, share in zip(self.titles(), self.shares, strict=True):
            shown = {name: blend(images, best_pixels(one, share), blurred) for name, one in saliency.items()}
            pictures = [
                {name: one[place].expand(3, -1, -1).clone() for name, one in shown.items()}
                for place in range(len(rows))
            ]
            found[title] = [
                Photograph(outputs["key"][row], images[place].clone(), pictures[place])
                for place, row in enumerate(rows)
            ]
        return found


def best_pixels(saliency: Tensor, share: float) -> Tensor:
    """Mask of the highest-ranked share of each map's pixels, [B, 1, H, W]: at least one; the first of equal ones."""
    values = saliency.flatten(1)
    count = max(1, round(share * values.shape[1]))
    order = values.argsort(dim=1, descending=True, stable=True)[:, :count]
    return torch.zeros_like(values).scatter_(1, order, 1.0).view_as(saliency)
