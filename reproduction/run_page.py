"""Results page of a run that belongs to no paper table: scores, studies, settings and what was left out."""

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from PIL import Image

from dre.reporting.cells import cell, markdown_table
from dre.reporting.markdown import summary_markdown
from dre.runs.results import RunResults, read_json, without_folders

COLUMNS = 5
"""Quantities of a study side by side in one table."""

Place = tuple[str, float]
"""An explainer, or the classifier, and x."""

Rows = tuple[Place, ...]


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


COLOURS = 64
"""Of a chart."""

LINES = 32
"""Colours of a chart of few lines."""

PIXELS, SHADES = 290_000, 128
"""Most pixels, whatever the shape, and colours of a picture of photographs."""


def small(content: bytes, colours: int = COLOURS) -> bytes:
    """Take fewer colours, where that makes a picture smaller."""
    buffer = io.BytesIO()
    picture = Image.open(io.BytesIO(content)).convert("RGB").quantize(colours, method=Image.Quantize.MEDIANCUT)
    picture.save(buffer, "PNG", optimize=True)
    return min(content, buffer.getvalue(), key=len)


def shrunk(content: bytes) -> bytes:
    """Make a picture of photographs smaller, in a palette of its own with the rest dithered."""
    picture = Image.open(io.BytesIO(content)).convert("RGB")
    scale = min(1.0, math.sqrt(PIXELS / (picture.width * picture.height)))
    picture = picture.resize((round(scale * picture.width), round(scale * picture.height)), Image.Resampling.LANCZOS)
    palette = picture.quantize(SHADES, method=Image.Quantize.MEDIANCUT, kmeans=3)
    buffer = io.BytesIO()
    picture.quantize(SHADES, palette=palette, dither=Image.Dither.FLOYDSTEINBERG).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
