"""Agreement of metrics: do they rank the explainers alike? Rank correlations and Kendall's W, with intervals."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import rankdata

from dre.evaluation.scores import NEEDED, Scores, Side, chosen, names_in, side_of
from dre.runs.locks import read_json
from dre.statistics.intervals import DRAWING, DRAWS_IN_MEMORY, Drawing
from dre.statistics.tables import pivot

NORMALISED = "_normalised"
"""End of the names of metrics that are scaled across explainers, image by image, which leaves ranks as they are."""

FEWEST = 3
"""Explainers below which a ranking has too few places to correlate."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Hold how far metrics rank explainers alike.

    Args:
        explainers: Those that are ranked.
        ranks: Average rank of each explainer (row) by each metric (column) over the images; 1 is the best.
        correlations: One row for each pair of metrics: first, second, correlation, low and high.
        within: One row for each metric: images, and concordance, Kendall's W of its images as judges. It has no
            interval: resampled images are judges that agree with themselves.
        concordance: Kendall's W of the metrics as judges, with its interval: value, low, high.
        left_out: By metric, why it is not compared.
        directions: By metric, whether more of it is better.

    Example:
        >>> Agreement([], pd.DataFrame(), pd.DataFrame(), pd.DataFrame(), (1.0, 1.0, 1.0), {}).concordance[0]
        1.0
    """

    explainers: list[str]
    ranks: pd.DataFrame
    correlations: pd.DataFrame
    within: pd.DataFrame
    concordance: tuple[float, float, float]
    left_out: dict[str, str]
    directions: dict[str, bool | None] = field(default_factory=dict)

    def matrix(self) -> pd.DataFrame:
        """Return the correlations as a symmetric table of metrics x metrics, 1 on its diagonal."""
        names = list(self.ranks.columns)
        square = pd.DataFrame(np.eye(len(names)), index=names, columns=names)
        for row in self.correlations.to_dict("records"):
            for first, second in ((row["first"], row["second"]), (row["second"], row["first"])):
                square.loc[first, second] = row["correlation"]
        return square


def agreement(
    scores: Scores,
    explainers: Sequence[str] | None = None,
    metrics: Sequence[str] | None = None,
    drawing: Drawing = DRAWING,
) -> Agreement:
    """Compare how metrics rank explainers: Spearman's correlation of each pair of metrics, and Kendall's W of all.

    A metric ranks the explainers on each image, by its better direction; equal values share the mean of their ranks.
    The average rank over images is what metrics are compared by, so neither their scale nor their spread counts.
    Intervals are of resampled images, the same for all metrics; the explainers stay as they are. Few explainers make
    coarse correlations, and references that every metric puts last raise them all: leave those out by `explainers`.

    Args:
        scores: A table of `dre.evaluate` or `scores.parquet`, or the directory of a run, whose studies then count as
            metrics where they measure something that has a better direction, such as noise stability.
        explainers: Those to rank, at least three; all when not given.
        metrics: Those to compare; all when not given. One without a better direction, or without an image on which all
            explainers have a value, is left out with the reason.
        drawing: How resamples are drawn.

    Raises:
        ValueError: A table lacks a column, there are fewer than three explainers, or fewer than two metrics remain.
        FileNotFoundError: There is no finished run in a directory.

    Source: Kendall and Babington Smith 1939 for W, with the correction for ties.

    Example:
        >>> values = {"a": 0.75, "b": 0.5, "c": 0.25}
        >>> rows = [(key, name, metric, values[name]) for key in "xy" for name in values for metric in ("one", "two")]
        >>> frame = pd.DataFrame(rows, columns=["key", "explainer", "metric", "value"])
        >>> frame.attrs["higher_is_better"] = {"one": True, "two": False}
        >>> found = agreement(frame)
        >>> float(found.matrix().loc["one", "two"]), found.concordance[0]
        (-1.0, 0.0)
    """
    side = _with_studies(side_of(scores, "the table"), scores)
    names = chosen(explainers, names_in(side.frame, "explainer"), "explainer")
    if len(names) < FEWEST:
        raise ValueError(f"rankings of fewer than {FEWEST} explainers say nothing, got {', '.join(names)}")
    wanted = chosen(metrics, names_in(side.frame, "metric"), "metric")
    ranked, left_out = _ranked(side, names, wanted)
    if len(ranked) < 2:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise ValueError(f"two metrics or more agree or not; {len(ranked)} can be compared ({reasons or 'no more'})")
    resampled = _resampled(list(ranked.values()), drawing)
    averages = np.stack([table.to_numpy().mean(axis=0) for table in ranked.values()])  # [metrics, explainers]
    ends = (1 - drawing.level) / 2, (1 + drawing.level) / 2
    every = kendall_w(averages), *_interval(kendall_w(resampled), ends)
    return Agreement(
        explainers=names,
        ranks=pd.DataFrame(averages.T, index=names, columns=list(ranked)),
        correlations=_correlations(list(ranked), averages, resampled, ends),
        within=_within(ranked),
        concordance=(float(every[0]), float(every[1]), float(every[2])),
        left_out=left_out,
        directions={metric: side.directions.get(metric) for metric in ranked},
    )


def kendall_w(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return Kendall's coefficient of concordance of judges, corrected for ties: in [0, 1], 1 where all rank alike.

    NaN where no judge makes a difference.

    Args:
        values: [..., judges, items]; each judge's values are ranked, equal ones share the mean of their ranks.

    Source: Kendall and Babington Smith 1939.

    Example:
        >>> float(kendall_w(np.array([[1.0, 2.0, 3.0], [2.0, 4.0, 5.0]])))
        1.0
    """
    ranks = rankdata(values, axis=-1)
    judges, items = ranks.shape[-2:]
    sums = ranks.sum(axis=-2)
    spread = np.square(sums - sums.mean(axis=-1, keepdims=True)).sum(axis=-1)
    own = np.square(ranks - (items + 1) / 2).sum(axis=(-2, -1))  # ties lower it below judges (items^3 - items) / 12
    with np.errstate(invalid="ignore", divide="ignore"):
        found: NDArray[np.float64] = np.where(own > 0, spread / (judges * own), np.nan)
    return found


