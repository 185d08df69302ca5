"""Measures of an evaluation: metrics that are fed with explained batches, image by image where one fails."""

from collections.abc import Mapping
from contextlib import ExitStack
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from dre.evaluation.evaluator import Evaluator
from dre.metrics import ImageMean
from dre.metrics.base import (
    arguments_of,
    check_feedable,
    feed_finite,
    reads_other_class,
    reads_transfer,
    rows_of_value,
)
from dre.metrics.list_states import unchanged_on_error
from dre.types import Explained, Sweep, explained_rows

Found = dict[str, tuple[dict[str, Tensor], dict[str, Tensor]]]
"""By explainer: of each metric the values, float64 [B], and which are not finite, bool [B], both on the CPU."""


def request_sweeps(evaluator: Evaluator, metrics: Mapping[str, ImageMean]) -> None:
    """Ask an evaluator for all that metrics read.

    Raises:
        ValueError: A metric asks for what an evaluation cannot give.
    """
    for name, metric in metrics.items():
        check_feedable(name, metric, has_transfer=evaluator.sweeps.transfer is not None)
        if reads_other_class(metric):
            evaluator.explains_other_class = True
        for sweep in metric.sweeps.values():
            evaluator.request(sweep)


class Measures:
    """Hold the metrics of every explainer and feed them batch by batch.

    Args:
        evaluator: What explains; images that cannot be scored are skipped in its name.
        metrics: By name; each explainer gets copies of its own.
        device: Where their states lie.

    Attributes:
        metrics: By explainer and name.
    """

    def __init__(self, evaluator: Evaluator, metrics: Mapping[str, ImageMean], device: torch.device) -> None:
        self.evaluator = evaluator
        self.metrics = {
            name: {metric: deepcopy(template).to(device) for metric, template in metrics.items()}
            for name in evaluator.explainers
        }

    def measure(self, explained: Explained) -> Found:
        """Feed all metrics; an error of one leaves the states as far as they came."""
        return {name: self._measure(name, explained) for name in explained["saliency"]}

    def measure_or_skip(self, explained: Explained) -> Found:
        """Feed all metrics; images for which one raises an error are skipped and taken out of `explained`."""
        try:
            return self._measure_whole(explained)
        except Exception:  # of any metric, on any image: those that have none are fed one by one
            return self._measure_alone(explained)

    def _measure_whole(self, explained: Explained) -> Found:
        """Feed all metrics, or none of them where one raises an error."""
        with ExitStack() as unchanged:
            for metrics in self.metrics.values():
                for metric in metrics.values():
                    unchanged.enter_context(unchanged_on_error(metric))
            return self.measure(explained)

    def _measure(self, name: str, explained: Explained) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        values: dict[str, Tensor] = {}
        flaws: dict[str, Tensor] = {}
        for metric_name, metric in self.metrics[name].items():
            values[metric_name] = torch.full((len(explained["key"]),), torch.nan, dtype=torch.float64)
            if "objects" in arguments_of(metric) and "objects" not in explained:
                continue
            rows, broken = (one.cpu() for one in rows_for(metric, explained, name))
            flaws[metric_name] = broken
            if rows.any():
                given = of_explainer(explained, name, rows)
                values[metric_name][rows], flaws[metric_name][rows] = feed_finite(metric, *given)
        return values, flaws

    def _measure_alone(self, explained: Explained) -> Found:
        parts, left = [], []
        for place, key in enumerate(explained["key"]):
            single = explained_rows(explained, [place])
            try:
                parts.append(self._measure_whole(single))
            except Exception as error:
                self.evaluator.skip(key, error)
            else:
                left.append(place)
        explained.update(explained_rows(explained, left))
        if not parts:
            return {}

        def whole(name: str, which: int) -> dict[str, Tensor]:
            return {
                metric: torch.cat([part[name][which][metric] for part in parts]) for metric in parts[0][name][which]
            }

        return {name: (whole(name, 0), whole(name, 1)) for name in parts[0]}


def rows_for(metric: ImageMean, explained: Explained, explainer: str) -> tuple[Tensor, Tensor]:
    """Return which images a metric is updated with, and for which a map that it reads is broken: bool [B].

    Of neither kind are images whose target the second classifier does not know, where the metric reads its scores.
    """
    broken = explained["broken"][explainer]
    if reads_other_class(metric):
        broken = broken | explained["other_broken"][explainer]
    known = explained["known"] if reads_transfer(metric) else torch.ones_like(broken)
    return known & ~broken, known & broken


def of_explainer(explained: Explained, explainer: str, rows: Tensor) -> tuple[dict[str, Any], dict[Sweep, Tensor]]:
    """Return what `feed` needs for one explainer and some images: the batch, and what sweeps read.

    Args:
        explained: The batch.
        explainer: Its name.
        rows: Which images, bool [B].
    """
    places = rows.nonzero()[:, 0].tolist()
    batch: dict[str, Any] = {"keys": explained["key"], "saliency": explained["saliency"][explainer]}
    batch |= {name: value for name, value in explained.items() if name in ("images", "targets", "objects")}
    if "other_saliency" in explained:
        batch["other_saliency"] = explained["other_saliency"][explainer]
    batch = {name: rows_of_value(value, places) for name, value in batch.items()}
    return batch, {sweep: rows_of_value(read, places) for sweep, read in explained["scores"][explainer].items()}


def why_no_value(metric: ImageMean) -> str:
    """Say why a metric has no value for any image."""
    if "objects" in arguments_of(metric):
        return "no image that was explained has a mask or a box"
    if reads_transfer(metric):
        return "the second classifier knows the target of no image"
    return "it is not defined for the map of any image"


def why_missing(metric: ImageMean, explained: Explained, explainer: str, place: int) -> str:
    """Say why a metric has no value for one image of a batch.

    Args:
        metric: Which one.
        explained: The batch.
        explainer: Whose map it is.
        place: Of the image.
    """
    if not bool(explained["finite"][place]):
        return "the classifier gives NaN or infinity for the image"
    if bool(explained["broken"][explainer][place]):
        return "the map has NaN or infinity"
    if "objects" in arguments_of(metric) and not ("objects" in explained and bool(explained["objects"][place].any())):
        return "the image has no mask and no box"
    if reads_transfer(metric) and not bool(explained["known"][place]):
        return "the second classifier does not know the target"
    readings = explained["scores"][explainer]
    if any(not bool(readings[sweep][place].isfinite().all()) for sweep in metric.sweeps.values()):
        return "the classifier gives NaN or infinity for a masked copy"
    return "it is not defined for this map"
