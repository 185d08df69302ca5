"""Tests of all packages; here what must be set before any of them imports a numerical library."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
"""Of each process: two that test side by side, or the ranks of one job, share the cores."""
