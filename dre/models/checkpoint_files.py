"""Files of checkpoints: find them in the directories of runs, and load them without running code from them."""

import pickle
from pathlib import Path
from typing import Any

import torch

from dre.models.packed import PACKAGE, SHIPPED, SUFFIX, read_packed
from dre.models.weights import reason_of

LAST = Path("checkpoints") / "last.ckpt"
"""Where a run keeps its last checkpoint."""


def read_plain(path: str | Path) -> dict[str, Any]:
    """Load a file as plain data.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is truncated, no checkpoint, or carries code.
    """
    path = SHIPPED if str(path) == PACKAGE else path
    if Path(path).is_dir():
        path = next(iter(files_within(Path(path))), path)
    if not Path(path).is_file():
        raise FileNotFoundError(f"no checkpoint at {path}; `python train.py` makes one under runs/")
    if Path(path).suffix == SUFFIX:
        return read_packed(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} is not a checkpoint of plain tensors, so it is not opened: {reason_of(error)}; take another one"
        ) from None
    except Exception as error:  # a damaged file fails in any way
        raise ValueError(f"{path} is truncated or not a checkpoint: {reason_of(error)}; take another one") from None
    return content if isinstance(content, dict) else {}


def files_within(place: Path) -> list[Path]:
    """List the last checkpoints of a run directory or of a directory of runs, the newest first."""
    found = [path for pattern in (LAST, Path("*") / LAST) for path in place.glob(str(pattern))]
    return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)


def steps_of(path: Path) -> int:
    """Return how many steps a training had done when it wrote a checkpoint; -1 for a file that cannot be read."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return int(content["global_step"])
    except Exception:  # a damaged file fails in any way, and is named where it is loaded
        return -1
