"""Learned and path-based visual explanations of image classifiers.

`dre.explain` and `dre.list_explainers` are imported when they are first used, so that `import dre` loads no model
library.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dre.explain import explain, list_explainers

__all__ = ["explain", "list_explainers"]


def __getattr__(name: str) -> Any:
    """Import what a notebook needs on first use."""
    if name not in __all__:
        raise AttributeError(f"module 'dre' has no attribute {name!r}")
    module = importlib.import_module("dre.explain")
    return module if name == "explain" else module.list_explainers
