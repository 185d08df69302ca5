"""Learned and path-based visual explanations of image classifiers.

The model library is loaded when something is explained: `import dre` takes milliseconds.
"""

from typing import TYPE_CHECKING, Any

from dre import renamed

if TYPE_CHECKING:
    from dre.api import explain, list_explainers

__all__ = ["explain", "list_explainers"]

renamed.install()


def __getattr__(name: str) -> Any:
    """Import `dre.explain` and `dre.list_explainers` on first use."""
    if name == "__version__":
        from importlib.metadata import version

        return version("dre")
    if name not in __all__:
        raise AttributeError(f"module 'dre' has no attribute {name!r}")
    from dre import api

    globals().update({public: getattr(api, public) for public in __all__})
    return globals()[name]
