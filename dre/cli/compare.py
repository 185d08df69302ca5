"""Compare the explainers of a run, or of two runs: `python -m dre.cli.compare RUN [RUN]`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from dre.evaluation.comparison import compare
from dre.reporting.cells import markdown_table, p_text, with_arrow
from dre.reporting.terminal import printable, terminal_text


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the paired differences with their 95 % intervals as a table that fits the terminal, or as Markdown."""
    parser = argparse.ArgumentParser(prog="python -m dre.cli.compare", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="one or two directories of evaluate.py")
    parser.add_argument("--reference", help="with one run, only the pairs with this explainer")
    parser.add_argument("--explainers", nargs="+", help="those to compare; all by default")
    parser.add_argument("--metrics", nargs="+", help="those to compare; all by default")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown, of any width")
    given = parser.parse_args(arguments)
    if len(given.runs) > 2:
        parser.error(f"one run or two are compared, got {len(given.runs)}")
    try:
        frame = compare(*given.runs, reference=given.reference, explainers=given.explainers, metrics=given.metrics)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"python -m dre.cli.compare: {error}")
    print(table_of(frame) if given.markdown else printable(terminal_text(tables_of(frame))))


def tables_of(frame: pd.DataFrame) -> str:
    """Return what `dre.compare` found as a table for each metric, with the arrow to its better end."""
    directions, notes = frame.attrs.get("higher_is_better", {}), frame.attrs.get("notes", ())
    parts = []
    for metric, part in frame.groupby("metric", sort=False):
        parts += [with_arrow(str(metric), directions), _table(part.drop(columns="metric"))]
    return "\n\n".join([*parts, "\n".join(f"- {note}" for note in notes)])


def table_of(frame: pd.DataFrame) -> str:
    """Return what `dre.compare` found as Markdown, and what else differs below."""
    return "\n".join([_table(frame), *(f"- {note}" for note in frame.attrs.get("notes", ()))])


def _table(frame: pd.DataFrame) -> str:
    sides = [name for name in ("metric", "explainer", "first", "second") if name in frame]
    rows = [
        [
            *(str(row[name]) for name in sides),
            *(f"{row[name]:+.4f}" if pd.notna(row[name]) else "-" for name in ("mean", "low", "high")),
            str(row["count"]),
            p_text(None if pd.isna(row["p_holm"]) else row["p_holm"]),
            row["better"] or row["reason"],
        ]
        for row in frame.to_dict("records")
    ]
    header = [*sides, "first - second", "from", "to", "images", "p (Holm)", "better"]
    return markdown_table(header, rows, texts=len(sides))


if __name__ == "__main__":
    main()