def _with_studies(side: Side, scores: Scores) -> Side:
    """Add what the studies of a run have measured image by image."""
    if isinstance(scores, pd.DataFrame):
        return side
    frame, directions = study_scores(Path(scores))
    table = pd.concat([side.frame[list(NEEDED)], frame], ignore_index=True) if len(frame) else side.frame
    return replace(side, frame=table, directions={**side.directions, **directions})


def study_scores(run: Path) -> tuple[pd.DataFrame, dict[str, bool]]:
    """Return what the studies of a run measured that has a better direction, and by quantity whether that is up.

    The table has the columns key, explainer, metric and value; draws, and places along a curve, are averaged.

    Args:
        run: Directory of an evaluation.
    """
    frames: list[pd.DataFrame] = []
    directions: dict[str, bool] = {}
    for path in sorted(run.glob("*.parquet")):
        better = read_json(path.with_suffix(".json")).get("directions")
        if better:  # another table, or a study whose numbers are neither good nor bad
            rows = pd.read_parquet(path)
            frames.append(rows[rows["quantity"].isin(better)].rename(columns={"quantity": "metric"}))
            directions |= better
    lead = ["key", "explainer", "metric"]
    frame = pd.concat(frames) if frames else pd.DataFrame(columns=[*lead, "value"])
    return frame.groupby(lead, sort=False, as_index=False)["value"].mean(), directions


