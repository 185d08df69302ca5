"""Verdicts on claims: compare confidence intervals of paired differences with the claim's bounds."""

import math
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd

from dre.runs.results import RunResults
from dre.statistics import (
    Drawing,
    Interval,
    bootstrap_mean,
    crossed_mean,
    median_difference,
    normalise_across_explainers,
    paired_difference,
)

Verdict = Literal["holds", "does not hold", "undecided", "not run"]
FORMS = ("better", "level", "not_worse", "mean_of")
STATISTICS = ("mean", "median")
"""Of differences; means of one explainer against a bound have no other."""

TEST_KEYS = {*FORMS, "than", "with", "by", "margin", "below", "above", "metric", "higher", "over", "statistic"} | {
    "study",
    "quantity",
    "x",
    "since",
}
CLAIM_KEYS = {"id", "claim", "place", "note", "runs", "data", "tests", "exception_to", "study_file"}
LEAST = 16
"""Images below which an interval decides nothing: percentile intervals of a handful are too narrow."""

ERROR = 0.05
"""Chance of an interval to miss (Bonferroni): all comparisons of a claim share it where any can make it fail, and
candidates of which one is enough share it where any can make it hold."""

SMALL = 0.0005
"""Below this three decimals show nothing."""

Values: TypeAlias = "pd.Series | pd.DataFrame | str"
"""One value for each image, or one for each image and draw, or the reason why there are none."""

Difference = Callable[..., Interval]
"""The interval of the difference between two lists of values for the same images."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Hold one comparison.

    Args:
        text: What was compared.
        interval: Of what was compared; None where it could not be.
        low: The interval must lie above; None without such a bound.
        high: The interval must lie below.
        missing: Why there is no interval.
        least: Images below which nothing is decided.
        closed: The interval may touch its bounds, as no difference at all is level within a margin of 0.
        counts: Whether it takes part in the verdict; one that is only mentioned does not.
        strict: The interval that must lie outside for the claim to fail, where other comparisons could fail as well.
        chosen: The interval that must lie within for the claim to hold, where another candidate could have been it.
    """

    text: str
    interval: Interval | None
    low: float | None = 0.0
    high: float | None = None
    missing: str = ""
    least: int = LEAST
    closed: bool = False
    counts: bool = True
    strict: Interval | None = None
    chosen: Interval | None = None

    @property
    def verdict(self) -> Verdict:
        """Return what the interval says of the bounds: within them, outside, or neither."""
        if self.interval is None or self.interval.low is None or self.interval.high is None:
            return "undecided"
        if self.interval.count < self.least:
            return "undecided"
        place = self._place(self.interval)
        wider = {"holds": self.chosen, "does not hold": self.strict}.get(place)
        return place if wider is None or self._place(wider) == place else "undecided"

    def _place(self, interval: Interval) -> Verdict:
        if interval.low is None or interval.high is None:
            return "undecided"
        bottom = -math.inf if self.low is None else self.low
        top = math.inf if self.high is None else self.high
        is_above = operator.ge if self.closed else operator.gt
        if is_above(interval.low, bottom) and is_above(top, interval.high):
            return "holds"
        if is_above(interval.high, bottom) and is_above(top, interval.low):
            return "undecided"
        return "does not hold"

    def figure(self) -> str:
        """Write the comparison with its interval."""
        if self.interval is None or self.interval.mean is None:
            return f"{self.text}: {self.missing or 'no common image'}"
        if self.interval.low is None or self.interval.high is None:
            return f"{self.text} {_figure(self.interval.mean)}, no interval"
        few = ", too few" if self.interval.count < self.least else ""
        images = f" of {self.interval.count}{few}" if self.interval.count else ""  # a study gives none
        mean, low, high = map(_figure, (self.interval.mean, self.interval.low, self.interval.high))
        return f"{self.text} {mean} [{low}, {high}]{images}"


def _figure(value: float) -> str:
    """Write three decimals, or two digits of what they would round away."""
    return f"{value:.3f}" if value == 0 or abs(value) >= SMALL else f"{value:.1e}"


