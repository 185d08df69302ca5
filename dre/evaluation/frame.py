"""Evaluation from a notebook: a batch of images, explainers of any kind and metrics by name make a DataFrame."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from dre.evaluation.evaluator import Evaluator
from dre.evaluation.measures import Measures, request_sweeps, why_missing
from dre.evaluation.objects import Objects, object_masks
from dre.evaluation.resolution import Given, build_explainers
from dre.explainers.arguments import Targets, as_classifier, class_targets, on_device, pixels_of
from dre.images.decode import Pictures, batch_or_pictures
from dre.images.randomness import pixel_keys
from dre.metrics import ImageMean
from dre.metrics.by_name import metric_by_name
from dre.metrics.words import metric_name
from dre.models import Classifier
from dre.models.hooks import without_inference
from dre.models.outputs import OutputsName
from dre.types import Batch, Explained, ScoreName, rows_of

COLUMNS = ("key", "explainer", "metric", "value", "target", "reason")

Metrics = str | ImageMean | Iterable[str] | Mapping[str, str | ImageMean | Callable[[], ImageMean]]


def evaluate(
    classifier: nn.Module | str,
    images: Pictures,
    explainers: Given | Iterable[Given] | Mapping[str, Given],
    metrics: Metrics = ("faithfulness", "explainability"),
    boxes: Objects | None = None,
    targets: Targets = None,
    *,
    keys: Sequence[str] | None = None,
    transfer: Classifier | None = None,
    score: ScoreName = "probability",
    batch_size: int = 16,
    chunk: int | None = None,
    cache: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    weights: str | None = "pretrained",
    outputs: OutputsName = "logits",
    device: str | torch.device | None = None,
) -> pd.DataFrame:
    """Explain images with several explainers, and score each map: one row for each image, explainer and metric.

    The numbers are those that evaluate.py writes into `scores.parquet` for the same images and keys: explainers of one
    path walk once, and masked copies that several metrics read are scored once. What they cost an image, in passes
    and milliseconds, is in `attrs["cost"]` of the frame, and which end of each metric is better in
    `attrs["higher_is_better"]`.

    Args:
        classifier: As in `dre.explain`.
        images: As in `dre.explain`.
        explainers: One or several, in a list or by the names that the table shall have. Each is the name of a method
            (`dre.list_explainers()`), or a pair of it and a dict of options; an `Explainer` of this classifier, or what
            builds one from it; a function of a model, images and targets that returns maps
            (`dre.explainers.FunctionExplainer`); or maps of all images, [B, 1, H, W] or [B, H, W].
        metrics: By name, the words of a class of `dre.metrics` such as `insertion`, or `faithfulness_black` for M_F
            under another fill; or metrics by the names that the table shall have.
        boxes: For metrics that compare with an object: masks [B, 1, H, W], or for each image its boxes [n, 4] as
            x0, y0, x1, y1 in pixels of the image, or of the picture where pictures are given.
        targets: Classes to explain, by index or name; by default those that the classifier predicts.
        keys: Names of the images, which seed random draws; by default they are numbered, and their pixels do.
        transfer: Second classifier, for metrics that let it score the maps.
        score: Score of the target that masked copies are scored by.
        batch_size: Most images that are explained at once.
        chunk: Most masked images in one forward pass; chosen by device when not given.
        cache: Directory that keeps maps for later calls.
        mean: As in `dre.explain`, as are the following arguments.
        std: See there.
        weights: See there.
        outputs: See there.
        device: See there.

    Returns:
        Columns key, explainer, metric, value (NaN where there is none), target (the class that was explained) and
        reason (why there is no value, else empty).

    Raises:
        ValueError: Something is unknown, or images, targets, boxes or maps do not suit each other.
        TypeError: Something is of another type.
        UnsupportedError: A method does not work for this network.

    Example:
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 10))
        >>> def brightness(model, images, targets):
        ...     return images.mean(1)
        >>> frame = evaluate(network, torch.rand(2, 3, 8, 8), ["vanilla_gradient", brightness], "faithfulness")
        >>> frame[["key", "explainer", "metric"]].values.tolist()[:2]
        [['0', 'vanilla_gradient', 'faithfulness'], ['0', 'brightness', 'faithfulness']]
    """
    computed = _metrics(metrics)
    given = batch_or_pictures(images)
    with torch.inference_mode(False), torch.no_grad():
        wrapped = as_classifier(classifier, given, mean, std, weights, outputs)
        wrapped = on_device(wrapped, device, is_own=classifier)
        pixels = without_inference(pixels_of(given, wrapped))
        names, seeds = _keys(keys, pixels)
        batch = Batch(images=pixels, labels=torch.full((len(pixels),), -1, device=pixels.device), key=seeds)
        if targets is not None:
            batch["labels"] = class_targets(targets, pixels, wrapped)
        if boxes is not None:
            pictures = None if isinstance(given, Tensor) else given
            batch["objects"] = object_masks(boxes, pixels, pictures, wrapped.preprocessing)
        evaluator = Evaluator(
            wrapped,
            build_explainers(explainers, wrapped, seeds, pixels),
            target="predicted" if targets is None else "label",
            score=score,
            chunk=chunk,
            cache=cache,
            transfer=transfer,
        )
        request_sweeps(evaluator, computed)
        measures = Measures(evaluator, computed, pixels.device)
        rows = list(_rows(evaluator, measures, batch, batch_size, dict(zip(seeds, names, strict=True))))
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    frame.attrs["higher_is_better"] = {name: metric.higher_is_better for name, metric in computed.items()}
    frame.attrs["cost"] = {name: meter.tally.summary() for name, meter in evaluator.meters.items()}
    return frame


def _rows(
    evaluator: Evaluator, measures: Measures, batch: Batch, batch_size: int, names: Mapping[str, str]
) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of the table, image by image."""
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, got {batch_size}")
    evaluator.open()
    for start in range(0, len(batch["key"]), batch_size):
        part = rows_of(batch, range(start, min(start + batch_size, len(batch["key"]))))
        explained = evaluator.explain(part)
        if explained is not None:
            yield from _rows_of_batch(measures, explained, names)


