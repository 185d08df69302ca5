"""The public explainers by the names of their methods: what there is and what each takes."""

import importlib
import inspect
import re

from dre.explainers.base import Explainer
from dre.models import Classifier

IRREGULAR = {"MGnet": "mgnet"}
"""Names of methods that are not the words of their class."""

WORD_STARTS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def method_name(kind: type[Explainer]) -> str:
    """Give the snake_case name of an explainer's class.

    Example:
        >>> from dre.explainers import SAMPPlusPlus
        >>> method_name(SAMPPlusPlus)
        'samp_plus_plus'
    """
    return IRREGULAR.get(kind.__name__) or WORD_STARTS.sub("_", kind.__name__).lower()


def catalogue() -> dict[str, type[Explainer]]:
    """Give every explainer that `dre.explainers` makes public and that a classifier is enough to build, by method."""
    package = importlib.import_module("dre.explainers")  # not at the top: the package imports this family's files
    public = (getattr(package, name) for name in package.__all__)
    kinds = [kind for kind in public if isinstance(kind, type) and issubclass(kind, Explainer)]
    return {method_name(kind): kind for kind in kinds if not inspect.isabstract(kind) and not _asks_for_more(kind)}


def suitable_explainers(classifier: Classifier) -> list[str]:
    """Name the methods that work for a classifier; whether a learned one has been trained for it is not asked."""
    return [name for name, kind in sorted(catalogue().items()) if not kind.obstacle(classifier)]


def options_of(kind: type[Explainer]) -> list[str]:
    """Name the arguments of an explainer beside the classifier, those that it hands on to its parents included."""
    names: dict[str, None] = {}
    for owner in kind.__mro__:
        if "__init__" not in vars(owner):
            continue
        parameters = [one for one in inspect.signature(owner).parameters.values() if one.name != "classifier"]
        names |= {one.name: None for one in parameters if one.kind is not one.VAR_KEYWORD}
        if not any(one.kind is one.VAR_KEYWORD for one in parameters):
            break
    return list(names)


def summary(kind: type[Explainer]) -> str:
    """Give the first line of an explainer's docstring."""
    return (inspect.getdoc(kind) or "").partition("\n")[0]


def _asks_for_more(kind: type[Explainer]) -> bool:
    """Whether something besides the classifier has to be given."""
    parameters = list(inspect.signature(kind).parameters.values())[1:]
    return any(one.default is one.empty and one.kind is not one.VAR_KEYWORD for one in parameters)