def check_claim(claim: Mapping[str, Any]) -> None:
    """Refuse an entry of the list that nothing here can decide, with what is wrong in it."""
    unknown = sorted(set(claim) - CLAIM_KEYS)
    if unknown:
        raise ValueError(f"claim {claim.get('id')} has {unknown[0]!r}; known are {', '.join(sorted(CLAIM_KEYS))}")
    kinds = [kind for kind in ("tests", "exception_to", "study_file") if kind in claim]
    if len(kinds) != 1 or ("runs" in claim) != (kinds == ["tests"]):
        raise ValueError(f"claim {claim['id']} needs `tests` with `runs`, or `exception_to`, or `study_file`")
    for test in claim.get("tests", []):
        statistic = test.get("statistic", "mean")
        if statistic not in STATISTICS or ("mean_of" in test and "statistic" in test):
            raise ValueError(
                f"claim {claim['id']}: `statistic` is {' or '.join(STATISTICS)}, of differences; got {test}"
            )
        forms = [form for form in FORMS if test.get(form)]
        unknown = sorted(set(test) - TEST_KEYS)
        if len(forms) != 1 or unknown or ("metric" in test) == ("study" in test):
            raise ValueError(
                f"claim {claim['id']}: a test needs one of {', '.join(FORMS)} of a metric or study: {test}"
            )


