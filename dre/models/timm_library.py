"""Import of timm when a network of it is first asked for, without wandb."""

import importlib
import sys
from functools import lru_cache
from typing import Any


@lru_cache
def timm_library() -> Any:
    """Return the module `timm`.

    Its training utilities import wandb where it is installed, which takes a second and which no network needs; they
    do without it where the import fails.
    """
    is_held_back = "wandb" not in sys.modules
    if is_held_back:
        sys.modules["wandb"] = None  # type: ignore[assignment]
    try:
        library = importlib.import_module("timm")
        importlib.import_module("timm.data")
    finally:
        if is_held_back:
            del sys.modules["wandb"]
    return library
