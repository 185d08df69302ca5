"""Benchmarks: speed and memory, as ratios that are measured in one process."""

import dre  # noqa: F401  # makes the commands of before work
