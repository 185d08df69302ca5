"""Give every metric what it asks for: its arguments are found by their names."""

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from dre.metrics.image_mean import ImageMean
from dre.types import Explained, Sweep

PER_IMAGE = ("saliency", "images", "objects", "targets", "keys")
"""What an evaluation knows of each image and explainer, beside what was read of its masked versions."""


def arguments(metric: ImageMean) -> tuple[str, ...]:
    """Name what `update` takes."""
    return tuple(inspect.signature(metric.update).parameters)


def check_feedable(name: str, metric: ImageMean) -> None:
    """Refuse a metric that asks for what an evaluation of one classifier does not have."""
    unknown = [argument for argument in arguments(metric) if argument not in (*PER_IMAGE, *metric.sweeps)]
    if unknown:
        raise ValueError(
            f"metric {name} ({type(metric).__name__}) asks for `{unknown[0]}`, which an evaluation cannot give; it "
            f"gives {', '.join(PER_IMAGE)} and the sweeps that the metric declares"
        )


def feed(metric: ImageMean, batch: Mapping[str, Any], readings: Mapping[Sweep, Tensor]) -> Tensor:
    """Update a metric with a batch; its value for each image, float64 [B], NaN where it left the image out.

    Args:
        metric: To update.
        batch: By the names of `PER_IMAGE`, as far as they are known.
        readings: What each sweep read, [B, columns].
    """
    known = {**batch, **{name: readings[sweep] for name, sweep in metric.sweeps.items()}}
    metric.update(**{name: known[name] for name in arguments(metric)})
    return metric.latest


def of_explainer(outputs: Explained, explainer: str) -> tuple[dict[str, Any], dict[Sweep, Tensor], list[str]]:
    """Take from a test step what `feed` needs for one explainer, without images whose map is broken.

    Returns:
        The batch, what each sweep read, and the keys of the images that are left out.
    """
    fine = ~outputs["broken"][explainer]
    keys = list(zip(outputs["key"], fine.tolist(), strict=True))
    batch: dict[str, Any] = {"keys": [key for key, keep in keys if keep], "images": outputs["images"][fine]}
    batch |= {"saliency": outputs["saliency"][explainer][fine], "targets": outputs["targets"][fine]}
    if "objects" in outputs:
        batch["objects"] = outputs["objects"][fine]
    readings = {sweep: read[fine] for sweep, read in outputs["scores"][explainer].items()}
    return batch, readings, [key for key, keep in keys if not keep]
