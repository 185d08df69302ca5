"""Score every explainer on every image: rows for the table, means with intervals, files that last."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, cast

import pandas as pd
import pytorch_lightning as pl
from pytorch_lightning.loggers import WandbLogger
from rich.console import Console
from rich.markdown import Markdown
from torch import Tensor
from torchmetrics import Metric, SumMetric

from dre.checks import check_objects
from dre.curves import Curve, curves_frame, merged_curve
from dre.metrics import Explainability, Faithfulness, PearsonSkewness, ScoreTable
from dre.metrics.explainability import average_precision
from dre.metrics.faithfulness import faithfulness
from dre.metrics.skewness import pearson_skewness
from dre.reporting import details_markdown, summary_markdown, write_rank_diagrams
from dre.reporting.cells import choose_reference
from dre.statistics import summarise
from dre.types import Batch, Explained, Sweep

DIRECTIONS = {
    "faithfulness": Faithfulness.higher_is_better,
    "explainability": Explainability.higher_is_better,
    "pearson_skewness": PearsonSkewness.higher_is_better,
}
METRICS = tuple(DIRECTIONS)


class Evaluation(Protocol):
    """What is asked of the evaluation module."""

    explainers: dict[str, object]

    def request(self, sweep: Sweep) -> None:
        """Ask for a sweep in every step."""


class ExplanationMetrics(pl.Callback):
    """Compute M_F, M_E and skewness of every explainer during `Trainer.test`.

    Logs `test/EXPLAINER/METRIC`, and writes `scores.parquet` (a row for each image, explainer and metric),
    `summary.json` and `summary.md` (means with 95 % bootstrap intervals, paired differences, ranks, what was left out)
    into the run directory, with `critical_difference_METRIC.png` of those with a direction and the curves of metrics
    that deliver one (`dre.curves.CurveSource`) in `curves.parquet`.

    Args:
        reference: Explainer that the printed paired differences start from; the learned one when not given.
        show: Print the table at the end.
    """

    def __init__(self, reference: str | None = None, show: bool = True) -> None:
        self.reference = reference
        self.show = show
        self.faithfulness: dict[str, Faithfulness] = {}
        self.explainability: dict[str, Explainability] = {}
        self.skewness: dict[str, PearsonSkewness] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Ask the module for the sweep that M_F reads."""
        if stage == "test":
            cast(Evaluation, pl_module).request(Faithfulness.sweep)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start empty."""
        names = list(cast(Evaluation, pl_module).explainers)
        self.table = ScoreTable(names, METRICS).to(pl_module.device)
        self.faithfulness = {name: Faithfulness().to(pl_module.device) for name in names}
        self.explainability = {name: Explainability().to(pl_module.device) for name in names}
        self.skewness = {name: PearsonSkewness().to(pl_module.device) for name in names}
        self.seen = SumMetric().to(pl_module.device)

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
        if outputs is None:
            return
        for name, saliency in outputs["saliency"].items():
            scores = outputs["scores"][name][Faithfulness.sweep]
            keys = outputs["key"]
            self.faithfulness[name].update(scores)
            self.table.update(keys, name, "faithfulness", faithfulness(scores[:, 1:]))
            skewness = pearson_skewness(saliency)
            self.skewness[name].accumulate(skewness)
            self.table.update(keys, name, "pearson_skewness", skewness)
            if "objects" in outputs:
                self._add_localisation(name, keys, saliency, outputs["objects"])

    def _add_localisation(self, name: str, keys: list[str], saliency: Tensor, objects: Tensor) -> None:
        check_objects(objects, like=saliency)
        boxed = objects.flatten(1).any(dim=1)
        precision = average_precision(saliency, objects)
        self.explainability[name].accumulate(precision, keep=boxed)
        keys = [key for key, keep in zip(keys, boxed.tolist(), strict=True) if keep]
        if keys:
            self.table.update(keys, name, "explainability", precision[boxed])

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Merge the ranks; log on all of them, write on the first."""
        evaluated = self._check_count(trainer)
        groups: list[Mapping[str, Metric]] = [self.faithfulness, self.explainability, self.skewness]
        curves: list[tuple[str, str, Curve]] = []
        for metric, states in zip(METRICS, groups, strict=True):
            for name, state in states.items():
                value = float(state.compute())
                curve = merged_curve(state)
                if curve is not None:
                    curves.append((name, metric, curve))
                state.reset()
                if math.isfinite(value):
                    pl_module.log(f"test/{name}/{metric}", value)
        frame = self.table.to_frame()
        self.table.reset()
        if trainer.is_global_zero:
            curves_frame(curves).to_parquet(Path(trainer.default_root_dir) / "curves.parquet")
            self._write(trainer, frame, evaluated)

    def _check_count(self, trainer: pl.Trainer) -> int:
        """Count the images that all ranks saw, and compare with how many there are."""
        seen = int(self.seen.compute())
        expected = self.expected_images(trainer)
        if expected is not None and seen != expected:
            raise ValueError(f"{seen} images were evaluated, the data has {expected}: the numbers would not be theirs")
        return seen

    def expected_images(self, trainer: pl.Trainer) -> int | None:
        """Read off the data how many images all ranks together must see; None when batches are limited."""
        data = getattr(trainer, "datamodule", None)
        is_whole = isinstance(trainer.limit_test_batches, float) and trainer.limit_test_batches == 1.0  # 1 is a count
        return data.expected_images("val") if data is not None and is_whole else None

    def _write(self, trainer: pl.Trainer, frame: pd.DataFrame, evaluated: int) -> None:
        directory = Path(trainer.default_root_dir)
        frame.to_parquet(directory / "scores.parquet")
        summary = summarise(frame, DIRECTIONS)
        summary["evaluated"] = evaluated
        summary["images"] = {metric: int(part["key"].nunique()) for metric, part in frame.groupby("metric")}
        summary["data"] = trainer.datamodule.describe() if trainer.datamodule is not None else None  # type: ignore[attr-defined]
        summary["reference"] = choose_reference(list(self.faithfulness), self.reference)
        text = f"{_counts(summary)}\n\n{summary_markdown(summary, reference=summary['reference'])}"
        write_rank_diagrams(summary, directory)
        (directory / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
        (directory / "summary.md").write_text(f"{text}\n{details_markdown(summary)}")
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                table = frame.pivot_table(index=["key", "explainer"], columns="metric", values="value").reset_index()
                logger.log_table("test/scores", dataframe=table)
        if self.show:
            Console().print(Markdown(text))


def _counts(summary: dict[str, Any]) -> str:
    """Say how many images were seen and how many stand behind each metric."""
    counts = [f"{summary['evaluated']} evaluated", f"{summary['explained']} explained"]
    counts += [f"{count} for {metric}" for metric, count in summary["images"].items()]
    return f"Images: {', '.join(counts)}."
