"""Memory of the C library: keep freed blocks for the next pass, in place of asking the system for fresh pages."""

import ctypes
import os
import sys
from functools import cache

import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST_KEPT = 1 << 30

SWITCH = "DRE_KEEP_MEMORY"
"""Variable of the environment that switches this off where it is 0."""


def keep_freed_memory() -> None:
    """Ask glibc to reuse freed blocks of up to 1 GiB, from now on and for the whole process.

    On a CPU fresh pages cost as much as the passes of a small network. Up to 2 GiB that were freed stay with the
    process. Does nothing with another C library, or where DRE_KEEP_MEMORY is 0.
    """
    if os.environ.get(SWITCH) == "0" or not sys.platform.startswith("linux"):
        return
    _settle()


def keep_memory_on_cpu(device: torch.device) -> None:
    """Do so where passes run on the CPU; a GPU has an allocator of its own."""
    if device.type == "cpu":
        keep_freed_memory()


@cache
def _settle() -> None:
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another C library
        return
    mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)
    mallopt(M_TRIM_THRESHOLD, 2 * LARGEST_KEPT - 1)
