"""Run directories: what a run writes, its record, its locks and its process."""

from dre import renamed

__getattr__ = renamed.getter(__name__)
