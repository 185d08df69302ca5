"""Tables of papers from several runs: `python -m benchmarks.results table dre_table3 results/dre_table3/001 ...`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from dre.environment import one_line_errors
from dre.reporting.paper_table import join, joint_markdown
from dre.reporting.papers import paper_table_file, read_paper_table
from dre.reporting.run_results import RunResults


def table_text(name: str, directories: Sequence[Path]) -> str:
    """Set the figures of several runs beside those of a paper."""
    paper = read_paper_table(paper_table_file(name))
    return joint_markdown(join(paper, [RunResults(directory) for directory in directories]))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    table = commands.add_parser("table", help="one table of a paper from several runs")
    table.add_argument("name", help="of a file in configs/papers")
    table.add_argument("runs", nargs="+", type=Path, help="directories that evaluate.py wrote")
    given = parser.parse_args(arguments)
    print(table_text(given.name, given.runs))


if __name__ == "__main__":
    with one_line_errors():
        main()
