"""Reproduction of five papers: their tables, claims and figures beside those of this code."""

from reproduction.callback import PaperTables

__all__ = ["PaperTables"]
