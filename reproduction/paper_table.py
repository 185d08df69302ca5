"""Joint table of a paper's figures and ours, with the reason for each gap and every difference in settings."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from dre.reporting.cells import markdown_table
from dre.reporting.markdown import annotation_lines
from dre.runs.results import Measured, RunResults
from reproduction.papers import NO_FIGURE, Entry, NetworksMean, PaperTable

HOLE = "-"
NO_COUNTERPART = "†"
"""Marks rows and columns of the paper for which there is nothing of ours."""


@dataclass(frozen=True, slots=True)
class Slot:
    """Hold a row or a column of the joint table: the paper's own, or that of a run.

    Args:
        entry: Of the paper.
        run: Whose figures stand here, or the runs whose mean does; None for the paper's.
        number: Of the entry among those of the paper.
    """

    entry: Entry
    run: RunResults | NetworksMean | None
    number: int


@dataclass(slots=True)
class JointTable:
    """Hold a paper's table and our figures, ready to be written.

    Args:
        paper: The paper's table.
        runs: Whose figures stand beside it.
        rows: From top to bottom.
        columns: From left to right.
        cells: Text, row by row.
        found: Every figure of ours: its coordinates, run and value.
        reasons: Why figures are missing, numbered from 1 as the holes are.
        lonely: Rows and columns of the paper that have no counterpart.
    """

    paper: PaperTable
    runs: Sequence[RunResults]
    rows: list[Slot]
    columns: list[Slot]
    cells: list[list[str]] = field(default_factory=list)
    found: list[dict[str, Any]] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    lonely: list[Entry] = field(default_factory=list)


def join(paper: PaperTable, runs: Sequence[RunResults]) -> JointTable:
    """Put the figures of runs beside those of a paper, in its own layout.

    Where rows are about networks or data sets, every run adds one to each block of them; otherwise it adds columns, one
    for each that differs by more than network and data, and the means of networks that the paper has.

    Raises:
        ValueError: A run scored its masked images in bfloat16.
    """
    check_precision(runs)
    by_rows = any(row.condition for row in paper.rows)
    rows = _blocks(paper.rows, runs) if by_rows else [Slot(row, None, place) for place, row in enumerate(paper.rows)]
    columns = [Slot(column, None, place) for place, column in enumerate(paper.columns)]
    if not by_rows:
        columns += [slot for run in runs for slot in _of_run(paper.columns, run)]
        columns += _means(paper.columns, runs)
    table = JointTable(paper, runs, rows, columns)
    for row in rows:
        table.cells.append([_cell(table, row, column) for column in columns])
    _mark(table)
    return table


def check_precision(runs: Sequence[RunResults]) -> None:
    """Refuse runs that scored masked images in another precision than float32."""
    for run in runs:
        if (precision := run.config["model"].get("sweep_precision", "float32")) != "float32":
            raise ValueError(
                f"{run.directory} scored its masked images in {precision}, which tables of papers do not mix with "
                "others; evaluate again without --model.sweep_precision"
            )


def _blocks(entries: Sequence[Entry], runs: Sequence[RunResults]) -> list[Slot]:
    """Put each run's row behind the rows of the same block, which differ by network and data alone."""
    slots: list[Slot] = []
    for place, entry in enumerate(entries):
        slots.append(Slot(entry, None, place))
        is_last = place + 1 == len(entries) or entries[place + 1].place != entry.place
        slots += [Slot(entry, run, place) for run in runs if is_last]
    return slots


def _of_run(entries: Sequence[Entry], run: RunResults) -> list[Slot]:
    """Return a run's columns: one for each block."""
    places: dict[tuple[tuple[str, Any], ...], Slot] = {}
    for number, entry in enumerate(entries):
        places.setdefault(tuple(entry.place.items()), Slot(entry, run, number))
    return list(places.values())


def _means(entries: Sequence[Entry], runs: Sequence[RunResults]) -> list[Slot]:
    """Return a column for each mean of networks of which one at least was run."""
    numbered = [(number, entry) for number, entry in enumerate(entries) if entry.is_mean]
    slots = [Slot(entry, NetworksMean(entry.condition, runs), number) for number, entry in numbered]
    return [slot for slot in slots if isinstance(slot.run, NetworksMean) and slot.run.runs]


