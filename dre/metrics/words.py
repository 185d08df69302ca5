"""Names of metrics in run files, tables and calls, the words of their classes, and what they say they are."""

import inspect
import re

from torchmetrics import Metric

WORD_STARTS = re.compile(r"(?<=[a-z])(?=[A-Z])")


def metric_name(kind: type[Metric]) -> str:
    """Return the words of a metric's class in snake_case.

    Example:
        >>> from torchmetrics import SumMetric
        >>> metric_name(SumMetric)
        'sum_metric'
    """
    return WORD_STARTS.sub("_", kind.__name__).lower()


def definition(metric: Metric) -> str:
    """Return what a metric computes, in the first line of its docstring; nothing where it has none of its own.

    Example:
        >>> from dre.metrics import Road
        >>> definition(Road())[:22]
        'Compute the mean over '
    """
    own = type(metric).__doc__
    return inspect.cleandoc(own).partition("\n")[0] if own else ""
