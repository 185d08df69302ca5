"""Explanation metrics: score every explainer on every image, and write scores, means and intervals to files."""

import math
import warnings
from collections.abc import Callable
from itertools import chain, product
from pathlib import Path
from typing import Any, cast

import pandas as pd
import pyarrow as pa
import pytorch_lightning as pl
from pyarrow.parquet import ParquetWriter
from torch import Tensor
from torchmetrics import SumMetric

from callbacks.annotations import annotation_table, describe_annotations, note_annotations, with_annotations
from callbacks.explained_classes import class_table, note_classes, with_classes
from callbacks.image_selection import gathered
from callbacks.outputs import MetricStates
from callbacks.progress import images_to_evaluate
from dre.evaluation.measures import Measures, request_sweeps, why_no_value
from dre.evaluation.scores import BFLOAT16, PRECISION
from dre.metrics import ImageMean, ScoreTable
from dre.metrics.base import arguments_of
from dre.metrics.words import definition
from dre.modules import ExplainerEvaluation
from dre.reporting import details_markdown, summary_markdown, terminal_text, write_rank_diagrams
from dre.reporting.cells import choose_reference
from dre.reporting.terminal import printable
from dre.runs.locks import read_json, replacing, write_json, write_whole
from dre.statistics import summarise
from dre.statistics.curves import Curve, curves_frame, merged_curve
from dre.types import Batch, Explained

FLAWS = ("constant", "non_finite")
"""Maps that are counted: those with one value everywhere, which rank nothing, and those that cannot be scored."""


ROWS = 1 << 20
"""Rows of the table of scores that are written at once."""


