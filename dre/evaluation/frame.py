"""Evaluation from a notebook: a batch of images, explainers of any kind and metrics by name make a DataFrame."""

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from os import PathLike
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from dre.checks import check_count
from dre.engine.allocation import keep_memory_on_cpu
from dre.evaluation.evaluator import Evaluator
from dre.evaluation.measures import Measures, request_sweeps, why_missing
from dre.evaluation.objects import Masks, Objects, annotated_by, annotation_kinds, counted, find_objects
from dre.evaluation.resolution import Given, build_explainers
from dre.explainers.arguments import Targets, as_classifier, class_targets, on_device, pixels_of
from dre.images.decode import Pictures, batch_or_pictures
from dre.images.randomness import pixel_keys
from dre.metrics import ImageMean
from dre.metrics.base import arguments_of
from dre.metrics.by_name import metric_by_name
from dre.metrics.words import metric_name
from dre.models import Classifier
from dre.models.hooks import without_inference
from dre.models.outputs import OutputsName
from dre.types import Batch, Explained, ScoreName, rows_of

HASH, SHORT = 64, 16
"""Digits of a hash of pixels, and how many of them name an image."""

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
    masks: Masks | None = None,
) -> pd.DataFrame:
    """Explain images with several explainers, and score each map: one row for each image, explainer and metric.

    The numbers are those that evaluate.py writes into `scores.parquet` for the same images and keys: explainers of one
    path walk once, and masked copies that several metrics read are scored once. What they cost an image, in passes
    and milliseconds, is in `attrs["cost"]` of the frame, which end of each metric is better in
    `attrs["higher_is_better"]`, and how many images have their object by a mask, by boxes or not at all in
    `attrs["annotations"]`; a warning says that a table has both.

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
        keys: Names of the images, which seed random draws; by default their paths where these are given, else a hash of
            their pixels, which then seed.
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
        masks: The same as segmentation masks, which count where an image has both: [B, 1, H, W] or [B, H, W] of zeros
            and ones; or for each image a PNG file or a PIL image of one channel, an array [H, W], or None, in pixels
            of the image, or of the picture where pictures are given.

    Returns:
        Columns key, explainer, metric, value (NaN where there is none), target (the class that was explained) and
        reason (why there is no value, else empty).

    Raises:
        ValueError: Something is unknown, or images, targets, boxes, masks or maps do not suit each other.
        TypeError: Something is of another type.
        FileNotFoundError: There is no picture at a path.
        UnsupportedError: A method does not work for this network.

    Example:
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 10))
        >>> def brightness(model, images, targets):
        ...     return images.mean(1)
        >>> frame = evaluate(network, torch.rand(2, 3, 8, 8), ["vanilla_gradient", brightness], "faithfulness")
        >>> frame[["explainer", "metric"]].values.tolist()[:2]
        [['vanilla_gradient', 'faithfulness'], ['brightness', 'faithfulness']]
    """
    check_count("batch_size", batch_size, 1)
    if transfer is not None and not isinstance(transfer, Classifier):
        raise TypeError(f"`transfer` must be a dre.models.Classifier, got {type(transfer).__name__}; wrap it")
    computed = _metrics(metrics)
    given = batch_or_pictures(images)
    with torch.inference_mode(False), torch.no_grad():
        wrapped = as_classifier(classifier, given, mean, std, weights, outputs)
        wrapped = on_device(wrapped, device, is_own=classifier)
        keep_memory_on_cpu(wrapped.mean.device)
        pixels = without_inference(pixels_of(given, wrapped))
        names, seeds = _keys(keys, images, pixels)
        batch = Batch(images=pixels, labels=torch.full((len(pixels),), -1, device=pixels.device), key=seeds)
        if targets is not None:
            batch["labels"] = class_targets(targets, pixels, wrapped)
        if boxes is not None or masks is not None:
            pictures = None if isinstance(given, Tensor) else given
            batch["objects"], batch["by_mask"] = find_objects(boxes, masks, pixels, pictures, wrapped.preprocessing)
            _warn_of_mixture(batch, computed)
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
    frame.attrs["annotations"] = counts = counted(annotation_kinds(batch).tolist())
    frame.attrs["settings"] = {name: _settings(metric, counts) for name, metric in computed.items()}
    frame.attrs["made_of"] = {"classifier": wrapped.name, "score": score}
    frame.attrs["cost"] = {name: meter.tally.summary() for name, meter in evaluator.meters.items()}
    return frame


