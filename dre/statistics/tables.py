"""Table of scores as images x explainers, and min-max across explainers for each image."""

from dataclasses import dataclass

import numpy as np
import pandas as pd


@dataclass(frozen=True, slots=True)
class Normalised:
    """Hold the scores after min-max across explainers.

    Args:
        frame: The rows, named `<metric>_normalised`.
        explainers: The set that the values depend on.
        degenerate: Images left out because all explainers have the same value.
        incomplete: Images left out because an explainer has no finite value.

    Example:
        >>> import pandas as pd
        >>> Normalised(pd.DataFrame(), ("a", "b"), degenerate=0, incomplete=2).incomplete
        2
    """

    frame: pd.DataFrame
    explainers: tuple[str, ...]
    degenerate: int
    incomplete: int


def normalise_across_explainers(frame: pd.DataFrame, metric: str) -> Normalised | None:
    """Scale the values of each image so that its lowest explainer has 0 and its highest 1.

    The values depend on which explainers are compared. Return None when there is only one.

    Args:
        frame: A table of scores; values that are not finite count as missing.
        metric: Whose rows are scaled.

    Raises:
        ValueError: An explainer has two values for an image.
        KeyError: A column is missing.

    Source: Fu et al. 2021, who report M_F so.

    Example:
        >>> import pandas as pd
        >>> rows = [("cat", "a", "deletion", 0.2), ("cat", "b", "deletion", 0.4), ("cat", "c", "deletion", 0.3)]
        >>> frame = pd.DataFrame(rows, columns=["key", "explainer", "metric", "value"])
        >>> normalise_across_explainers(frame, "deletion").frame["value"].round(3).tolist()
        [0.0, 1.0, 0.5]
    """
    scaled = scale_across_explainers(pivot(frame, metric))
    if scaled is None:
        return None
    table, degenerate, incomplete = scaled
    rows = table.rename_axis(index="key", columns="explainer").stack().rename("value").reset_index()
    rows.insert(2, "metric", f"{metric}_normalised")
    return Normalised(rows, tuple(table.columns), degenerate, incomplete)


def scale_across_explainers(wide: pd.DataFrame) -> tuple[pd.DataFrame, int, int] | None:
    """Return `pivot`'s table after the same scaling, and how many images were degenerate, and incomplete."""
    if wide.shape[1] < 2:
        return None
    complete = wide.dropna()
    low, spread = complete.min(axis=1), complete.max(axis=1) - complete.min(axis=1)
    varied = spread > 0
    scaled = complete[varied].sub(low[varied], axis=0).div(spread[varied], axis=0)
    return scaled, int((~varied).sum()), len(wide) - len(complete)


def pivot(frame: pd.DataFrame, metric: str, infinite: bool = False) -> pd.DataFrame:
    """Return one metric as a table of images x explainers; a value that is missing or not finite is NaN.

    Args:
        frame: Columns key, explainer, metric and value.
        metric: Which.
        infinite: Infinite values stay, as an order needs them.

    Raises:
        ValueError: An explainer has two values for an image.
        KeyError: A column is missing.

    Example:
        >>> import pandas as pd
        >>> rows = [("cat", "a", "deletion", 0.2), ("cat", "b", "deletion", 0.4)]
        >>> pivot(pd.DataFrame(rows, columns=["key", "explainer", "metric", "value"]), "deletion").loc["cat"].to_dict()
        {'a': 0.2, 'b': 0.4}
    """
    rows = frame.loc[frame["metric"] == metric, ["key", "explainer", "value"]]
    coded = [name for name in ("key", "explainer") if isinstance(rows[name].dtype, pd.CategoricalDtype)]
    if len(coded) == 2:
        table = _by_codes(rows, infinite)
        if table is not None:
            return table
    wide = rows.astype({name: rows[name].cat.categories.dtype for name in coded}).pivot(
        index="key", columns="explainer", values="value"
    )
    return wide if infinite else wide.where(np.isfinite(wide))


def _by_codes(rows: pd.DataFrame, infinite: bool) -> pd.DataFrame | None:
    """Return `pivot`'s table from the codes of two categories; None where a row is there twice or lacks a name."""
    names = [rows[column].cat.categories for column in ("key", "explainer")]
    image, explainer = (rows[column].cat.codes.to_numpy() for column in ("key", "explainer"))
    times = np.zeros((len(names[0]), len(names[1])), dtype=np.uint8)
    values = np.full(times.shape, np.nan)
    if len(rows) and min(image.min(), explainer.min()) < 0:
        return None
    times[image, explainer] = 1
    values[image, explainer] = rows["value"].to_numpy(dtype=np.float64)
    if times.sum(dtype=np.int64) < len(rows):
        return None
    if not infinite:
        values[~np.isfinite(values)] = np.nan
    wide = pd.DataFrame(values, names[0].rename("key"), names[1].rename("explainer"))
    used = wide.loc[times.any(axis=1), times.any(axis=0)]
    return used.sort_index().sort_index(axis=1)
