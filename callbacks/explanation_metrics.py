"""Explanation metrics: score every explainer on every image, and write scores, means and intervals to files."""

import json
import math
import warnings
from copy import deepcopy
from pathlib import Path
from typing import Any, cast

import pandas as pd
import pytorch_lightning as pl
import torch
from rich.console import Console
from rich.markdown import Markdown
from torch import Tensor
from torchmetrics import SumMetric

from callbacks.outputs import MetricStates
from callbacks.progress import images_to_evaluate
from dre.metrics import ImageMean, ScoreTable
from dre.metrics.base import arguments_of, check_feedable, feed, of_explainer
from dre.modules import ExplainerEvaluation
from dre.reporting import details_markdown, summary_markdown, write_rank_diagrams
from dre.reporting.cells import choose_reference
from dre.statistics import summarise
from dre.statistics.curves import Curve, curves_frame, merged_curve
from dre.types import Batch, Explained

FLAWS = ("constant", "non_finite")
"""Maps that are counted: those with one value everywhere, which rank nothing, and those that cannot be scored."""


class ExplanationMetrics(MetricStates, pl.Callback):
    """Compute the metrics that the evaluation names for every explainer during `Trainer.test`.

    Logs `test/EXPLAINER/METRIC`, and writes `scores.parquet` (a row for each image, explainer and metric),
    `summary.json` and `summary.md` (means with 95 % bootstrap intervals, paired differences, ranks, what was left out)
    into the run directory, with `critical_difference_METRIC.png` of those with a direction and the curves of metrics
    that deliver one (`dre.statistics.curves.CurveSource`) in `curves.parquet`.

    An image that a metric leaves out has no row; one whose map is broken has NaN. Callbacks that are listed later find
    each image's values in the outputs of the step, under `values`.

    Args:
        reference: Explainer that the printed paired differences start from; the learned one when not given.
        show: Print the table at the end.
    """

    def __init__(self, reference: str | None = None, show: bool = True) -> None:
        self.reference = reference
        self.show = show
        self.metrics: dict[str, dict[str, ImageMean]] = {}
        self.flaws: dict[str, dict[str, SumMetric]] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Ask the module for the sweeps that the metrics read."""
        if stage != "test":
            return
        evaluation = cast(ExplainerEvaluation, pl_module)
        for name, metric in evaluation.metrics.items():
            check_feedable(name, metric)
            for sweep in metric.sweeps.values():
                evaluation.request(sweep)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start empty."""
        evaluation, device = cast(ExplainerEvaluation, pl_module), pl_module.device
        names = list(evaluation.explainers)
        self.table = ScoreTable(names, list(evaluation.metrics)).to(device)
        self.metrics = {
            name: {metric: deepcopy(template).to(device) for metric, template in evaluation.metrics.items()}
            for name in names
        }
        self.flaws = {name: {flaw: SumMetric().to(device) for flaw in FLAWS} for name in names}
        self.seen, self.explained = SumMetric().to(device), SumMetric().to(device)

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Explained | None,  # type: ignore[override]
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add a batch's values to the metrics and, one row an image, to the table."""
        self.seen.update(len(batch["key"]))
        if outputs is not None:
            self.explained.update(len(outputs["key"]))
            outputs["values"] = {name: self._add(name, outputs) for name in outputs["saliency"]}

    def _add(self, name: str, outputs: Explained) -> dict[str, Tensor]:
        """Feed one explainer's metrics; give each one's values, [B], NaN where it has none."""
        batch, readings, broken = of_explainer(outputs, name)
        fine, values = ~outputs["broken"][name], {}
        self.flaws[name]["non_finite"].update(len(broken))
        self.flaws[name]["constant"].update(_constant(batch["saliency"]))
        for metric_name, metric in self.metrics[name].items():
            values[metric_name] = torch.full((len(fine),), torch.nan, dtype=torch.float64, device=fine.device)
            if "objects" in arguments_of(metric) and "objects" not in batch:
                continue
            if batch["keys"]:
                found = feed(metric, batch, readings)
                values[metric_name][fine] = found.to(fine.device)
                has_value = ~found.isnan()
                keys = [key for key, keep in zip(batch["keys"], has_value.tolist(), strict=True) if keep]
                self.table.update(keys, name, metric_name, found[has_value])
            self.table.update(broken, name, metric_name, torch.full((len(broken),), torch.nan))
        return values

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Merge the ranks; log on all of them, write on the first."""
        evaluated = self._check_count(trainer)
        curves: list[tuple[str, str, Curve]] = []
        for name, metrics in self.metrics.items():
            for metric_name, metric in metrics.items():
                value = _mean(metric)
                curve = merged_curve(metric)
                if curve is not None:
                    curves.append((name, metric_name, curve))
                if math.isfinite(value):
                    pl_module.log(f"test/{name}/{metric_name}", value)
        flaws = {flaw: {name: int(counts[flaw].compute()) for name, counts in self.flaws.items()} for flaw in FLAWS}
        frame, explained = self.table.to_frame(), int(self.explained.compute())
        if trainer.is_global_zero:
            curves_frame(curves).to_parquet(Path(trainer.default_root_dir) / "curves.parquet")
            self._write(trainer, frame, explained, {"evaluated": evaluated, "maps": flaws})
        self.on_test_start(trainer, pl_module)

    def gathered(self) -> dict[str, Any]:
        """See `MetricStates`."""
        counts = {"seen": self.seen, "explained": self.explained}
        return {"table": self.table, "metrics": self.metrics, "flaws": self.flaws, **counts}

    def _check_count(self, trainer: pl.Trainer) -> int:
        """Count the images that all ranks saw, and compare with how many there are."""
        seen = int(self.seen.compute())
        expected = images_to_evaluate(trainer)
        if expected is not None and seen != expected:
            raise ValueError(f"{seen} images were evaluated, the data has {expected}: the numbers would not be theirs")
        return seen

    def _write(self, trainer: pl.Trainer, frame: pd.DataFrame, explained: int, facts: dict[str, Any]) -> None:
        directory = Path(trainer.default_root_dir)
        frame.to_parquet(directory / "scores.parquet")
        metrics = next(iter(self.metrics.values()))
        directions = {name: metric.higher_is_better for name, metric in metrics.items()}
        summary = summarise(frame, directions, order=list(self.metrics), explained=explained) | facts
        summary["unscaled"] = [name for name, metric in metrics.items() if not metric.is_share]
        summary["images"] = {
            metric: int(part["key"].nunique()) for metric, part in frame.groupby("metric", observed=True)
        }
        summary["data"] = trainer.datamodule.describe() if trainer.datamodule is not None else None  # type: ignore[attr-defined]
        summary["reference"] = choose_reference(list(self.metrics), self.reference)
        text = f"{_counts(summary)}\n\n{summary_markdown(summary, reference=summary['reference'])}"
        write_rank_diagrams(summary, directory)
        (directory / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
        (directory / "summary.md").write_text(f"{text}\n{details_markdown(summary)}")
        if self.show:
            Console().print(Markdown(text))


def _constant(saliency: Tensor) -> int:
    """Count the maps with one value everywhere."""
    values = saliency.flatten(1)
    return int((values.amax(dim=1) == values.amin(dim=1)).sum()) if len(values) else 0


def _mean(metric: ImageMean) -> float:
    """Return a metric over all ranks; NaN without images, which the summary says better than a warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*no image to average|The ``compute`` method")
        return float(metric.compute())


def _counts(summary: dict[str, Any]) -> str:
    """Say how many images were seen, how many stand behind each metric, and which maps say nothing."""
    explained = summary["explained"]
    counts = [f"{summary['evaluated']} evaluated", f"{explained} explained"]
    counts += [f"{count} for {metric}" for metric, count in summary["images"].items() if count != explained]
    flaws = [
        f"{count} {flaw.replace('_', '-')} maps of {name}"
        for flaw, found in summary["maps"].items()
        for name, count in found.items()
        if count
    ]
    return f"Images: {', '.join(counts + flaws)}."
