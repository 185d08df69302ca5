"""Say whether the metrics of a run rank its explainers alike: `python -m dre.cli.agree RUN`."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from dre.evaluation.metric_agreement import Agreement, agreement
from dre.reporting.cells import markdown_table, with_arrow
from dre.reporting.heat_map import comparisons_figure
from dre.reporting.terminal import printable, terminal_text


def main(arguments: Sequence[str] | None = None) -> None:
    """Print average ranks, Kendall's W and rank correlations with intervals as tables of the terminal's width."""
    given = _parser().parse_args(arguments)
    try:
        found = agreement(given.run, given.explainers, given.metrics)
        if given.picture is not None:
            matrix = found.matrix()
            title = "rank correlation of metrics"
            figure = comparisons_figure({title: matrix.to_numpy(copy=True)}, list(matrix), ("", ""))
            figure.savefig(given.picture, dpi=110)
    except (ValueError, OSError) as error:
        sys.exit(f"python -m dre.cli.agree: {error}")
    print(report(found) if given.markdown else printable(terminal_text(report(found, found.directions))))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m dre.cli.agree", description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="directory of evaluate.py")
    parser.add_argument("--explainers", nargs="+", help="those to rank; all by default, also the references")
    parser.add_argument("--metrics", nargs="+", help="those to compare; all by default")
    parser.add_argument("--picture", type=Path, help="PNG file for the matrix of correlations")
    parser.add_argument("--markdown", action="store_true", help="print tables of Markdown, of any width")
    return parser


def report(found: Agreement, directions: Mapping[str, bool | None] | None = None) -> str:
    """Return the tables of an agreement as Markdown: ranks and W by metric, then correlations and their intervals.

    Args:
        found: The agreement.
        directions: Of the metrics, which get an arrow to their better end; none do when not given.
    """
    metrics = list(found.ranks.columns)
    value, low, high = found.concordance
    lines = [
        f"Kendall's W of {len(metrics)} metrics about {len(found.explainers)} explainers: "
        f"{value:.2f} {_range(low, high)}.",
        "",
        _ranks(found, directions or {}),
        "",
        "Spearman's correlation of the average ranks below the diagonal, its 95 % interval over images above:",
        "",
        _correlations(found, metrics),
    ]
    if found.left_out:
        lines += ["", *(f"- {name} is left out: {reason}" for name, reason in found.left_out.items())]
    return "\n".join(lines)


def _ranks(found: Agreement, directions: Mapping[str, bool | None]) -> str:
    own = found.within.set_index("metric")
    rows = [
        [
            str(place),
            with_arrow(metric, directions),
            *(f"{rank:.1f}" for rank in found.ranks[metric]),
            str(own.loc[metric, "images"]),
            f"{own.loc[metric, 'concordance']:.2f}",
        ]
        for place, metric in enumerate(found.ranks, 1)
    ]
    return markdown_table(["", "average rank by", *found.explainers, "images", "W of the images"], rows, texts=2)


def _correlations(found: Agreement, metrics: list[str]) -> str:
    rows = [[str(place), metric, *[""] * len(metrics)] for place, metric in enumerate(metrics, 1)]
    places = {metric: place for place, metric in enumerate(metrics)}
    for pair in found.correlations.to_dict("records"):
        first, second = places[pair["first"]], places[pair["second"]]
        rows[second][2 + first] = _number(pair["correlation"])
        rows[first][2 + second] = _range(pair["low"], pair["high"])
    return markdown_table(["", "metric", *map(str, range(1, len(metrics) + 1))], rows, texts=2)


def _range(low: float, high: float) -> str:
    return "(one image has no interval)" if np.isnan(low) else f"[{_number(low)}, {_number(high)}]"


def _number(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.2f}".replace("0.", ".").replace("-.00", ".00")


if __name__ == "__main__":
    main()
