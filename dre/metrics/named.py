"""Metrics by name: every metric of an evaluation as it is without options, and faithfulness under other fills."""

import difflib
from collections.abc import Callable
from functools import partial

from dre import metrics
from dre.metrics.base import ImageMean, check_feedable
from dre.metrics.words import metric_name
from dre.types import Blur

SHORT = {"aic": "AccuracyInformationCurve", "sic": "SoftmaxInformationCurve"}
"""Names that the field uses, and the classes behind them."""

FEW = 11
"""Areas of faithfulness under a further fill."""

FILLS: dict[str, Callable[[], ImageMean]] = {
    "faithfulness_blur25": partial(metrics.Faithfulness, steps=FEW, fill=Blur(25.0)),
    "faithfulness_image_mean": partial(metrics.Faithfulness, steps=FEW, fill="image_mean"),
    "faithfulness_black": partial(metrics.Faithfulness, steps=FEW, fill="black"),
    "faithfulness_noise": partial(metrics.Faithfulness, steps=FEW, fill="noise"),
    "faithfulness_transfer": partial(metrics.Faithfulness, steps=FEW, by="transfer"),
}
"""As `configs/evaluate/robust.yaml` names them."""


def named_metrics() -> dict[str, Callable[[], ImageMean]]:
    """Return how to build each metric that an evaluation can feed, by the words of its class.

    Example:
        >>> named_metrics()["faithfulness_black"]().sweep.fill
        'black'
    """
    kinds = [getattr(metrics, name) for name in metrics.__all__]
    found = {
        metric_name(kind): kind
        for kind in kinds
        if isinstance(kind, type) and issubclass(kind, ImageMean) and _is_ready(kind)
    }
    return found | {name: getattr(metrics, kind) for name, kind in SHORT.items()} | FILLS


def metric_by_name(name: str) -> ImageMean:
    """Build a metric by its name.

    Raises:
        ValueError: There is none of that name.
    """
    known = named_metrics()
    if name not in known:
        near = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise ValueError(f"unknown metric {name!r}; {hint}known are {', '.join(sorted(known))}")
    return known[name]()


def _is_ready(kind: type[ImageMean]) -> bool:
    """Return whether a metric needs no options and reads nothing but what an evaluation has."""
    try:
        check_feedable("", kind(), has_transfer=True)
    except (TypeError, ValueError):
        return False
    return True
