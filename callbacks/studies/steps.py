"""Step study: metrics and maps of path explainers against the number of steps."""

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import pandas as pd
import pytorch_lightning as pl
from torch import Tensor

from callbacks.image_selection import StudyImage
from callbacks.studies.study import Row, Study, compared, explain
from dre.checks import NonFiniteError
from dre.metrics import ImageMean, spearman
from dre.metrics.base import arguments_of, check_feedable, feed, reads_other_class, reads_transfer
from dre.modules import ExplainerEvaluation


class StepStudy(Study):
    """Build path explainers with different numbers of steps and follow the metrics, and the map itself.

    `steps_METRIC` is a metric's value, `steps_spearman` the rank correlation with the map of the most steps. Logged is
    the value at the most steps, and as `..._gained` its difference from the fewest.

    Args:
        images: Images to study.
        explainers: Evaluated path explainers to study; all of them when not given.
        steps: Ascending numbers of gradient evaluations.
        metrics: Metrics of the evaluation to follow; when not given all that need neither a second classifier nor the
            map of another class.

    Raises:
        ValueError: `steps` are not at least two ascending numbers from 2 on, `images` is below 1, or `explainers`
            empty.

    Source: Singhi and Kumari 2024, Section 4.5.1, table 4 and figure 3.
    """

    name = "step_study"

    def __init__(
        self,
        images: int = 16,
        explainers: list[str] | None = None,
        steps: list[int] | None = None,
        metrics: list[str] | None = None,
    ) -> None:
        super().__init__(images, explainers)
        self.steps = steps if steps is not None else [8, 16, 32, 64, 128]
        if len(self.steps) < 2 or self.steps[0] < 2 or self.steps != sorted(set(self.steps)):
            raise ValueError(f"`steps` must be at least two ascending numbers from 2 on, got {self.steps}")
        self.metrics = metrics

    def names(self, evaluation: ExplainerEvaluation) -> list[str]:
        """Name the explainers whose steps can be chosen."""
        return self.explainers if self.explainers is not None else evaluation.variants.path_explainers()

    def followed(self, evaluation: ExplainerEvaluation) -> dict[str, ImageMean]:
        """Return copies of the metrics that are followed."""
        names = self.metrics if self.metrics is not None else _of_one_map(evaluation)
        return {name: copy.deepcopy(evaluation.metrics[name]).to(evaluation.device) for name in names}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse explainers without steps, and steps that an explainer refuses, before anything is explained.

        Raises:
            ValueError: An explainer is not evaluated, walks no path in steps or takes no such number of steps, or a
                metric is not computed or needs more than one map.
        """
        super().setup(trainer, pl_module, stage)
        if stage != "test":
            return
        evaluation = cast(ExplainerEvaluation, pl_module)
        check_walks(evaluation, self.explainers)
        for name in self.metrics or []:
            if name not in evaluation.metrics:
                raise ValueError(
                    f"`metrics` of StepStudy names {name!r}, which is not computed; "
                    f"choose among {', '.join(evaluation.metrics)}"
                )
            if name not in _of_one_map(evaluation):
                raise ValueError(
                    f"`metrics` of StepStudy names {name!r}, which needs a second classifier or another class's map; "
                    f"choose among {', '.join(_of_one_map(evaluation))}"
                )
        for name, metric in self.followed(evaluation).items():
            check_feedable(name, metric)
        for steps in self.steps:
            evaluation.variants.explainers(self.names(evaluation), steps=steps)

    def unsupported(self, evaluation: ExplainerEvaluation) -> str:
        """See `Study`."""
        return "" if self.names(evaluation) else "no path explainer is evaluated"

    def points(self, evaluation: ExplainerEvaluation) -> list[tuple[str, float]]:
        """Metrics and convergence at every number of steps."""
        quantities = [*(f"steps_{name}" for name in self.followed(evaluation)), "steps_spearman"]
        return [(quantity, float(steps)) for quantity in quantities for steps in self.steps]

    def measure(self, evaluation: ExplainerEvaluation, images: Sequence[StudyImage]) -> Iterator[Row]:
        """Explain every image with every number of steps, the most first."""
        metrics, finest = self.followed(evaluation), dict[tuple[str, str], Tensor]()
        for steps in self.steps[::-1]:
            explainers = evaluation.variants.explain_with(self.names(evaluation), steps=steps)
            for image in images:
                for name, explainer in explainers.items():
                    saliency = explain(explainer, image, image.pixels.to(evaluation.device))
                    reference = finest.setdefault((name, image.key), saliency)
                    values = _qualities(metrics, evaluation, image, saliency)
                    values["spearman"] = compared(spearman, saliency, reference)
                    for quantity, value in values.items():
                        yield Row(image.key, name, f"steps_{quantity}", float(steps), value)

    def x_label(self, quantity: str) -> str:
        """Say what was changed."""
        return "steps"

    def headlines(self, quantity: str, curve: pd.DataFrame) -> dict[str, float]:
        """Return the value at the most steps and its gain over the fewest."""
        last, first = float(curve["mean"].iloc[-1]), float(curve["mean"].iloc[0])
        return {"": last, "_gained": last - first}

    def settings(self, evaluation: ExplainerEvaluation) -> dict[str, Any]:
        """See `Study`."""
        return {"steps": self.steps, "metrics": list(self.followed(evaluation))}


def _of_one_map(evaluation: ExplainerEvaluation) -> list[str]:
    """Name the metrics that one map and the explained classifier decide."""
    found = evaluation.metrics.items()
    return [name for name, metric in found if not reads_transfer(metric) and not reads_other_class(metric)]


def _qualities(
    metrics: Mapping[str, ImageMean], evaluation: ExplainerEvaluation, image: StudyImage, saliency: Tensor
) -> dict[str, float]:
    """Value of each metric for one image's map; NaN where it leaves the image out or something is not finite."""
    undefined = dict.fromkeys(metrics, math.nan)
    if not saliency.isfinite().all():
        return undefined
    pixels, targets = image.pixels.to(saliency.device), image.target.to(saliency.device)
    sweeps = list(dict.fromkeys(sweep for metric in metrics.values() for sweep in metric.sweeps.values()))
    try:
        readings = evaluation.evaluator.sweeps.engines["classifier"].run(pixels, targets, saliency, sweeps, [image.key])
    except NonFiniteError:
        return undefined
    batch = {"saliency": saliency, "images": pixels, "targets": targets, "keys": [image.key]}
    if image.objects is not None:
        batch["objects"] = image.objects.to(saliency.device)
    read = dict(zip(sweeps, readings, strict=True))
    known = {name: "objects" not in arguments_of(metric) or "objects" in batch for name, metric in metrics.items()}
    return {name: float(feed(metrics[name], batch, read)) if known[name] else math.nan for name in metrics}


def check_walks(evaluation: ExplainerEvaluation, names: Sequence[str] | None) -> None:
    """Refuse the name of an explainer that walks no path in steps.

    Raises:
        ValueError: An explainer walks no path in steps.
    """
    walking = evaluation.variants.path_explainers()
    for name in names or ():
        if name not in walking:
            raise ValueError(f"{name!r} walks no path in steps; those that do are {', '.join(walking) or 'none'}")
