"""What was measured of images under several conditions, one row for each point of a curve: mean, interval, counts."""

import numpy as np
import pandas as pd

from dre.statistics.intervals import DRAWING, Drawing, bootstrap_means

POINT = ["explainer", "quantity", "x"]
"""What tells one point from another."""


def summarise_points(frame: pd.DataFrame, drawing: Drawing = DRAWING) -> pd.DataFrame:
    """Summarise values of images over the images, one row for each explainer, quantity and place.

    Mean, median and the bootstrap interval are those of the finite values; how many these are is `count`. Beside it
    stand the values that are `undefined` (NaN) and `infinite`. What there is nothing to compute from is NaN.

    Args:
        frame: Columns key, explainer, quantity, x and value, a row for each image and point.
        drawing: How resamples are drawn.
    """
    columns = [*POINT, "mean", "low", "high", "standard_error", "median", "count", "undefined", "infinite"]
    if frame.empty:
        return pd.DataFrame(columns=columns)
    wide = frame.pivot(index="key", columns=POINT, values="value").sort_index(axis=1)
    intervals = bootstrap_means(wide.to_numpy(dtype=np.float64), drawing)
    values = {point: group.to_numpy(dtype=np.float64) for point, group in frame.groupby(POINT)["value"]}
    rows = []
    for point, interval in zip(wide.columns, intervals, strict=True):
        found = values[point]
        finite = found[np.isfinite(found)]
        median = float(np.median(finite)) if len(finite) else np.nan
        ends = (interval.mean, interval.low, interval.high, interval.standard_error)
        counts = (len(finite), int(np.isnan(found).sum()), int(np.isinf(found).sum()))
        rows.append((*point, *(np.nan if end is None else end for end in ends), median, *counts))
    return pd.DataFrame(rows, columns=columns)
