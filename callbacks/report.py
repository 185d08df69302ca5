"""HTML report of an evaluation: scores, curves, cost and example images on one page without other files."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytorch_lightning as pl

from callbacks.image_selection import BestWorst, first_keys
from callbacks.outputs import OutputsCallback
from callbacks.panels import authors
from dre.evaluation.scores import BFLOAT16
from dre.reporting import Example, Report, recipe_lines, report_html
from dre.reporting.cells import choose_reference
from dre.reporting.style import readable
from dre.runs.locks import read_json, write_whole
from dre.types import Explained

MOST_IMAGES = 500
"""Images that the page lists one by one."""

FILES = {
    "scores.parquet": "one row for each image, explainer and metric, with the class that was explained",
    "summary.json": "all numbers of this page",
    "summary.md": "the same as text",
    "curves.parquet": "the points of the curves",
    "cost.json": "the cost of an image",
    "table.md": "tables of papers, with the figures of this run beside theirs",
    "table.json": "the same as plain values",
    "xmgd.json": "distances between the explainers' maps",
    "gallery.png": "the first images",
    "config.yaml": "what to run to get this again",
}

PICTURES = {
    "xmgd.png": "distances between the explainers' maps",
    "xmgd_comparisons.png": "the same maps by other measures",
    "model_randomisation.png": "maps while the classifier's weights are drawn anew",
    "model_randomisation_maps.png": "maps while the classifier's weights are drawn anew, of a few photographs",
    "weight_perturbation.png": "maps while its weights are perturbed",
    "weight_perturbation_maps.png": "maps while its weights are perturbed, of a few photographs",
    "background_replacement.png": "maps with a checkerboard behind the object",
    "background_replacement_maps.png": "maps with a checkerboard behind the object, of a few photographs",
    "jpeg_stability.png": "maps of images that were compressed once more",
    "noise_stability.png": "maps of images under a little noise",
    "device_stability.png": "maps of the CPU and of the GPU",
    "projection_gap.png": "how far IDGI's step is from the score it stands for",
    "salient_5.png": "the best 5 % of the pixels",
    "salient_10.png": "the best 10 % of the pixels",
    "step_study.png": "metrics and maps against the number of steps",
}
"""Files that the page shows, too."""


class EvaluationReport(OutputsCallback):
    """Write `report.html` into the run directory when `Trainer.test` ends; list it after the callbacks it reads from.

    It reads `summary.json`, `scores.parquet`, `curves.parquet`, `cost.json` and pictures there, and keeps small copies
    of the images with the lowest and highest values of one metric. Up to 500 images stand there one by one, with the
    class that was explained and the values of that metric.

    Args:
        examples: Images to show at each end.
        reference: Explainer whose values choose them; a learned one, or else the first, when not given.
        metric: What they are chosen by; M_F, or else the first metric, when not given.

    Raises:
        ValueError: `examples` is negative.
    """

    def __init__(self, examples: int = 4, reference: str | None = None, metric: str | None = None) -> None:
        if examples < 0:
            raise ValueError(f"`examples` must not be negative, got {examples}; 0 shows none")
        self.examples, self.reference, self.metric = examples, reference, metric
        self.best_worst: BestWorst | None = None
        self.shown: tuple[list[Example], list[Example]] = ([], [])

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start empty."""
        self.best_worst = None

    def update(self, pl_module: pl.LightningModule, outputs: Explained) -> None:
        """Keep the images that are the lowest or the highest so far.

        Raises:
            ValueError: No metrics were computed before: the callback is listed too early.
        """
        if not self.examples:
            return
        if "values" not in outputs:
            raise ValueError("the step has no values to choose examples by; list EvaluationReport after the metrics")
        self._best_worst(pl_module).update(outputs)

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Merge the ranks' images."""
        if self.examples:
            self.shown = self._best_worst(pl_module).merged()

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write on the first rank."""
        if trainer.is_global_zero:
            directory = Path(trainer.default_root_dir)
            write_whole(directory / "report.html", report_html(self._report(trainer, pl_module, directory)))

    def progress(self, pl_module: pl.LightningModule) -> dict[str, Any]:
        """See `callbacks.resume.Resumable`."""
        return self._best_worst(pl_module).progress() if self.examples else {}

    def resume(self, pl_module: pl.LightningModule, progress: dict[str, Any]) -> None:
        """See `callbacks.resume.Resumable`."""
        if self.examples:
            self._best_worst(pl_module).resume(progress)

    def _best_worst(self, pl_module: pl.LightningModule) -> BestWorst:
        """Return what was kept so far; its explainer and its metric are settled once."""
        if self.best_worst is None:
            reference, metrics = self._reference(list(pl_module.explainers)), list(pl_module.metrics)  # type: ignore[arg-type]
            default = "faithfulness" if "faithfulness" in metrics else metrics[0]
            if self.metric is not None and self.metric not in metrics:
                raise ValueError(f"`metric` {self.metric!r} is not evaluated; choose one of {', '.join(metrics)}")
            self.best_worst = BestWorst(reference, self.metric or default, self.examples)
        return self.best_worst

    def _reference(self, names: list[str]) -> str:
        if self.reference is not None and self.reference not in names:
            raise ValueError(f"`reference` {self.reference!r} is not evaluated; choose one of {', '.join(names)}")
        return choose_reference(names, self.reference)

    def _report(self, trainer: pl.Trainer, pl_module: pl.LightningModule, directory: Path) -> Report:
        summary = read_json(directory / "summary.json")
        if not summary:
            raise ValueError(f"no summary.json in {directory}; list EvaluationReport after ExplanationMetrics")
        curves = directory / "curves.parquet"
        worst, best = (_credited(trainer, examples) for examples in self.shown)
        chosen = self._best_worst(pl_module)
        if summary["directions"].get(chosen.metric) is False:
            worst, best = best, worst
        return Report(
            title=f"Evaluation {directory.parent.name} {directory.name}",
            summary=summary,
            curves=pd.read_parquet(curves) if curves.is_file() else None,
            cost=read_json(directory / "cost.json"),
            worst=worst,
            best=best,
            images=_listed(directory / "scores.parquet", chosen.metric),
            chosen_by=chosen.metric,
            chosen_for=chosen.explainer,
            failures=_failures(summary) | _unfinished(read_json(directory / "cost.json")),
            facts=_facts(pl_module, summary, directory),
            files={name: what for name, what in (FILES | PICTURES).items() if (directory / name).is_file()},
            pictures={
                f"{what[0].upper()}{what[1:]}.": (directory / name).read_bytes()
                for name, what in PICTURES.items()
                if (directory / name).is_file()
            },
        )


def _listed(path: Path, metric: str) -> pd.DataFrame | None:
    """Read the rows of a metric, of the first images by a hash of their keys; None where there is no table."""
    if not path.is_file():
        return None
    frame = pd.read_parquet(path, filters=[("metric", "==", metric)])
    return frame[frame["key"].isin(first_keys(frame["key"].unique(), MOST_IMAGES))]


def _credited(trainer: pl.Trainer, examples: list[Example]) -> list[Example]:
    """Name the photographers that the data knows."""
    known = authors(trainer) if examples else {}
    return [replace(example, credit=known.get(example.key, "")) for example in examples]


def _failures(summary: dict[str, Any]) -> dict[str, int]:
    """Count maps that say nothing: with one value everywhere, or not finite."""
    words = {"constant": "constant maps of", "non_finite": "maps with NaN or infinity of"}
    second = summary.get("transfer")
    unknown = {f"without a target that {second['classifier']} knows": second["unknown"]} if second else {}
    return unknown | {
        f"{words[flaw]} {readable(name)}": count
        for flaw, found in summary.get("maps", {}).items()
        for name, count in found.items()
        if count
    }


def _unfinished(costs: dict[str, Any]) -> dict[str, int]:
    """Count explanations that stopped at a bound before their error was below the tolerance, with the largest error."""
    return {
        f"explanations of {readable(name)} that stopped at a bound, largest error {cost['largest_error']:.1%}": count
        for name, cost in costs.items()
        if (count := round(cost.get("at_bound") or 0))
    }


def _facts(pl_module: pl.LightningModule, summary: dict[str, Any], directory: Path) -> dict[str, str]:
    """Say what was run, on what, with what."""
    facts = {}
    second = getattr(pl_module, "transfer", None)
    classifiers = {"classifier": getattr(pl_module, "classifier", None), "transfer": second and second.classifier}
    for name, classifier in classifiers.items():
        if classifier is not None:
            identity = classifier.identity()
            facts[name] = f"{identity['name']}, {identity['num_classes']} classes, weights {identity['fingerprint']}"
    if "sweep_precision" in summary:
        facts["sweep precision"] = BFLOAT16
    for name in ("target", "images"):
        facts[name] = str(getattr(pl_module, name, ""))
    data = summary.get("data") or {}
    facts["data"] = ", ".join(data.get("val_roots", []))
    facts["manifest sha256"] = ", ".join(data.get("manifest_sha256", {}).values())
    facts |= {f"recipe of {name}": line for name, line in recipe_lines(summary.get("recipes", {})).items()}
    record = read_json(directory / "run.json")
    for name in ("command", "started", "commit", "config_hash", "parent"):
        facts[name] = str(record.get(name) or "")
    facts["packages"] = ", ".join(f"{name} {version}" for name, version in record.get("packages", {}).items())
    facts["bootstrap"] = f"{summary['resamples']} resamples, seed {summary['seed']}, percentile intervals"
    return {name: value for name, value in facts.items() if value}
