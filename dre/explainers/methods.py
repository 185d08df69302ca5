"""Methods: the name of each explainer, its options, and the ones that work for a classifier."""

import difflib
import inspect
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dre import explainers, renamed
from dre.explainers.base import Explainer, UnsupportedError
from dre.models import Classifier

IDGI = "+idgi"
"""Behind the name of a path method: its gradients are summed by the rule of Yang et al. 2023."""

IRREGULAR = {"MGnet": "mgnet"}
"""Names of methods that do not follow from the words of their class."""

WORD_STARTS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def method_name(kind: type[Explainer]) -> str:
    """Return the method name of an explainer's class, its words in snake_case.

    Example:
        >>> from dre.explainers import SAMPPlusPlus
        >>> method_name(SAMPPlusPlus)
        'samp_plus_plus'
    """
    return IRREGULAR.get(kind.__name__) or WORD_STARTS.sub("_", kind.__name__).lower()


def catalogue() -> dict[str, type[Explainer]]:
    """Return every public explainer of `dre.explainers` that needs nothing but a classifier, by method name."""
    public = (getattr(explainers, name) for name in explainers.__all__)
    kinds = [kind for kind in public if isinstance(kind, type) and issubclass(kind, Explainer)]
    return {method_name(kind): kind for kind in kinds if not inspect.isabstract(kind) and not _asks_for_more(kind)}


def supported_explainers(classifier: Classifier) -> list[str]:
    """Return the methods that work for a classifier, learned ones too, whether or not a checkpoint for it exists."""
    return [name for name, kind in sorted(catalogue().items()) if not kind.unsupported(classifier)]


def options_of(kind: type[Explainer]) -> list[str]:
    """Return the arguments of an explainer beside the classifier, with those of its parents that it passes on."""
    names: dict[str, None] = {}
    for owner in kind.__mro__:
        if "__init__" not in vars(owner):
            continue
        parameters = [one for one in inspect.signature(owner).parameters.values() if one.name != "classifier"]
        names |= {one.name: None for one in parameters if one.kind is not one.VAR_KEYWORD}
        if not any(one.kind is one.VAR_KEYWORD for one in parameters):
            break
    return list(names)


def first_line(kind: type[Explainer]) -> str:
    """Return the first line of an explainer's docstring."""
    return (inspect.getdoc(kind) or "").partition("\n")[0]


def _asks_for_more(kind: type[Explainer]) -> bool:
    """Return whether the constructor requires more than the classifier."""
    parameters = list(inspect.signature(kind).parameters.values())[1:]
    return any(one.default is one.empty and one.kind is not one.VAR_KEYWORD for one in parameters)


def chosen_method(method: str, options: dict[str, Any]) -> tuple[type[Explainer], dict[str, Any]]:
    """Find the class of a method by its name, and check the names of its options; `+idgi` sets its rule.

    Raises:
        ValueError: There is no such method, it takes no such option, or `+idgi` does not apply to it.
    """
    name, known = method.removesuffix(IDGI), catalogue()
    if name not in known:
        near = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise ValueError(f"unknown method {method!r}; {hint}dre.list_explainers() names all")
    allowed = options_of(known[name])
    if method.endswith(IDGI):
        if "rule" not in allowed:
            raise ValueError(f"{name!r} walks no path, so {IDGI!r} does not apply to it; leave the suffix away")
        options = {"rule": explainers.idgi, **options}
    options = renamed.options(known[name].__name__, options)
    for option in options:
        if option not in allowed:
            raise ValueError(f"{name!r} takes no option {option!r}; it takes {', '.join(allowed)}")
    return known[name], options


def method_entry(method: str) -> str | dict[str, Any]:
    """Return what a run file writes for a method that is named: its class, with options where it needs any.

    Raises:
        ValueError: There is none of that name, or `+idgi` does not apply to it.

    Example:
        >>> method_entry("grad_cam"), method_entry("blur_ig+idgi")["init_args"]
        ('dre.explainers.GradCAM', {'rule': 'dre.explainers.idgi'})
    """
    kind, options = chosen_method(method, {})
    given: dict[str, Any] = {"rule": "dre.explainers.idgi"} if options else {}
    if "checkpoint" in options_of(kind):
        given["checkpoint"] = None  # that of the run
    place = f"dre.explainers.{kind.__name__}"
    return {"class_path": place, "init_args": given} if given else place


@contextmanager
def naming_supported() -> Iterator[None]:
    """Add to an `UnsupportedError` which methods work for the network.

    Raises:
        UnsupportedError: The one that is raised inside, with the list added.
    """
    try:
        yield
    except UnsupportedError as error:
        supported = ", ".join(supported_explainers(error.classifier))
        message = f"{error}; these work for {error.classifier.name}: {supported}"
        raise UnsupportedError(message, error.classifier) from None