def _rows_of_batch(measures: Measures, explained: Explained, names: Mapping[str, str]) -> Iterator[tuple[Any, ...]]:
    found = measures.measure(explained)
    targets = explained["targets"].tolist()
    for place, key in enumerate(explained["key"]):
        for explainer, (values, _) in found.items():
            for metric, column in values.items():
                value = float(column[place])
                kind = measures.metrics[explainer][metric]
                reason = "" if value == value else why_missing(kind, explained, explainer, place)
                yield names[key], explainer, metric, value, targets[place], reason


def _metrics(given: Metrics) -> dict[str, ImageMean]:
    """Return metrics by name, built where they are not."""
    if isinstance(given, str | ImageMean):
        given = [given] if isinstance(given, str) else {metric_name(type(given)): given}
    entries = dict(given) if isinstance(given, Mapping) else {name: name for name in given}
    found = {}
    for name, one in entries.items():
        if isinstance(name, ImageMean):
            raise TypeError(f"{type(name).__name__} has no name in the table; give metrics as {{name: metric}}")
        metric = metric_by_name(one) if isinstance(one, str) else one() if callable(one) and _is_builder(one) else one
        if not isinstance(metric, ImageMean):
            raise TypeError(f"metric {name!r} must be a name or a metric of dre.metrics, got {type(one).__name__}")
        found[str(name)] = metric
    if not found:
        raise ValueError("no metric to compute; name at least one, such as 'faithfulness'")
    return found


def _is_builder(value: object) -> bool:
    return not isinstance(value, nn.Module)


def _keys(keys: Sequence[str] | None, images: Tensor) -> tuple[list[str], list[str]]:
    """Return the names of images in the table, and the keys that tell them apart for random draws."""
    if keys is None:
        seeds = pixel_keys(images)
        again = [seeds[:place].count(seed) for place, seed in enumerate(seeds)]
        names = [str(place) for place in range(len(seeds))]
        return names, [f"{seed} {number}" if number else seed for seed, number in zip(seeds, again, strict=True)]
    names = [str(key) for key in keys]
    if len(names) != len(images) or len(set(names)) != len(names):
        raise ValueError(
            f"`keys` must name each of {len(images)} images once, got {len(names)} with {len(set(names))} different"
        )
    return names, names
