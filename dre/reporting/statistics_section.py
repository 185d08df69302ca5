"""The statistics of a page: for each metric who differs from whom, by how much, and how sure that is."""

from collections.abc import Mapping
from html import escape
from typing import Any

from dre.reporting.cells import ALPHA, number, p_text, range_text, scales
from dre.reporting.html import Cell, figure, folded, paragraph, table
from dre.reporting.markdown import ranks_text
from dre.reporting.ranks_figure import critical_difference_diagram
from dre.reporting.style import readable, svg_bytes


def content(summary: Mapping[str, Any]) -> list[str]:
    """Give the parts: a diagram of ranks, what it says, and all pairs to unfold, metric by metric."""
    parts = []
    for metric, factor in scales(summary).items():
        pairs, ranks = summary["comparisons"][metric], summary["ranks"].get(metric)
        if not pairs:
            continue
        parts.append(f"<h3>{escape(readable(metric))}</h3>")
        if ranks is not None:
            title = f"{readable(metric)}: average ranks"
            drawing = svg_bytes(critical_difference_diagram(ranks, title, summary["explainers"]))
            parts.append(figure(f"ranks-{metric}", drawing, ranks_text(ranks)))
        else:
            parts.append(paragraph("Neither end of this metric is better, so the explainers are not ranked by it."))
        sure = sum(pair["p_holm"] is not None and pair["p_holm"] < ALPHA for pair in pairs)
        title = f"All {len(pairs)} pairs; {sure} differ at {ALPHA:g} after Holm's correction"
        parts.append(folded(title, _pairs(metric, pairs, factor, summary["level"])))
    return parts


def _pairs(metric: str, pairs: list[dict[str, Any]], factor: float, level: float) -> str:
    rows: list[list[Cell | str]] = []
    for pair in pairs:
        is_sure = pair["p_holm"] is not None and pair["p_holm"] < ALPHA
        difference = Cell(number(pair["mean"], factor), note=range_text(pair, factor), kind="best" if is_sure else "")
        tests = [p_text(pair["p_value"]), p_text(pair["p_holm"]), number(pair["effect_size"]), str(pair["count"])]
        rows.append([f"{readable(pair['first'])} - {readable(pair['second'])}", difference, *tests])
    header = ["difference", "mean", "Wilcoxon's p", "after Holm", "rank-biserial", "common images"]
    caption = (
        f"First minus second on their common images{', x 100' if factor > 1 else ''}, with {level:.0%} bootstrap "
        "intervals. Rank-biserial: 1 when the first is higher on every image, -1 when the second is."
    )
    return table(f"pairs-{metric}", header, rows, caption)
