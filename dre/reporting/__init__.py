"""Reports of an evaluation: Markdown tables, figures and an HTML page."""

from dre.reporting.figures import write_rank_diagrams
from dre.reporting.gallery import Example
from dre.reporting.heat_map import comparisons_figure, distances_figure
from dre.reporting.markdown import details_markdown, recipe_lines, summary_markdown
from dre.reporting.page import Report, report_html
from dre.reporting.terminal import terminal_text

__all__ = [
    "Example",
    "Report",
    "comparisons_figure",
    "details_markdown",
    "distances_figure",
    "recipe_lines",
    "report_html",
    "summary_markdown",
    "terminal_text",
    "write_rank_diagrams",
]
