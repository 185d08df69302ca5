"""How many steps does a path need? Its maps and their quality against the number of gradients."""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Literal, cast

import pandas as pd
import pytorch_lightning as pl
from torch import Tensor

from callbacks.chosen import StudyImage
from callbacks.study import Row, Studied, Study, compared, explain
from dre.checks import check_choice
from dre.metrics import Faithfulness, Insertion, spearman
from dre.metrics.image_mean import ImageMean

MetricName = Literal["faithfulness", "insertion"]

METRICS: dict[MetricName, Callable[[], ImageMean]] = {
    "faithfulness": Faithfulness,
    "insertion": partial(Insertion, "idgi"),
}
"""What a map's quality may be measured by; insertion as paper 002 does it."""


class StepStudy(Study):
    """Build path explainers with different numbers of steps and follow a metric, and the map itself.

    `steps_METRIC` is the metric's value, `steps_spearman` the rank correlation with the map of the most steps. Logged
    is the value at the most steps, and as `..._gained` its difference from the fewest.

    Args:
        images: Images to study.
        explainers: Evaluated path explainers to study; all of them when not given.
        steps: Ascending numbers of gradient evaluations.
        metric: M_F, or `insertion` with paper 002's settings.

    Source: paper 002, section 4.5.1, table 4 and figure 3.
    """

    name = "step_study"

    def __init__(
        self,
        images: int = 16,
        explainers: list[str] | None = None,
        steps: list[int] | None = None,
        metric: MetricName = "faithfulness",
    ) -> None:
        super().__init__(images, explainers)
        check_choice("metric", metric, tuple(METRICS))
        self.steps = steps if steps is not None else [8, 16, 32, 64, 128]
        if len(self.steps) < 2 or self.steps[0] < 2 or self.steps != sorted(set(self.steps)):
            raise ValueError(f"`steps` must be at least two ascending numbers from 2 on, got {self.steps}")
        self.metric = metric

    def names(self, studied: Studied) -> list[str]:
        """Name the explainers whose steps can be chosen."""
        return self.explainers if self.explainers is not None else studied.variants.path_explainers()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse explainers without steps, and steps that an explainer refuses, before anything is explained."""
        super().setup(trainer, pl_module, stage)
        if stage != "test":
            return
        variants = cast(Studied, pl_module).variants
        known = variants.path_explainers()
        for name in self.explainers or []:
            if name not in known:
                raise ValueError(f"{name!r} walks no path in steps; those that do are {', '.join(known) or 'none'}")
        for steps in self.steps:
            variants.explainers(self.names(cast(Studied, pl_module)), steps=steps)

    def obstacle(self, studied: Studied) -> str:
        """See `Study`."""
        return "" if self.names(studied) else "no path explainer is evaluated"

    def points(self, studied: Studied) -> list[tuple[str, float]]:
        """Metric and convergence at every number of steps."""
        quantities = (f"steps_{self.metric}", "steps_spearman")
        return [(quantity, float(steps)) for quantity in quantities for steps in self.steps]

    def measure(self, studied: Studied, images: Sequence[StudyImage]) -> Iterator[Row]:
        """Explain every image with every number of steps, the most first."""
        finest: dict[tuple[str, str], Tensor] = {}
        for steps in self.steps[::-1]:
            for name, explainer in studied.variants.explainers(self.names(studied), steps=steps).items():
                for image in images:
                    saliency = explain(explainer, image, image.pixels.to(studied.device))
                    reference = finest.setdefault((name, image.key), saliency)
                    alike, quality = compared(spearman, saliency, reference), self._quality(studied, image, saliency)
                    yield Row(image.key, name, "steps_spearman", float(steps), alike)
                    yield Row(image.key, name, f"steps_{self.metric}", float(steps), quality)

    def _quality(self, studied: Studied, image: StudyImage, saliency: Tensor) -> float:
        """Value of the metric for one image's map; NaN for a map that is not finite."""
        if not saliency.isfinite().all():
            return math.nan
        metric = METRICS[self.metric]().to(studied.device)
        pixels, targets = image.pixels.to(studied.device), image.target.to(studied.device)
        (scores,) = studied.engine.run(pixels, targets, saliency, [metric.sweeps["scores"]], [image.key])
        metric.update(scores=scores)
        return float(metric.latest)

    def x_label(self, quantity: str) -> str:
        """Say what was changed."""
        return "steps"

    def headlines(self, quantity: str, curve: pd.DataFrame) -> dict[str, float]:
        """Give the value at the most steps and its gain over the fewest."""
        last, first = float(curve["mean"].iloc[-1]), float(curve["mean"].iloc[0])
        return {"": last, "_gained": last - first}

    def settings(self, studied: Studied) -> dict[str, Any]:
        """See `Study`."""
        return {"steps": self.steps, "metric": self.metric}
