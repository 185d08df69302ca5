"""A summary of scores as text, pictures and a page."""

from dre.reporting.markdown import details_markdown, summary_markdown

__all__ = ["details_markdown", "summary_markdown"]
