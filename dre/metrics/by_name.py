"""Metrics by name: every metric of an evaluation as it is without options, and faithfulness under other fills."""

import difflib
from collections.abc import Callable
from functools import partial
from typing import Any

from dre import metrics
from dre.metrics.base import ImageMean, check_feedable
from dre.metrics.words import metric_name
from dre.types import Blur

SHORT = {"aic": "AccuracyInformationCurve", "sic": "SoftmaxInformationCurve"}
"""Names that the field uses, and the classes behind them."""

FEW = 11
"""Areas of faithfulness under a further fill."""

FILLS: dict[str, dict[str, Any]] = {
    "faithfulness_blur25": {"steps": FEW, "fill": Blur(25.0)},
    "faithfulness_image_mean": {"steps": FEW, "fill": "image_mean"},
    "faithfulness_black": {"steps": FEW, "fill": "black"},
    "faithfulness_noise": {"steps": FEW, "fill": "noise"},
    "faithfulness_noisy_linear": {"steps": FEW, "fill": "noisy_linear"},
    "faithfulness_transfer": {"steps": FEW, "by": "transfer"},
}
"""Options of `Faithfulness` by name; `configs/evaluate/robust.yaml` has all but that over imputed pixels."""


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
    fills = {name: partial(metrics.Faithfulness, **options) for name, options in FILLS.items()}
    return found | {name: getattr(metrics, kind) for name, kind in SHORT.items()} | fills


def metric_by_name(name: str) -> ImageMean:
    """Build a metric by its name.

    Raises:
        ValueError: There is none of that name.
    """
    return _known(name)()


def metric_entry(name: str) -> str | dict[str, Any]:
    """Return what a run file writes for a metric that is named: its class, with options where it has any.

    Raises:
        ValueError: There is none of that name.

    Example:
        >>> metric_entry("insertion"), metric_entry("faithfulness_black")["init_args"]
        ('dre.metrics.Insertion', {'steps': 11, 'fill': 'black'})
    """
    build = _known(name)
    if name not in FILLS:
        return f"dre.metrics.{build.__name__}"
    options = dict(FILLS[name])
    if isinstance(options.get("fill"), Blur):
        options["fill"] = {"class_path": "dre.types.Blur", "init_args": {"sigma": options["fill"].sigma}}
    return {"class_path": "dre.metrics.Faithfulness", "init_args": options}


def _known(name: str) -> Callable[[], ImageMean]:
    known = named_metrics()
    if name not in known:
        near = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise ValueError(f"unknown metric {name!r}; {hint}known are {', '.join(sorted(known))}")
    return known[name]


def _is_ready(kind: type[ImageMean]) -> bool:
    """Return whether a metric needs no options and reads nothing but what an evaluation has."""
    try:
        check_feedable("", kind(), has_transfer=True)
    except (TypeError, ValueError):
        return False
    return True
