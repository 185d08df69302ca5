"""Explainers as a user names them: methods, explainers, functions and finished maps, built for one classifier."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from dre.evaluation.evaluator import check_name
from dre.explainers import Explainer, FunctionExplainer, Precomputed
from dre.explainers.base import UnsupportedError
from dre.explainers.function import is_attribution
from dre.explainers.methods import chosen_method, method_name, naming_supported
from dre.models import Classifier

Given = str | tuple[str, dict[str, Any]] | Explainer | Callable[..., Any] | Tensor | np.ndarray[Any, Any]
"""One explainer: the name of a method, with options or without, an explainer or what builds one, a function that
returns maps, or maps."""


def build_explainers(
    given: Given | Iterable[Given] | Mapping[str, Given], classifier: Classifier, keys: Sequence[str], images: Tensor
) -> dict[str, Explainer]:
    """Return explainers of a classifier by the names that tables show.

    Args:
        given: See `dre.evaluate`.
        classifier: What they explain.
        keys: Of the images, for maps that are finished.
        images: [B, C, H, W].

    Raises:
        ValueError: One has no name of its own, is unknown, or belongs to another classifier.
        TypeError: One is of another type.
    """
    found: dict[str, Explainer] = {}
    for name, one in _named(given):
        check_name(name)
        if name in found:
            raise ValueError(f"two explainers are called {name!r}; give them as {{name: explainer}}")
        with naming_supported():
            found[name] = _built(name, one, classifier, keys, images)
    if not found:
        raise ValueError("no explainer to evaluate; name at least one, such as 'grad_cam'")
    return found


def _named(given: Given | Iterable[Given] | Mapping[str, Given]) -> list[tuple[str, Given]]:
    if isinstance(given, Mapping):
        return [(str(name), one) for name, one in given.items()]
    is_one = isinstance(given, str | Explainer | Tensor | np.ndarray) or callable(given) or _has_options(given)
    if not is_one and not isinstance(given, Iterable):
        raise TypeError(f"`explainers` must be a name, an explainer, a function or several, got {type(given).__name__}")
    several = [cast(Given, given)] if is_one else list(cast(Iterable[Given], given))
    return [(_name_of(one), one) for one in several]


def _has_options(value: object) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], dict)


def _name_of(one: Given) -> str:
    if isinstance(one, str):
        return one
    if isinstance(one, tuple):
        return str(one[0])
    if isinstance(one, Tensor | np.ndarray):
        return "maps"
    if isinstance(one, Explainer) or (isinstance(one, type) and issubclass(one, Explainer)):
        return method_name(one if isinstance(one, type) else type(one))
    plain = one.func if isinstance(one, partial) else one
    return method_name(plain) if isinstance(plain, type) else str(getattr(plain, "__name__", type(plain).__name__))


def _built(name: str, one: Given, classifier: Classifier, keys: Sequence[str], images: Tensor) -> Explainer:
    if isinstance(one, str) or _has_options(one):
        method, options = (one, {}) if isinstance(one, str) else cast(tuple[str, dict[str, Any]], one)
        kind, known = chosen_method(method, options)
        return kind(classifier, **known)
    if isinstance(one, Tensor | np.ndarray):
        return Precomputed(classifier, _by_key(name, _as_maps(one), keys, images))
    if isinstance(one, Explainer):
        if one.classifier is not classifier:
            raise ValueError(
                f"explainer {name!r} belongs to another classifier ({one.classifier.name}); give `evaluate` the "
                "`dre.models.Classifier` that it was built from"
            )
        return one
    if not callable(one):
        raise TypeError(
            f"explainer {name!r} must be the name of a method, an explainer, a function of a model, images and "
            f"targets, or maps [B, 1, H, W]; got {type(one).__name__}"
        )
    if _explains(one):
        return FunctionExplainer(classifier, one)
    try:
        made = one(classifier)
    except UnsupportedError:
        raise
    except Exception as error:
        raise TypeError(
            f"{name!r} was called with the classifier to build an explainer, and failed: "
            f"{' '.join(str(error).split())}; what explains by itself is a function of model, images and targets"
        ) from error
    if not isinstance(made, Explainer):
        raise TypeError(f"{name!r} must build an Explainer from a classifier, got {type(made).__name__}")
    return made


def _explains(function: Callable[..., Any]) -> bool:
    """Return whether a callable explains by itself, and is not what builds an explainer from a classifier."""
    if isinstance(function, type) or (isinstance(function, partial) and isinstance(function.func, type)):
        return False
    if is_attribution(function):
        return True
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return True
    needed = [
        one for one in parameters if one.default is one.empty and one.kind not in (one.VAR_KEYWORD, one.KEYWORD_ONLY)
    ]
    return len(needed) > 1 or any(one.kind is one.VAR_POSITIONAL for one in needed)


def _as_maps(maps: Tensor | np.ndarray[Any, Any]) -> Tensor:
    """Return maps of any real type as float32."""
    if isinstance(maps, np.ndarray):
        maps = torch.from_numpy(np.ascontiguousarray(maps, dtype=np.float64))
    return maps.detach().to_dense().float() if maps.layout is not torch.strided else maps.detach().float()


def _by_key(name: str, maps: Tensor, keys: Sequence[str], images: Tensor) -> dict[str, Tensor]:
    """Return finished maps by the key of their image."""
    height, width = images.shape[2:]
    maps = maps[:, None] if maps.ndim == 3 else maps
    fits = maps.ndim == 4 and maps.shape[:2] == (len(images), 1) and maps.shape[2] <= height and maps.shape[3] <= width
    if not fits:
        raise ValueError(
            f"maps {name!r} must have shape [{len(images)}, 1, {height}, {width}], or that of a smaller grid, one for "
            f"each image; got {list(maps.shape)}"
        )
    return {key: one.detach().cpu() for key, one in zip(keys, maps, strict=True)}
