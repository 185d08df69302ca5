"""Names of metrics in run files, tables and calls: the words of their classes."""

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