def _cell(table: JointTable, row: Slot, column: Slot) -> str:
    run = row.run or column.run
    if run is None:
        printed = table.paper.figures[row.number][column.number]
        return "" if printed == NO_FIGURE else printed
    at = {**row.entry.place, **column.entry.place}
    found = run.measured(at)
    table.found.append({"row": row.entry.label, "column": column.entry.label, "run": str(run.directory), **at})
    table.found[-1] |= asdict(found)
    return _text(table, found)


def _text(table: JointTable, found: Measured) -> str:
    if found.value is None:
        if found.reason not in table.reasons:
            table.reasons.append(found.reason)
        return f"{HOLE} ({table.reasons.index(found.reason) + 1})"
    scale, decimals = table.paper.scale, table.paper.decimals
    text = f"{found.value * scale:.{decimals}f}"
    if found.low is None or found.high is None:
        return text
    return f"{text} [{found.low * scale:.{decimals}f}, {found.high * scale:.{decimals}f}]"


def _mark(table: JointTable) -> None:
    """Find the paper's rows and columns without a counterpart: no run of that network and data, or no figure at all."""
    for slot in (*table.rows, *table.columns):
        condition = slot.entry.condition
        if slot.run is None and condition and not _has_counterpart(slot.entry, table.runs):
            table.lonely.append(slot.entry)
    measured = {entry["row"] for entry in table.found if entry["value"] is not None}
    if not any(row.condition for row in table.paper.rows):
        table.lonely += [row.entry for row in table.rows if row.entry.label not in measured]


def _has_counterpart(entry: Entry, runs: Sequence[RunResults]) -> bool:
    if entry.is_mean:
        return not NetworksMean(entry.condition, runs).missing
    return any(run.is_about(entry.condition) for run in runs)


def _names(table: JointTable) -> str:
    """List what has no counterpart: by its group and label, by the label alone where it is the same in every group."""
    everything = [*table.paper.rows, *table.paper.columns]

    def name(entry: Entry) -> str:
        alike = [other for other in everything if other.label == entry.label]
        is_same = all(other in table.lonely and other.condition == entry.condition for other in alike)
        return entry.label if len(alike) > 1 and is_same else f"{entry.group} {entry.label}".strip()

    return ", ".join(dict.fromkeys(map(name, table.lonely)))


def joint_markdown(table: JointTable) -> str:
    """Write the table, the reasons for its holes, and what differs from the paper."""
    paper = table.paper
    header = ["", *(_heading(slot, table) for slot in table.columns)]
    rows: list[list[str]] = []
    groups = [row.entry.group for row in table.rows]
    for place, (slot, cells) in enumerate(zip(table.rows, table.cells, strict=True)):
        if slot.entry.group and (place == 0 or groups[place - 1] != groups[place]):
            rows.append([f"**{slot.entry.group}**", *[""] * len(table.columns)])
        rows.append([_label(slot, table), *cells])
    parts = [f"## {paper.source}\n\n{paper.caption} ({paper.place}).", markdown_table(header, rows)]
    notes = [*(f"({number}) {reason}." for number, reason in enumerate(table.reasons, start=1)), *differences(table)]
    return "\n\n".join(parts) + "\n\n" + "\n".join(f"- {note}" for note in notes) + "\n"


def joint_json(table: JointTable) -> dict[str, Any]:
    """Return the paper's figures and ours as plain values."""
    paper = table.paper
    printed = [
        {"row": row.label, "column": column.label, "group": row.group or column.group, "printed": figure}
        for row, figures in zip(paper.rows, paper.figures, strict=True)
        for column, figure in zip(paper.columns, figures, strict=True)
        if figure != NO_FIGURE
    ]
    return {
        "table": paper.name,
        "source": paper.source,
        "place": paper.place,
        "scale": paper.scale,
        "paper": printed,
        "ours": table.found,
        "beside": [asdict(one) for one in paper.beside],
        "no_counterpart": [f"{entry.group} {entry.label}".strip() for entry in table.lonely],
        "differences": differences(table),
    }


