"""Reproduction of the five papers: their tables, claims and figures, and the pages that show them."""

from reproduction.callback import PaperTables

__all__ = ["PaperTables"]