def all_of(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the verdict on a claim whose parts must all hold: one that fails decides."""
    found = list(verdicts)
    if "does not hold" in found:
        return "does not hold"
    return "holds" if found and all(verdict == "holds" for verdict in found) else "undecided"


def any_of(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the verdict on a claim of which one part must hold: it fails where all fail."""
    found = list(verdicts)
    if "holds" in found:
        return "holds"
    return "does not hold" if found and all(verdict == "does not hold" for verdict in found) else "undecided"


def decide(tests: Sequence[Mapping[str, Any]], run: RunResults) -> tuple[Verdict, list[Finding]]:
    """Decide all tests of a claim on one run; rivals that do not work for its network are shown and do not count."""
    verdicts: list[Verdict] = []
    shown: list[Finding] = []
    unsupported = set(run.record.get("unsupported", []))
    strict = Drawing(level=1 - ERROR / max(1, _comparisons(tests, unsupported)))
    for test in tests:
        for key in ("than", "with"):
            absent = [name for name in test.get(key, []) if name in unsupported]
            mentioned = [Finding(name, None, missing=run.record["left_out"][name], counts=False) for name in absent]
            shown += [one for one in mentioned if one not in shown]
            test = {**test, key: [name for name in test[key] if name not in unsupported]} if absent else test
        candidates = list(_findings(test, run, strict))
        verdicts.append(any_of(all_of(one.verdict for one in findings) for findings in candidates))
        best = max(candidates, key=lambda findings: sum(one.verdict == "holds" for one in findings))
        shown += best
    return all_of(verdicts), shown


def _comparisons(tests: Sequence[Mapping[str, Any]], unsupported: set[str]) -> int:
    """Count what can fail: rivals, or means, of all tests."""
    return sum(len(set(test.get("than", test.get("with", test.get("mean_of", [])))) - unsupported) for test in tests)


def _findings(test: Mapping[str, Any], run: RunResults, strict: Drawing) -> Iterator[list[Finding]]:
    """Return the comparisons of a test, once for each candidate of which one is enough."""
    sign = _sign(test, run)
    what = ("scaled " if "over" in test else "") + (test.get("metric") or test["quantity"])
    interval = median_difference if test.get("statistic") == "median" else paired_difference
    if "mean_of" in test:
        limits = (test.get("above"), test.get("below"))
        yield [_single(f"{name} {what}", _values(test, run, name), limits, strict) for name in test["mean_of"]]
        return
    form = next(form for form in FORMS if form in test)
    first, rivals = test[form], test["with" if form == "level" else "than"]
    margin, closed = test.get("margin", 0.0), form != "better"
    bounds = {"better": (test.get("by", 0.0), None), "level": (-margin, margin), "not_worse": (-margin, None)}[form]
    candidates = {name: _values(test, run, name) for name in (first if isinstance(first, list) else [first])}
    could = sum(not isinstance(values, str) for values in candidates.values())
    levels = (strict, Drawing(level=1 - ERROR / could) if could > 1 else None)
    for name, values in candidates.items():
        yield [
            replace(
                _paired(f"{name} - {rival} {what}", values, _values(test, run, rival), sign, bounds, interval, levels),
                closed=closed,
            )
            for rival in rivals
        ]


def _single(text: str, values: Values, bounds: tuple[float | None, float | None], strict: Drawing) -> Finding:
    if isinstance(values, str):
        return Finding(text, None, *bounds, missing=values)
    found = values.to_numpy(dtype=np.float64)
    mean = crossed_mean if found.ndim == 2 else bootstrap_mean
    return Finding(text, mean(found), *bounds, strict=mean(found, strict))


def _paired(
    text: str,
    one: Values,
    other: Values,
    sign: int,
    bounds: tuple[float | None, float | None],
    difference: Difference,
    levels: tuple[Drawing, Drawing | None],
) -> Finding:
    if isinstance(one, str) or isinstance(other, str):
        return Finding(text, None, *bounds, missing=one if isinstance(one, str) else str(other))
    text = text if sign > 0 else f"-({text})"
    if isinstance(one, pd.DataFrame):
        gaps = (sign * (one - other)).dropna(how="all").to_numpy(dtype=np.float64)
        strict, chosen = (None if level is None else crossed_mean(gaps, level) for level in levels)
        return Finding(text, crossed_mean(gaps), *bounds, strict=strict, chosen=chosen)
    common = pd.concat({"one": sign * one, "other": sign * other}, axis=1, join="inner")
    pair = common["one"], common["other"]
    strict, chosen = (None if level is None else difference(*pair, level) for level in levels)
    return Finding(text, difference(*pair), *bounds, strict=strict, chosen=chosen)


def _sign(test: Mapping[str, Any], run: RunResults) -> int:
    """Return 1 where higher is better, -1 where lower is."""
    known = run.summary["directions"].get(test.get("metric"))
    return -1 if test.get("higher", known) is False else 1


def _scores(test: Mapping[str, Any], run: RunResults) -> pd.DataFrame:
    """Return the rows of the metric, scaled for each image where the test says over which explainers."""
    rows = run.scores[run.scores["metric"] == test["metric"]]
    if "over" not in test:
        return rows
    scaled = normalise_across_explainers(rows[rows["explainer"].isin(test["over"])], test["metric"])
    return rows.iloc[:0] if scaled is None else scaled.frame


def _values(test: Mapping[str, Any], run: RunResults, explainer: str) -> Values:
    """Return one value for each image: of the metric, or of the study at `x`, less that at `since`."""
    if "metric" in test:
        rows = _scores(test, run)
        rows = rows[rows["explainer"] == explainer]
        if rows.empty:
            return run.measured({"explainer": explainer, "metric": test["metric"]}).reason or "no value"
        return rows.set_index("key")["value"]
    path = run.directory / f"{test['study']}.parquet"
    if not path.is_file():
        return f"{test['study']} is not part of {run.directory}"
    frame = pd.read_parquet(path)
    frame = frame[(frame["explainer"] == explainer) & (frame["quantity"] == test["quantity"])]
    found = _by_image(frame[frame["x"] == test["x"]])
    if "since" in test:
        found = found - _by_image(frame[frame["x"] == test["since"]])
    return "not measured in this run" if found.empty else found


def _by_image(rows: pd.DataFrame) -> "pd.Series | pd.DataFrame":
    """Return the value of each image, or a table of images and draws."""
    return rows.pivot(index="key", columns="draw", values="value") if "draw" in rows else rows.set_index("key")["value"]
