"""A picture of the maps that an evaluation made: photographs across, explainers down."""

import math
from typing import Any

import torch

from callbacks.first_photographs import FirstPhotographs
from dre.reporting.overlay import coloured, for_display
from dre.reporting.panel import Photograph


class SaliencyPanel(FirstPhotographs):
    """Draw the first evaluated photographs and their maps into `gallery.png`, and log it as `test/gallery`.

    Maps are scaled one by one (`dre.reporting.overlay.for_display`) and laid over the grey photograph; the caption
    credits the photographers when the data names them.

    Args:
        images: Photographs to draw.
        explainers: Rows to draw, in this order; all that are evaluated when not given.
        values: Metric whose value, scaled between the worst and the best explainer of the image, is a coloured square
            on each map, from blue (0) to yellow (1); list the panel after the metrics.
        colours: A colour map of matplotlib (`gray`, `inferno`, `coolwarm`, `Reds`, ...) in which maps are drawn alone;
            by default they lie over the photograph.

    Source: figures 7 to 9 of paper 003 have such squares of M_F, figures 13 to 23 of paper 004 such colours.
    """

    def __init__(
        self,
        images: int = 8,
        explainers: list[str] | None = None,
        values: str | None = None,
        colours: str | None = None,
    ) -> None:
        super().__init__(images, explainers)
        if colours is not None:
            coloured(torch.zeros(1, 1), colours)  # refuses an unknown name now
        self.values, self.colours = values, colours

    def titles(self) -> list[str]:
        """See `FirstPhotographs`."""
        return ["gallery"]

    def columns(self, outputs: Any, names: list[str], rows: list[int]) -> dict[str, list[Photograph]]:
        """See `FirstPhotographs`."""
        found = []
        for place in rows:
            maps = {name: for_display(outputs["saliency"][name][place : place + 1])[0, 0].cpu() for name in names}
            if self.colours is not None:
                maps = {name: coloured(one, self.colours) for name, one in maps.items()}
            values = self._scaled(outputs, place) if self.values is not None else {}
            found.append(Photograph(outputs["key"][place], outputs["images"][place].cpu().clone(), maps, values))
        return {"gallery": found}

    def _scaled(self, outputs: Any, place: int) -> dict[str, float]:
        """Scale the values of an image's maps to [0, 1]; none where they all tie."""
        if "values" not in outputs:
            raise ValueError("the step has no values to draw; list SaliencyPanel after ExplanationMetrics")
        known = {name: found for name, found in outputs["values"].items() if self.values in found}
        if not known:
            raise ValueError(f"`values` of SaliencyPanel names {self.values!r}, which is not computed")
        values = {name: float(found[self.values][place]) for name, found in known.items()}
        values = {name: value for name, value in values.items() if math.isfinite(value)}
        low, high = min(values.values(), default=0.0), max(values.values(), default=0.0)
        return {name: (value - low) / (high - low) for name, value in values.items()} if high > low else {}