def differences(table: JointTable) -> list[str]:
    """Say what differs between the paper's figures and ours."""
    paper, notes = table.paper, []
    for run in table.runs:
        smoke = "**tried out with random weights: these are no results.** " if run.is_smoke else ""
        ours = {
            "networks": f"{run.network}, weights {run.weights}",
            "data": run.data,
            "images": f"{run.images} explained",
        }
        said = "; ".join(f"{name}: {ours[name]} (paper: {paper.facts[name]})" for name in ours if name in paper.facts)
        notes.append(f"{smoke}{run.place}: {said or run.label}.")
        changed = [text for name, options in paper.settings.items() for text in _changed(run, name, options)]
        if changed:
            notes.append(f"**Settings other than the paper's** in {run.place}: {'; '.join(changed)}.")
        notes += _scaled_across(table, run)
        notes += _distant_from(table, run)
        notes += _annotated(table, run)
    if any(slot.run is not None for slot in (*table.rows, *table.columns)):
        notes.append(
            "Ours: means over images with 95 % bootstrap intervals; none where it is no mean, or of too few images."
        )
    if any(isinstance(slot.run, NetworksMean) for slot in table.columns):
        notes.append("Ours in a mean of networks: each weighs alike; there is no interval.")
    if table.lonely:
        notes.append(f"{NO_COUNTERPART} has no counterpart among these runs: {_names(table)}.")
    if paper.remark:
        notes.append(paper.remark)
    for one in paper.beside:
        figures = "; ".join(f"{name}: {figure:.{paper.decimals}f}" for name, figure in one.figures.items())
        notes.append(f"Beside the table ({one.place}): {one.caption}. {figures}.")
    return notes


def _scaled_across(table: JointTable, run: RunResults) -> list[str]:
    """Name the explainers that a min-max of this run depends on, where the table shows it."""
    entries = [slot.entry.at.get("metric") for slot in (*table.rows, *table.columns)]
    shown = [name for name in run.summary["normalised"] if name in entries]
    across = run.summary["normalised"]
    return [f"{name} in {run.place} is scaled across {', '.join(across[name]['explainers'])}." for name in shown]


def _distant_from(table: JointTable, run: RunResults) -> list[str]:
    """Name the explainers that a mean distance of this run is to, where the table shows it."""
    entries = (*table.paper.rows, *table.paper.columns)
    labels = [entry.label for entry in entries if "distance" in entry.at] if run.distances else []
    return [
        f"{one} in {run.place}: mean distance to the others of {', '.join(run.distances['explainers'])}."
        for one in labels
    ]


def _annotated(table: JointTable, run: RunResults) -> list[str]:
    """Say how many images of this run have masks and not boxes, where the table shows a metric that reads them."""
    entries = {slot.entry.at.get("metric") for slot in (*table.rows, *table.columns)}
    found = run.summary.get("annotations") or {"mask": 0, "metrics": []}
    shown = [metric for metric in found["metrics"] if metric in entries]
    return [f"{run.place}: {line}" for line in annotation_lines(run.summary, shown)] if found["mask"] else []


def _changed(run: RunResults, explainer: str, options: Mapping[str, Any]) -> Iterable[str]:
    own = run.options(explainer)
    for option, wanted in options.items():
        if own and own.get(option, wanted) != wanted:
            yield f"{explainer}: {option} {own[option]} instead of {wanted}"


def _heading(slot: Slot, table: JointTable) -> str:
    entry = slot.entry
    if slot.run is not None:
        alike = [other for other in table.columns if other.run is slot.run and other.entry.label == entry.label]
        name = entry.label if len(alike) == 1 else f"{entry.group} {entry.label}"
        return f"{slot.run.label}: {name}" if _names_a_place(table.columns) else f"**{slot.run.label}**"
    mark = f" {NO_COUNTERPART}" if entry in table.lonely else ""
    return f"{entry.group} {entry.label}{mark}".strip()


def _names_a_place(columns: Sequence[Slot]) -> bool:
    """Whether a run has more than one column."""
    return len({tuple(slot.entry.place.items()) for slot in columns}) > 1


def _label(slot: Slot, table: JointTable) -> str:
    if slot.run is not None:
        return f"**{slot.run.label}**"
    return f"{slot.entry.label} {NO_COUNTERPART}" if slot.entry in table.lonely else slot.entry.label