def _ranked(side: Side, names: list[str], metrics: list[str]) -> tuple[dict[str, pd.DataFrame], dict[str, str]]:
    """Return by metric the ranks of the explainers, images x explainers, and why others have none."""
    ranked, left_out = {}, {}
    for metric in metrics:
        direction = side.directions.get(metric)
        if metric.removesuffix(NORMALISED) != metric and metric.removesuffix(NORMALISED) in metrics:
            left_out[metric] = f"it ranks as {metric.removesuffix(NORMALISED)}"
            continue
        if direction is None:
            left_out[metric] = "it has no better direction"
            continue
        complete = pivot(side.frame, metric, infinite=True).reindex(columns=names).dropna()
        if complete.empty:
            left_out[metric] = "no image has a value for every explainer"
            continue
        values = complete.to_numpy(np.float64)
        ranks = pd.DataFrame(rankdata(-values if direction else values, axis=1), complete.index, names)
        if np.ptp(ranks.to_numpy().mean(axis=0)) == 0:
            left_out[metric] = "all explainers have the same average rank"
            continue
        ranked[metric] = ranks
    return ranked, left_out


def _resampled(tables: list[pd.DataFrame], drawing: Drawing) -> NDArray[np.float64]:
    """Return average ranks of resampled images, [resamples, metrics, explainers]; all metrics share the resamples.

    A metric has the images of a resample on which it has values; a resample without one keeps its own average.
    """
    keys = sorted(set().union(*(table.index for table in tables)))
    if len(keys) < 2:  # one image resampled is the same image
        return np.full((1, len(tables), tables[0].shape[1]), np.nan)
    dense = [table.reindex(keys).to_numpy(np.float64) for table in tables]
    present = [np.isfinite(values).all(axis=1) for values in dense]
    draw = np.random.default_rng(drawing.seed)
    found = np.empty((drawing.resamples, len(tables), tables[0].shape[1]))
    step = max(1, DRAWS_IN_MEMORY // len(keys))
    for start in range(0, drawing.resamples, step):
        size = min(step, drawing.resamples - start)
        drawn = draw.integers(0, len(keys), (size, len(keys))) + len(keys) * np.arange(size)[:, None]
        times = np.bincount(drawn.ravel(), minlength=size * len(keys)).reshape(size, len(keys)).astype(np.float64)
        for place, (values, here) in enumerate(zip(dense, present, strict=True)):
            counts = times[:, here].sum(axis=1, keepdims=True)
            sums = times[:, here] @ values[here]
            found[start : start + size, place] = np.where(
                counts > 0, sums / np.maximum(counts, 1), values[here].mean(axis=0)
            )
    return found


def _interval(values: NDArray[np.float64], ends: tuple[float, float]) -> tuple[float, float]:
    """Return the ends of the resampled values that there are; NaN without any, as with one image."""
    found = values[np.isfinite(values)]
    if not len(found):
        return np.nan, np.nan
    low, high = np.quantile(found, ends)
    return float(low), float(high)


def _spearman(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the rank correlation along the last axis; NaN where one side has no differences."""
    sides = [rankdata(side, axis=-1) for side in (first, second)]
    sides = [side - side.mean(axis=-1, keepdims=True) for side in sides]
    sizes = np.sqrt(np.square(sides[0]).sum(axis=-1) * np.square(sides[1]).sum(axis=-1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(sizes > 0, (sides[0] * sides[1]).sum(axis=-1) / sizes, np.nan)


def _correlations(
    names: list[str], averages: NDArray[np.float64], resampled: NDArray[np.float64], ends: tuple[float, float]
) -> pd.DataFrame:
    rows = []
    for first in range(len(names)):
        for second in range(first + 1, len(names)):
            value = float(_spearman(averages[first], averages[second]))
            low, high = _interval(_spearman(resampled[:, first], resampled[:, second]), ends)
            rows.append((names[first], names[second], value, float(low), float(high)))
    return pd.DataFrame(rows, columns=["first", "second", "correlation", "low", "high"])


def _within(ranked: dict[str, pd.DataFrame]) -> pd.DataFrame:
    rows = [(metric, len(ranks), float(kendall_w(ranks.to_numpy(np.float64)))) for metric, ranks in ranked.items()]
    return pd.DataFrame(rows, columns=["metric", "images", "concordance"])
