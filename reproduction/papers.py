"""Paper tables as data: printed rows, columns and figures, and the run, explainer and metric that belong to each."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dre.runs.results import Measured, RunResults

FOLDER = Path("configs/papers")
CONDITIONS = ("network", "data")
"""Coordinates that belong to a run as a whole."""

COORDINATES = (*CONDITIONS, "explainer", "metric", "statistic", "study", "quantity", "x", "cost", "distance")
FACTS = ("networks", "data", "images")
"""What the paper says of its own runs."""

NO_FIGURE = "-"
Coordinates = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Entry:
    """Hold a row or a column.

    Args:
        label: As the paper prints it.
        group: Heading above it; empty where there is none.
        at: Where our own figure is found: some of `COORDINATES`; those of row and column together name one.
    """

    label: str
    group: str
    at: Coordinates

    @property
    def condition(self) -> Coordinates:
        """Return the network and the data that a column or row is about, as far as it is about certain ones."""
        return {name: self.at[name] for name in CONDITIONS if name in self.at}

    @property
    def is_mean(self) -> bool:
        """Return whether it is the mean of several networks, which `network` lists."""
        return isinstance(self.at.get("network"), list)

    @property
    def place(self) -> Coordinates:
        """Return the coordinates within a run."""
        return {name: value for name, value in self.at.items() if name not in CONDITIONS}


@dataclass(frozen=True, slots=True)
class Beside:
    """Figures of the paper outside the table, to which they belong.

    Args:
        place: Where they stand in the paper.
        caption: What they are, in our words.
        figures: As printed, by what each is of.
    """

    place: str
    caption: str
    figures: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class PaperTable:
    """Hold one table of a paper.

    Args:
        name: Of its file.
        source: Paper and table.
        place: Where it stands in the paper.
        caption: What it shows, in our words.
        facts: What the paper says of its networks, data and number of images.
        settings: By explainer, options that the paper names; what a run has otherwise is pointed out.
        scale: What our values are multiplied by to be printed as the paper prints them.
        decimals: Of our figures.
        rows: From top to bottom.
        columns: From left to right.
        figures: As printed, row by row; `-` where the paper has none.
        remark: What else a reader has to know to compare both.
        beside: More figures of the paper, which no cell holds.
    """

    name: str
    source: str
    place: str
    caption: str
    facts: Mapping[str, str]
    settings: Mapping[str, Mapping[str, Any]]
    scale: float
    decimals: int
    rows: tuple[Entry, ...]
    columns: tuple[Entry, ...]
    figures: tuple[tuple[str, ...], ...]
    remark: str = ""
    beside: tuple[Beside, ...] = ()


def paper_table_file(name: str) -> Path:
    """Find a table of a paper by its name; refuse one that is not there."""
    path = FOLDER / f"{name}.yaml"
    if not path.is_file():
        near = difflib.get_close_matches(name, [found.stem for found in FOLDER.glob("*.yaml")], n=3, cutoff=0.6)
        hint = f"did you mean {' or '.join(near)}?" if near else f"those that there are lie in {FOLDER}"
        raise FileNotFoundError(f"no table {name!r} of a paper; {hint}")
    return path


def read_paper_table(path: Path) -> PaperTable:
    """Read a table of a paper; refuse figures that do not fill its rows and columns, and unknown coordinates.

    A file has the arguments of `PaperTable`; every row and column has `label`, perhaps `group`, and its coordinates,
    and every row its `figures`, separated by spaces. A column whose `network` is a list is the mean of these.
    """
    content = yaml.safe_load(path.read_text())
    columns = tuple(_entry(path, found) for found in content["columns"])
    rows, figures = [], []
    for found in content["rows"]:
        printed = tuple(str(found.pop("figures")).split())
        rows.append(_entry(path, found))
        if len(printed) != len(columns):
            raise ValueError(f"{path}: row {rows[-1].label!r} has {len(printed)} figures for {len(columns)} columns")
        figures.append(printed)
    return PaperTable(
        name=path.stem,
        source=content["source"],
        place=content["place"],
        caption=content["caption"],
        facts={name: str(content[name]) for name in FACTS if name in content},
        settings=content.get("settings", {}),
        scale=float(content.get("scale", 1)),
        decimals=int(content.get("decimals", 3)),
        rows=tuple(rows),
        columns=columns,
        figures=tuple(figures),
        remark=content.get("remark", ""),
        beside=tuple(Beside(**found) for found in content.get("beside", ())),
    )


def _entry(path: Path, found: dict[str, Any]) -> Entry:
    at = {name: value for name, value in found.items() if name not in ("label", "group")}
    unknown = sorted(set(at) - set(COORDINATES))
    if unknown:
        raise ValueError(
            f"{path}: {found['label']!r} has the coordinate {unknown[0]!r}; known: {', '.join(COORDINATES)}"
        )
    return Entry(str(found["label"]), str(found.get("group", "")), at)


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
