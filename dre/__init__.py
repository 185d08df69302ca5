"""Learned and path-based visual explanations of image classifiers.

The model library is loaded when something is explained: `import dre` takes milliseconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dre import renamed

if TYPE_CHECKING:
    from dre.api import explain, list_explainers
    from dre.evaluation.comparison import compare
    from dre.evaluation.display import show
    from dre.evaluation.frame import evaluate
    from dre.evaluation.metric_agreement import agreement

MODULES = {
    "dre.api": ("explain", "list_explainers"),
    "dre.evaluation.metric_agreement": ("agreement",),
    "dre.evaluation.comparison": ("compare",),
    "dre.evaluation.display": ("show",),
    "dre.evaluation.frame": ("evaluate",),
}
"""Where the public functions are, which are imported on first use: metrics take seconds to import, and explain none."""

__all__ = ["agreement", "compare", "evaluate", "explain", "list_explainers", "show"]

renamed.install()


def __getattr__(name: str) -> Any:
    """Import a public function on first use."""
    if name == "__version__":
        from importlib.metadata import version

        return version("dre")
    if name not in __all__:
        raise AttributeError(f"module 'dre' has no attribute {name!r}")
    home = next(module for module, names in MODULES.items() if name in names)
    globals().update({public: getattr(import_module(home), public) for public in MODULES[home]})
    return globals()[name]
