"""Statistics of a table of scores: intervals of means, paired tests, ranks, and scaling of scores per image.

A table has one row per image, explainer and metric, with columns key, explainer, metric and value. SciPy computes the
tests; these modules decide which images enter them.
"""

from dre.statistics.intervals import Drawing, Interval, bootstrap_mean, bootstrap_means, crossed_mean
from dre.statistics.paired import holm, median_difference, paired_difference, rank_biserial, wilcoxon_p
from dre.statistics.ranks import Ranking, critical_difference, rank_explainers
from dre.statistics.summary import Directions, summarise, summarise_points
from dre.statistics.tables import Normalised, normalise_across_explainers, pivot

__all__ = [
    "Directions",
    "Drawing",
    "Interval",
    "Normalised",
    "Ranking",
    "bootstrap_mean",
    "bootstrap_means",
    "critical_difference",
    "crossed_mean",
    "holm",
    "median_difference",
    "normalise_across_explainers",
    "paired_difference",
    "pivot",
    "rank_biserial",
    "rank_explainers",
    "summarise",
    "summarise_points",
    "wilcoxon_p",
]
