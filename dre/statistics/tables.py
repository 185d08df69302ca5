"""A table of scores, one row per image, explainer and metric, as images x explainers; min-max across explainers."""

from dataclasses import dataclass

import numpy as np
import pandas as pd


@dataclass(frozen=True, slots=True)
class Normalised:
    """What the min-max across explainers gave.

    Args:
        frame: The rows, named `<metric>_normalised`.
        explainers: The set that the values depend on.
        degenerate: Images left out because all explainers have the same value.
        incomplete: Images left out because an explainer has no finite value.
    """

    frame: pd.DataFrame
    explainers: tuple[str, ...]
    degenerate: int
    incomplete: int


def normalise_across_explainers(frame: pd.DataFrame, metric: str) -> Normalised | None:
    """Scale the values of each image so that its worst explainer has 0 and its best 1, as paper 003 reports M_F.

    The values depend on which explainers are compared. None when there is but one: then nothing can be scaled.

    Args:
        frame: A table of scores; values that are not finite count as missing.
        metric: Whose rows are scaled.
    """
    wide = pivot(frame, metric)
    if wide.shape[1] < 2:
        return None
    complete = wide.dropna()
    low, spread = complete.min(axis=1), complete.max(axis=1) - complete.min(axis=1)
    varied = spread > 0
    scaled = complete[varied].sub(low[varied], axis=0).div(spread[varied], axis=0)
    rows = scaled.rename_axis(index="key", columns="explainer").stack().rename("value").reset_index()
    rows.insert(2, "metric", f"{metric}_normalised")
    return Normalised(rows, tuple(wide.columns), int((~varied).sum()), len(wide) - len(complete))


def pivot(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Give one metric as a table of images x explainers; a value that is missing or not finite is NaN."""
    wide = frame[frame["metric"] == metric].pivot(index="key", columns="explainer", values="value")
    return wide.where(np.isfinite(wide))
