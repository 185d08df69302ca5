"""The cache key of a saliency map: all that decides the map, written as plain values and hashed."""

import hashlib
import json
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn

from dre.caching.sources import UndescribableError, module_sources, package_sources
from dre.engine.chunks import Chunk
from dre.engine.convergence import Convergence
from dre.engine.gradients import Cost, Vanished
from dre.explainers import Explainer
from dre.models import Classifier
from dre.types import MemoryEstimate

FORMAT = "saliency maps 2"
"""Of files and keys: maps of another format are not found."""

Plain = Any
"""Numbers, words, and lists and dictionaries of them, as json writes them."""

NO_OPTIONS = (Chunk, Convergence, Cost, Vanished, MemoryEstimate)
"""What explainers and classifiers hold that changes no map."""

RESULTS = frozenset({"dropped_mass", "forwards", "gap", "objective", "standard_error"})
"""Attributes in which explainers of this package keep results and counts; none of their options is named so."""

CLEAN = frozenset(vars(nn.Module()))
"""Attributes that every module has."""

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
"""Attributes of a module that hold code which may change what it computes."""


class ExplainerKeys:
    """Make the part of a cache key that does not depend on the image: classifier, explainer and source code.

    Args:
        classifier: What is explained, described as it is now.

    Raises:
        UndescribableError: The classifier, or the source of this package, cannot be described.
    """

    def __init__(self, classifier: Classifier) -> None:
        self.classifier: Classifier | None = None
        self._sources: dict[str, list[str]] = {}
        self.common = [FORMAT, package_sources(), self.describe(classifier, classifier.name)]
        self.classifier = classifier

    def key(self, explainer: Explainer, name: str) -> str:
        """Make the key of an explainer as it is now.

        Raises:
            UndescribableError: It holds something of which nothing says what it does.
        """
        return hash_of([self.common, self.describe(explainer, name)])

    def describe(self, value: object, place: str) -> Plain:
        """Describe an object by everything that it holds.

        Tensors are described by their content, functions and classes by their names and the sources of their modules,
        all others by their parts.

        Args:
            value: Anything; nothing is called for its result, so a description costs no pass.
            place: How to call the object where it is refused.

        Raises:
            UndescribableError: Names the place and the type of what cannot be described, such as a lambda or a hook.
        """
        try:
            return self._of(value, place)
        except RecursionError as error:
            raise UndescribableError(f"{place} holds itself") from error

    def _of(self, value: Any, place: str) -> Plain:
        kind = type(value)
        if value is None or kind in (bool, int, str):
            return value
        if kind in (float, bytes):
            return [kind.__name__, value.hex()]
        if kind in (list, tuple):
            return [kind.__name__, *(self._of(one, f"{place}[{row}]") for row, one in enumerate(value))]
        if kind in (set, frozenset):
            return [kind.__name__, *sorted((self._of(one, place) for one in value), key=json.dumps)]
        if kind is dict:
            return ["dict", self._entries(value, place)]
        if value is self.classifier:
            return ["the classifier"]
        if isinstance(value, NO_OPTIONS):
            return ["no option"]
        if isinstance(value, Tensor):
            return ["tensor", str(value.dtype), list(value.shape), _content(value, place)]
        if isinstance(value, type | types.FunctionType):
            return self._named(value, value.__module__, value.__qualname__, place)
        return self._module(value, place) if isinstance(value, nn.Module) else self._parts(value, place)

    def _entries(self, entries: Mapping[Any, object], place: str) -> Plain:
        """Describe the entries of a mapping in their order, which may count."""
        return [[self._of(key, place), self._of(value, f"{place}.{key}")] for key, value in entries.items()]

    def _named(self, value: object, module: str, name: str, place: str) -> Plain:
        """Describe what its module holds under its name, and where the code of that module is known."""
        try:
            found = attrgetter(name)(sys.modules[module])
        except (KeyError, AttributeError):
            found = None
        if found is not value:
            raise UndescribableError(f"{place} is {name}, which no name in a module leads to")
        if module not in self._sources:
            self._sources[module] = module_sources(module)
        return ["name", module, name, self._sources[module]]

    def _module(self, module: nn.Module, place: str) -> Plain:
        held = vars(module)
        if any(held.get(name) for name in HOOKS):
            raise UndescribableError(f"{place} is {type(module).__name__} with hooks, which may do anything")
        own = {name: one for name, one in held.items() if name not in CLEAN}
        parts = {**module._parameters, **module._buffers, **module._modules, **own}
        return ["module", self._of(type(module), place), self._entries(_options(module, parts), place)]

    def _parts(self, value: object, place: str) -> Plain:
        """Take an object apart as pickling would."""
        kind = type(value)
        try:
            parts = value.__reduce_ex__(4)
        except Exception as error:  # whatever the type raises
            raise UndescribableError(f"{place} is {kind.__name__}, of which nothing says what it does") from error
        if isinstance(parts, str):
            return self._named(value, getattr(value, "__module__", None) or kind.__module__, parts, place)
        plain = [list(one) if isinstance(one, Iterator) else one for one in parts]
        plain = [_options(value, one) if isinstance(one, dict) else one for one in plain]
        return ["object", *(self._of(one, place) for one in plain)]


def image_keys(images: Tensor, targets: Tensor, names: Sequence[str]) -> list[str]:
    """Make the parts of cache keys that depend on the image: its name, pixels and target, and the arithmetic.

    Maps agree between devices and precisions, but not to the last bit.

    Args:
        images: [B, C, H, W].
        targets: int64 [B].
        names: Of the B images, which seed random draws.
    """
    kind = images.device.type
    autocast = str(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else "none"
    precision = [torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32]
    arithmetic = [kind, autocast, *precision, str(images.dtype), list(images.shape[1:])]
    rows = zip(names, targets.tolist(), images, strict=True)
    return [hash_of([arithmetic, name, target, _content(image, name)]) for name, target, image in rows]


def hash_of(description: Plain) -> str:
    """Hash a description to 32 hexadecimal digits."""
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()[:32]


def _options(owner: object, attributes: Mapping[str, object]) -> dict[str, object]:
    """Leave out the attributes in which an explainer keeps what it found in its last batch."""
    left_out = RESULTS if type(owner).__module__.startswith("dre.") else frozenset()
    if isinstance(owner, Explainer):
        left_out |= {"keys"}
    return {name: value for name, value in attributes.items() if name not in left_out}


def _content(tensor: Tensor, place: str) -> str:
    """Hash the values of a tensor in row-major order, whatever its device and memory format."""
    try:
        flat = tensor.detach().cpu().contiguous().flatten()
        return hashlib.sha256(flat.view(torch.uint8).numpy().data).hexdigest()
    except (RuntimeError, TypeError) as error:  # sparse, quantised or without values
        raise UndescribableError(f"{place} is a tensor of layout {tensor.layout}, which is not described") from error
