"""Command lines of train.py and evaluate.py."""
