"""The mean of a paper's networks, from one run of ours on each."""

from collections.abc import Mapping, Sequence
from typing import Any

from dre.reporting.run_results import Measured, RunResults


class NetworksMean:
    """Stand in a table for runs of several networks: the first run of each counts.

    Args:
        condition: Names the networks as a list, and the data.
        runs: To choose from.
    """

    def __init__(self, condition: Mapping[str, Any], runs: Sequence[RunResults]) -> None:
        of_each = {
            name: [run for run in runs if run.is_about({**condition, "network": name})] for name in condition["network"]
        }
        self.runs = {name: found[0] for name, found in of_each.items() if found}
        self.missing = [name for name, found in of_each.items() if not found]

    @property
    def label(self) -> str:
        """Say shortly of what it is the mean."""
        there = list(self.runs.values())
        images = " + ".join(str(run.images) for run in there)
        return f"mean of {len(there) + len(self.missing)} networks, {there[0].data} ({images})"

    @property
    def directory(self) -> str:
        """Directories of the runs."""
        return " + ".join(str(run.directory) for run in self.runs.values())

    def measured(self, at: Mapping[str, Any]) -> Measured:
        """Weigh each network alike, without an interval; the reason where a network has no figure."""
        if self.missing:
            return Measured(None, reason=f"the mean needs a run of {' and one of '.join(self.missing)}")
        found = {name: run.measured(at) for name, run in self.runs.items()}
        values = [one.value for one in found.values() if one.value is not None]
        if len(values) < len(found):
            reasons = "; ".join(f"{name}: {one.reason}" for name, one in found.items() if one.value is None)
            return Measured(None, reason=f"no mean, for {reasons}")
        return Measured(sum(values) / len(values), count=sum(one.count for one in found.values()))
