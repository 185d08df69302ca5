"""Command lines of train.py and evaluate.py, and the W&B dashboard."""

from dre import renamed

__getattr__ = renamed.getter(__name__)
