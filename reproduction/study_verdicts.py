"""Verdicts on claims about distances between maps, from means and deviations that the distance study stores."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student

from dre.statistics import Interval
from reproduction.verdicts import ERROR, Finding, Verdict, all_of
from reproduction.xmgd_study.study_questions import SETTINGS


def decide_by_study(entries: Sequence[Mapping[str, Any]], path: Path) -> tuple[Verdict, list[Finding]]:
    """Decide by the study of distances: deviations over few resamples or settings make intervals by Student's t.

    A figure without a deviation leaves its claim undecided.
    """
    content = json.loads(path.read_text())
    findings = []
    for entry in entries:
        first, error = _of_study(content, entry["first"], entry.get("deviations"))
        text = " ".join(entry["first"][1:]) + _range(content, entry["first"])
        if "second" in entry:
            second, other_error = _of_study(content, entry["second"], entry.get("deviations"))
            first, text = first - second, f"{text} - {' '.join(entry['second'][1:])}"
            error = None if error is None or other_error is None else float(np.hypot(error, other_error))
        freedom = (_found(content, ["resamples"]) if "deviations" in entry else len(SETTINGS)) - 1
        plain, strict = (
            _around(first, error, student.ppf(1 - chance / 2, freedom)) for chance in (ERROR, ERROR / len(entries))
        )
        findings.append(Finding(text, plain, least=0, strict=strict))
    return all_of(finding.verdict for finding in findings), findings


def _around(mean: float, error: float | None, quantile: float) -> Interval:
    margin = math.nan if error is None else quantile * error
    low, high = (mean - margin, mean + margin) if math.isfinite(margin) else (None, None)
    return Interval(mean, low, high, error, 0)


def _of_study(content: Mapping[str, Any], place: Sequence[str], deviations: str | None) -> tuple[float, float | None]:
    found = _found(content, place)
    if isinstance(found, list):  # mean and deviation, or mean and range
        return float(found[0]), float(found[1]) if len(found) == 2 else None
    spread = content.get(deviations or "", {}).get(place[1], {}).get(place[2])
    return float(found), None if spread is None else float(spread)


def _found(content: Mapping[str, Any], place: Sequence[str]) -> Any:
    found: Any = content
    for name in place:
        if name not in found:
            raise ValueError(f"the study of distances has no {' / '.join(place)}; it was made by other code")
        found = found[name]
    return found


def _range(content: Mapping[str, Any], place: Sequence[str]) -> str:
    """Say between what a quantity lies over the settings of the study, where it is known."""
    found = _found(content, place)
    return (
        f" ({found[1]:.2f} to {found[2]:.2f} over the settings)" if isinstance(found, list) and len(found) == 3 else ""
    )
