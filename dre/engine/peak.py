"""Peak memory of a stretch of work, on a GPU and on a CPU under Linux."""

import ctypes
import sys
from pathlib import Path

import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
CLEAR_PEAK = "5"


class PeakMemory:
    """Measure how much memory a stretch of work takes beyond what was held before.

    On a GPU that is what PyTorch allocates. On a CPU it is the process's resident memory, on Linux alone: freed blocks
    are given back first, so that what an earlier explainer needed does not hide what this one needs.

    Args:
        device: Where the work happens.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.before: int | None = None
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self.before = torch.cuda.memory_allocated(device)
        elif device.type == "cpu" and sys.platform.startswith("linux"):
            self.before = _start_watching()

    def read(self) -> int | None:
        """Return the bytes beyond the start at the highest point since; None where the system does not say."""
        if self.before is None:
            return None
        if self.device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self.device)) - self.before
        peak = _status("VmHWM:")
        return None if peak is None else max(0, peak - self.before)


def _start_watching() -> int | None:
    """Reset the kernel's record of the highest resident memory, and say what is resident now."""
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        CLEAR.write_text(CLEAR_PEAK)
    except (OSError, AttributeError):  # another C library, or a kernel that does not allow it
        return None
    return _status("VmRSS:")


def _status(name: str) -> int | None:
    for line in STATUS.read_text().splitlines():
        if line.startswith(name):
            return 1024 * int(line.split()[1])
    return None
