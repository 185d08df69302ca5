"""Example input of every metric by argument name; a new metric with the usual argument names needs no entry."""

import inspect
from typing import Any

import torch
from torchmetrics import Metric

import dre.metrics
from dre.types import Sweep

IMAGES = 12

BY_ARGUMENT: dict[str, Any] = {
    "explainers": ["dre", "random"],
    "metrics": ["faithfulness"],
    "explainer": "dre",
    "metric": "faithfulness",
}


def metric_classes() -> list[type[Metric]]:
    """Return every metric that `dre.metrics` exports, without the base class."""
    exported = [getattr(dre.metrics, name) for name in dre.metrics.__all__]
    classes = [entry for entry in exported if inspect.isclass(entry) and issubclass(entry, Metric)]
    return [entry for entry in classes if entry is not dre.metrics.ImageMean]


def make(metric_class: type[Metric]) -> Metric:
    required = [
        name
        for name, parameter in inspect.signature(metric_class).parameters.items()
        if parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    return metric_class(**{name: BY_ARGUMENT[name] for name in required})


def example(metric: Metric) -> dict[str, Any]:
    """One batch of 12 images as keyword arguments of `metric.update`."""
    generator = torch.Generator().manual_seed(0)
    saliency = torch.rand(IMAGES, 1, 6, 5, generator=generator)
    objects = (torch.rand(IMAGES, 1, 6, 5, generator=generator) > 0.5).float()
    objects[3] = 0  # an image without boxes
    batch = {
        "saliency": saliency,
        "objects": objects,
        "values": torch.rand(IMAGES, generator=generator),
        "images": torch.rand(IMAGES, 3, 6, 5, generator=generator),
        "reference": torch.rand(IMAGES, 1, 6, 5, generator=generator),
        "other_saliency": saliency.flip(dims=(3,)),
        "groups": ["first", "second"] * (IMAGES // 2),
        "keys": [f"image_{index:03d}" for index in range(IMAGES)],
        **BY_ARGUMENT,
    }
    for name, sweep in getattr(metric, "sweeps", {}).items():
        batch[name] = readings(sweep, generator)
    return {name: batch[name] for name in inspect.signature(metric.update).parameters}


def readings(sweep: Sweep, generator: torch.Generator) -> torch.Tensor:
    """Return readings of a sweep that grow with the share of the image that is shown."""
    values = torch.rand(IMAGES, max(1, sweep.draws), len(sweep.ratios), generator=generator)
    values = values.sort(dim=2, descending=sweep.kept == "rest").values.flatten(1)
    return (values > 0.5).float() if sweep.read == "correct" else values


def part(batch: dict[str, Any], start: int, stop: int) -> dict[str, Any]:
    """The images start..stop of a batch."""
    sliced = {}
    for name, value in batch.items():
        per_image = name not in BY_ARGUMENT
        sliced[name] = value[start:stop] if per_image else value
    return sliced