def _rows(
    evaluator: Evaluator, measures: Measures, batch: Batch, batch_size: int, names: Mapping[str, str]
) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of the table, image by image."""
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


def _warn_of_mixture(batch: Batch, metrics: Mapping[str, ImageMean]) -> None:
    """Say that the objects of some images are masks and of others boxes, where a metric reads them."""
    counts = counted(annotation_kinds(batch).tolist())
    reading = [name for name, metric in metrics.items() if "objects" in arguments_of(metric)]
    if reading and counts["mask"] and counts["box"]:
        warnings.warn(
            f"{', '.join(reading)}: the objects of {counts['mask']} images are masks and of {counts['box']} boxes, "
            "which are larger; score them apart to compare their means",
            stacklevel=3,
        )


def _settings(metric: ImageMean, counts: Mapping[str, int]) -> str:
    """Describe what decides the values of a metric, to tell tables apart that are compared."""
    plain = {name: value for name, value in vars(metric).items() if isinstance(value, bool | int | float | str | tuple)}
    own = sorted((name, value) for name, value in plain.items() if not name.startswith("_"))
    objects = annotated_by(counts) if "objects" in arguments_of(metric) else ""
    return f"{type(metric).__name__} {own} {sorted(metric.sweeps.items())}{objects and f' by {objects}'}"


def _metrics(given: Metrics) -> dict[str, ImageMean]:
    """Return metrics by name, built where they are not."""
    if isinstance(given, str | ImageMean | type):
        given = [given]  # type: ignore[list-item]
    if not isinstance(given, Iterable):
        raise TypeError(f"`metrics` must be names or metrics of dre.metrics, got {type(given).__name__}")
    entries = dict(given) if isinstance(given, Mapping) else {_name_of(one): one for one in given}
    found = {}
    for name, one in entries.items():
        metric = metric_by_name(one) if isinstance(one, str) else one
        metric = metric() if callable(metric) and not isinstance(metric, nn.Module) else metric
        if not isinstance(metric, ImageMean):
            raise TypeError(f"metric {name!r} must be a name or a metric of dre.metrics, got {type(one).__name__}")
        found[str(name)] = metric
    if not found:
        raise ValueError("no metric to compute; name at least one, such as 'faithfulness'")
    return found


def _name_of(metric: Any) -> str:
    if isinstance(metric, ImageMean) or (isinstance(metric, type) and issubclass(metric, ImageMean)):
        return metric_name(metric if isinstance(metric, type) else type(metric))
    return str(metric)


def _keys(keys: Sequence[str] | None, given: Pictures, images: Tensor) -> tuple[list[str], list[str]]:
    """Return the names of images in the table, and the keys that tell them apart for random draws."""
    if keys is not None:
        names = [str(key) for key in keys]
        if len(names) != len(images) or len(set(names)) != len(names):
            raise ValueError(
                f"`keys` must name each of {len(images)} images once, got {len(names)} with {len(set(names))} different"
            )
        return names, names
    seen: Counter[str] = Counter()
    seeds = []
    for seed in pixel_keys(images):
        seeds.append(f"{seed} {seen[seed]}" if seen[seed] else seed)
        seen[seed] += 1
    paths = [given] if isinstance(given, str | PathLike) else given
    if isinstance(paths, list | tuple) and all(isinstance(path, str | PathLike) for path in paths):
        names = [str(path) for path in paths]
        if len(set(names)) == len(names):
            return names, seeds
    return [seed[:SHORT] + seed[HASH:] for seed in seeds], seeds
