"""Results page of a run that belongs to no paper table: scores, studies, settings and what was left out."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dre.reporting.cells import cell, markdown_table
from dre.reporting.markdown import summary_markdown
from dre.runs.locks import read_json
from dre.runs.results import RunResults, without_folders

COLUMNS = 5
"""Quantities of a study side by side in one table."""

Place = tuple[str, float]
"""An explainer, or the classifier, and x."""

Rows = tuple[Place, ...]


@dataclass(frozen=True, slots=True)
class Listed:
    """A run by a name that no other run on the page has.

    Args:
        run: As it was read.
        slug: Begins the names of its files.
        label: What was run on what, and which run it is where others are alike.
    """

    run: RunResults
    slug: str
    label: str


def list_runs(runs: Sequence[RunResults]) -> list[Listed]:
    """Name the runs: with the number where others are alike, with the folder where those have the number too."""
    alike = Counter(_slug(run) for run in runs)
    numbered = Counter((_slug(run), run.directory.resolve().name) for run in runs)
    listed = []
    for run in runs:
        slug, number = _slug(run), run.directory.resolve().name
        own = run.place if numbered[slug, number] > 1 else number if alike[slug] > 1 else ""
        label = f"{run.label}, run {own}" if own else run.label
        listed.append(Listed(run, f"{slug}_{own.replace('/', '_')}" if own else slug, label))
    slug, count = Counter(one.slug for one in listed).most_common(1)[0]
    if count > 1:
        twice = [str(one.run.directory) for one in listed if one.slug == slug]
        raise ValueError(f"{' and '.join(twice)} would both be called {slug}; leave one out")
    return listed


def _slug(run: RunResults) -> str:
    network = run.network.replace("/", "_").replace(" ", "_")
    return f"{run.name}_{network}_{run.data}"


def run_text(run: RunResults) -> str:
    """Write all that a run says, as Markdown below a heading."""
    parts = [summary_markdown(run.summary, reference=run.summary["reference"]).rstrip()]
    for path in sorted(run.directory.glob("*.json")):
        content = read_json(path)
        if content.get("study") == path.stem and content["points"]:
            parts += study_tables(content)
    parts.append("\n".join(f"- {line}" for line in (*settings(run), *left_out(run))))
    return "\n\n".join(filter(None, parts)) + "\n"


def study_tables(study: Mapping[str, Any]) -> Iterator[str]:
    """Write the points of a study, those of the same explainers and places side by side."""
    yield f"Study `{study['study']}` of {study['images']['studied']} images."
    found: dict[str, dict[Place, Mapping[str, Any]]] = {}
    for point in study["points"]:
        found.setdefault(point["quantity"], {})[point["explainer"], point["x"]] = point
    for rows in dict.fromkeys(tuple(sorted(entries)) for entries in found.values()):
        names = [name for name, entries in found.items() if tuple(sorted(entries)) == rows]
        place = study.get("x_labels", {}).get(names[0]) or "x"  # a run of an earlier version has no labels
        for start in range(0, len(names), COLUMNS):
            shown = names[start : start + COLUMNS]
            yield _table(rows, [found[name] for name in shown], ["explainer", place, *shown])


def _table(rows: Rows, columns: Sequence[Mapping[Place, Mapping[str, Any]]], header: Sequence[str]) -> str:
    """Write what was measured; where all was measured at one place, that is no column."""
    lines = [[one, f"{x:g}", *(cell(column[one, x], 1.0) for column in columns)] for one, x in rows]
    if len({x for _, x in rows}) > 1:
        return markdown_table(header, lines, texts=2)
    return markdown_table([header[0], *header[2:]], [[line[0], *line[2:]] for line in lines])


def settings(run: RunResults) -> Iterator[str]:
    """Return the numbers that explainers have for options: steps, points, samples."""
    for name in run.summary["explainers"]:
        options = run.options(name)
        numbers = {option: value for option, value in options.items() if type(value) in (int, float)}
        said = [f"{option} {value:g}" for option, value in numbers.items() if option != "seed"]
        if said:
            yield f"`{name}`: {', '.join(said)}."


def left_out(run: RunResults) -> Iterator[str]:
    """Name the explainers of the run file that were not evaluated, with the reason."""
    for name, reason in run.record.get("left_out", {}).items():
        yield f"`{name}` is left out: {without_folders(reason)}."