class ExplanationMetrics(MetricStates, pl.Callback):
    """Compute the metrics that the evaluation names for every explainer during `Trainer.test`.

    Logs `test/EXPLAINER/METRIC`, and M_F after min-max across explainers as `test/EXPLAINER/faithfulness_normalised`.
    Writes `scores.parquet` (a row for each image, explainer and metric, with the explained class, see
    `callbacks.explained_classes.with_classes`, and the `annotation` that gives the object, mask, box or none),
    `summary.json` and `summary.md` (means with 95 % bootstrap intervals, paired differences, ranks, what was left out)
    into the run directory, with `critical_difference_METRIC.png` of those with a direction and the curves of metrics
    that deliver one (`dre.statistics.curves.CurveSource`) in `curves.parquet`.

    An image that a metric leaves out has no row; one whose map or value is not finite has NaN. An image that is skipped
    has no row at all, and stands with its reason under `skipped` in `summary.json`. Callbacks that are listed later
    find each image's values in the outputs of the step, under `values`.

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
        request_sweeps(evaluation.evaluator, evaluation.metrics)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start empty."""
        evaluation, device = cast(ExplainerEvaluation, pl_module), pl_module.device
        names = list(evaluation.explainers)
        self.table, self.classes = ScoreTable(names, list(evaluation.metrics)).to(device), class_table().to(device)
        self.annotations = annotation_table().to(device)
        self.measures = Measures(evaluation.evaluator, evaluation.metrics, device)
        self.metrics = self.measures.metrics
        self.flaws = {name: {flaw: SumMetric().to(device) for flaw in FLAWS} for name in names}
        self.seen, self.explained, self.unscored, self.unknown = (SumMetric().to(device) for _ in range(4))

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
        evaluation = cast(ExplainerEvaluation, pl_module)
        self.seen.update(len(batch["key"]))
        if outputs is None:
            return
        measure = self.measures.measure if evaluation.on_error == "raise" else self.measures.measure_or_skip
        found = measure(outputs)
        if not found:
            return
        self.explained.update(len(outputs["key"]))
        note_classes(self.classes, outputs)
        note_annotations(self.annotations, outputs)
        if "finite" in outputs:
            self.unscored.update(int((~outputs["finite"]).sum()))
        if "known" in outputs:
            self.unknown.update(int((~outputs["known"]).sum()))
        outputs["values"] = {name: self._add(name, outputs, *found[name]) for name in outputs["saliency"]}

    def _add(
        self, name: str, outputs: Explained, values: dict[str, Tensor], flaws: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Add one explainer's values to the table, a row for each image that has one or should have; return them."""
        broken = outputs["broken"][name]
        self.flaws[name]["non_finite"].update(int(broken.sum()))
        self.flaws[name]["constant"].update(_constant(outputs["saliency"][name][~broken]))
        for metric, flawed in flaws.items():
            has_row = ~values[metric].isnan() | flawed
            keys = [key for key, keep in zip(outputs["key"], has_row.tolist(), strict=True) if keep]
            self.table.update(keys, name, metric, values[metric][has_row])
        return {metric: found.to(broken.device) for metric, found in values.items()}

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Merge the ranks; log on all of them, write on the first."""
        evaluated, skipped = self._check_count(trainer, cast(ExplainerEvaluation, pl_module))
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
        frame, classes, explained = self.table.to_frame(), self.classes.by_key(), int(self.explained.compute())
        annotations = self.annotations.by_key()
        second, unknown = cast(ExplainerEvaluation, pl_module).transfer, int(self.unknown.compute())
        transfer = None if second is None else {"classifier": second.name, "unknown": unknown}
        if trainer.is_global_zero:
            with replacing(Path(trainer.default_root_dir) / "curves.parquet") as part:
                curves_frame(curves).to_parquet(part)
            facts: dict[str, Any] = {"evaluated": evaluated, "maps": flaws, "skipped": skipped}
            if (precision := cast(ExplainerEvaluation, pl_module).sweep_precision) != "float32":
                facts["sweep_precision"] = precision
            names = cast(ExplainerEvaluation, pl_module).classifier.class_names
            with replacing(Path(trainer.default_root_dir) / "scores.parquet") as part:

                def described(rows: pd.DataFrame) -> pd.DataFrame:
                    table = with_annotations(with_classes(rows, classes, names), annotations)
                    return table.assign(**{PRECISION: precision}) if "sweep_precision" in facts else table

                _write_rows(frame, described, part)
            facts["annotations"] = describe_annotations(annotations, self._reading_objects())
            summary = self._write(trainer, frame, explained, facts | {"transfer": transfer})
            for name, metric in product(summary["scores"], summary["normalised"]):
                value = summary["scores"][name][metric]["mean"]
                if value is not None:  # scaled across explainers: known on this rank alone
                    pl_module.log(f"test/{name}/{metric}", value, rank_zero_only=True)
        self.on_test_start(trainer, pl_module)

    def gathered(self) -> dict[str, Any]:
        """See `MetricStates`."""
        counts = {"seen": self.seen, "explained": self.explained, "unscored": self.unscored, "unknown": self.unknown}
        tables = {"table": self.table, "classes": self.classes, "annotations": self.annotations}
        return {**tables, "metrics": self.metrics, "flaws": self.flaws, **counts}

    def progress(self, pl_module: pl.LightningModule) -> dict[str, Any]:
        """See `callbacks.resume.Resumable`."""
        evaluation = cast(ExplainerEvaluation, pl_module)
        more = {"skipped": dict(evaluation.evaluator.skipped), "sweep_precision": evaluation.sweep_precision}
        return super().progress(pl_module) | more

    def resume(self, pl_module: pl.LightningModule, progress: dict[str, Any]) -> None:
        """See `callbacks.resume.Resumable`.

        Raises:
            ValueError: Masked images were scored in another precision before.
        """
        evaluation = cast(ExplainerEvaluation, pl_module)
        before = progress.get("sweep_precision", "float32")  # runs before 0.2 knew no other
        if before != evaluation.sweep_precision:
            raise ValueError(f"its masked images were scored in {before}, not in {evaluation.sweep_precision}")
        evaluation.evaluator.skipped |= progress.get("skipped", {})
        super().resume(pl_module, progress)

    def _check_count(self, trainer: pl.Trainer, evaluation: ExplainerEvaluation) -> tuple[int, dict[str, str]]:
        """Count the images that all ranks evaluated, compare with how many there are, and say what was skipped.

        Raises:
            ValueError: The count is another, or nothing of any image can be scored.
        """
        unread = dict(getattr(trainer.datamodule, "skipped", ()))  # type: ignore[attr-defined]
        parts = gathered([(unread, evaluation.evaluator.skipped)])
        unread = {key: str(reason) for rank in parts for one, _ in rank for key, reason in one.items()}
        skipped = {key: reason for rank in parts for _, one in rank for key, reason in one.items()}
        seen, explained, unscored = (int(one.compute()) for one in (self.seen, self.explained, self.unscored))
        expected = images_to_evaluate(trainer)
        lost = f" and {len(unread)} could not be read" if unread else ""
        if expected is not None and seen + len(unread) != expected:
            raise ValueError(
                f"{seen} images were evaluated{lost}, the data has {expected}: the numbers would not be theirs"
            )
        skipped_all = unread | skipped
        if skipped_all and not explained:
            key, reason = next(iter(skipped_all.items()))
            raise ValueError(f"no image is left to score: all {len(skipped_all)} are skipped; of {key!r}: {reason}")
        if explained and unscored == explained:
            raise ValueError(
                f"{evaluation.classifier.name} gives NaN or infinity for each of {explained} images; check its weights "
                "and its normalisation, and try float32 in place of half precision"
            )
        return seen - len(skipped), skipped_all

    def _reading_objects(self) -> list[str]:
        """Name the metrics that compare a map with an object."""
        return [name for name, one in next(iter(self.metrics.values())).items() if "objects" in arguments_of(one)]

    def _write(self, trainer: pl.Trainer, frame: pd.DataFrame, explained: int, facts: dict[str, Any]) -> dict[str, Any]:
        """Write the summary and print it; return it."""
        directory = Path(trainer.default_root_dir)
        metrics = next(iter(self.metrics.values()))
        directions = {name: metric.higher_is_better for name, metric in metrics.items()}
        reasons = {
            name: why_no_value(metric)
            for name, metric in metrics.items()
            if explained and not (frame["metric"] == name).any()
        }
        order = list(self.metrics)
        summary = summarise(frame, directions, order=order, explained=explained, without_value=reasons) | facts
        summary["unscaled"] = [name for name, metric in metrics.items() if not metric.is_share]
        summary["definitions"] = {name: definition(metric) for name, metric in metrics.items()}
        summary["images"] = {
            str(metric): int(frame["key"][frame["metric"] == metric].nunique()) for metric in frame["metric"].unique()
        }
        summary["data"] = trainer.datamodule.describe() if trainer.datamodule is not None else None  # type: ignore[attr-defined]
        summary["reference"] = choose_reference(list(self.metrics), self.reference)
        summary["recipes"] = read_json(directory / "run.json").get("recipes", {})
        warned = f"{BFLOAT16}\n\n" if "sweep_precision" in summary else ""
        text, shown = (
            f"{_counts(summary)}\n\n{warned}{summary_markdown(summary, reference=summary['reference'], arrows=arrows)}"
            for arrows in (False, True)
        )
        write_rank_diagrams(summary, directory)
        write_json(directory / "summary.json", summary)
        write_whole(directory / "summary.md", f"{text}\n{details_markdown(summary)}")
        if self.show:
            print(printable(terminal_text(shown)))
        return summary


def _write_rows(frame: pd.DataFrame, widened: Callable[[pd.DataFrame], pd.DataFrame], path: Path) -> None:
    """Write a table with further columns, some rows at a time: all at once would take several times the table."""
    parts = (widened(frame.iloc[start : start + ROWS]) for start in range(0, max(len(frame), 1), ROWS))
    tables = (pa.Table.from_pandas(part, preserve_index=False) for part in parts)
    first = next(tables)
    with ParquetWriter(path, first.schema) as writer:
        for table in chain([first], tables):
            writer.write_table(table)


def _constant(saliency: Tensor) -> int:
    """Count the maps with one value everywhere."""
    values = saliency.flatten(1)
    return int((values.amax(dim=1) == values.amin(dim=1)).sum()) if len(values) else 0


def _mean(metric: ImageMean) -> float:
    """Return a metric over all ranks; NaN without images, which the summary says better than a warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*no image to average|The ``compute`` method")
        return float(metric.compute())


def unknown_targets(summary: dict[str, Any]) -> str:
    """Say how many images have no score by the second classifier, and why; nothing where all have."""
    second = summary.get("transfer") or {"unknown": 0}
    return f"{second['unknown']} whose target {second['classifier']} does not know" if second["unknown"] else ""


def _counts(summary: dict[str, Any]) -> str:
    """Say how many images were seen, how many stand behind each metric, and which maps say nothing."""
    explained = summary["explained"]
    counts = [f"{summary['evaluated']} evaluated", f"{explained} explained"]
    counts += [f"{len(summary['skipped'])} skipped"] if summary["skipped"] else []
    counts += [f"{count} for {metric}" for metric, count in summary["images"].items() if count != explained]
    flaws = [
        f"{count} {flaw.replace('_', '-')} maps of {name}"
        for flaw, found in summary["maps"].items()
        for name, count in found.items()
        if count
    ]
    unknown = [line] if (line := unknown_targets(summary)) else []
    return f"Images: {', '.join(counts + flaws + unknown)}."
