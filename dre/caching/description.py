"""What an object is made of, as plain values: two objects that describe themselves alike do the same.

But for what functions import only when they run, and for what they read from the outside world.
"""

import functools
import hashlib
import json
import types
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dre.caching.sources import UndescribableError, origin

Plain = Any
"""Numbers, words, and lists and dictionaries of them, as json writes them."""

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
"""Attributes of a module that hold code which may change what it computes."""

Replace = Callable[[object], Plain | None]
"""Stands in for the description of an object; None leaves it to `describe`."""

NOTHING = ["nothing"]
"""What `Replace` gives for objects that do not count."""

CLEAN = frozenset(vars(nn.Module()))
"""Attributes that every module has."""


def digest(description: Plain) -> str:
    """Hash a description to 32 hexadecimal digits."""
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()[:32]


def describe(value: object, replace: Replace = lambda value: None, *, place: str = "it") -> Plain:
    """Describe an object by everything that it holds, tensors and modules by their content, functions by their code.

    Classes and functions also carry a fingerprint of the source that they come from. Nothing is called for its result,
    so a description costs no pass. What holds itself is described by how far up it is found again.

    Args:
        value: Anything; what cannot be described is refused.
        replace: Asked first, for the object and all that it holds.
        place: How to call the object when it is refused.

    Raises:
        UndescribableError: Names the place and the type of what cannot be described, such as an open file or a hook.
    """
    return _Describer(replace).of(value, place)


class _Describer:
    def __init__(self, replace: Replace) -> None:
        self.replace = replace
        self.above: list[int] = []

    def of(self, value: object, place: str) -> Plain:
        replaced = self.replace(value)
        if replaced is not None:
            return replaced
        if value is None or isinstance(value, bool | int | str):
            return value if type(value) in (bool, int, str, type(None)) else self._parts(value, place)
        if type(value) is float:
            return ["float", value.hex()]
        if id(value) in self.above:
            return ["above", len(self.above) - self.above.index(id(value))]
        self.above.append(id(value))
        try:
            return self._compound(value, place)
        finally:
            self.above.pop()

    def _compound(self, value: object, place: str) -> Plain:
        match value:
            case nn.Module():
                return self._module(value, place)
            case Tensor():
                return _tensor(value, place)
            case np.ndarray() if value.dtype != object:
                return ["array", str(value.dtype), list(value.shape), hashlib.sha256(value.tobytes()).hexdigest()]
            case type():
                if "<locals>" in value.__qualname__:
                    raise UndescribableError(f"{place} is of {value.__qualname__}, a class that a function makes anew")
                return ["class", value.__module__, value.__qualname__, origin(value.__module__)]
            case types.FunctionType():
                return self._function(value, place)
            case types.CodeType():
                kept = (value.co_names, value.co_consts)
                return ["code", value.co_code.hex(), self.of(kept, place)]
            case types.MethodType():
                return ["method", self.of(value.__self__, place), self.of(value.__func__, place)]
            case functools.partial():
                return ["partial", self.of((value.func, value.args, value.keywords), place)]
            case bytes():
                return ["bytes", hashlib.sha256(value).hexdigest()]
        return self._container(value, place)

    def _container(self, value: object, place: str) -> Plain:
        kind = type(value)
        if isinstance(value, list | tuple) and kind in (list, tuple):
            return [kind.__name__, *(self.of(one, f"{place}[{number}]") for number, one in enumerate(value))]
        if isinstance(value, set | frozenset) and kind in (set, frozenset):
            return [kind.__name__, *sorted((self.of(one, place) for one in value), key=json.dumps)]
        if isinstance(value, dict) and kind is dict:
            return ["dict", self._entries(value, place)]
        return self._parts(value, place)

    def _entries(self, entries: Mapping[Any, object], place: str) -> Plain:
        """Describe the entries of a mapping in their order, which may count."""
        return [
            [self.of(key, place), self.of(value, f"{place}.{key}" if isinstance(key, str) else f"{place}[{key!r}]")]
            for key, value in entries.items()
        ]

    def _parts(self, value: object, place: str) -> Plain:
        """Take an object apart as pickling would; what cannot be pickled says nothing about itself."""
        try:
            parts = value.__reduce_ex__(4)
        except Exception as error:  # whatever the type raises
            raise UndescribableError(
                f"{place} is {type(value).__name__}, of which nothing says what it does"
            ) from error
        if isinstance(parts, str):
            return ["name", type(value).__module__, getattr(value, "__module__", None), parts]
        make, arguments, state, entries, pairs = (*parts, None, None, None)[:5]
        rest = [None if one is None else self.of(list(one), place) for one in (entries, pairs)]
        return ["object", self.of(make, place), self.of(arguments, place), self._state(state, place), *rest]

    def _state(self, state: object, place: str) -> Plain:
        return self._entries(state, place) if type(state) is dict else self.of(state, place)

    def _module(self, module: nn.Module, place: str) -> Plain:
        held = vars(module)
        if any(held[name] for name in HOOKS if name in held):
            raise UndescribableError(
                f"{place} is {type(module).__name__} with hooks, of which nothing says what they do"
            )
        own = {name: one for name, one in held.items() if name not in CLEAN}
        parts = {**module._parameters, **module._buffers, **module._modules, **own}
        return ["module", self.of(type(module), place), self._entries(parts, place)]

    def _function(self, function: types.FunctionType, place: str) -> Plain:
        try:
            cells = [cell.cell_contents for cell in function.__closure__ or ()]
        except ValueError as error:  # a name that is still to be given a value
            raise UndescribableError(f"{place} is the unfinished function {function.__qualname__}") from error
        held = (function.__code__, function.__defaults__, function.__kwdefaults__, cells)
        name = [function.__module__, function.__qualname__, origin(function.__module__)]
        return ["function", *name, self.of(held, place)]


def _tensor(tensor: Tensor, place: str) -> Plain:
    """Hash a tensor by type, shape and content; where it lies and whether it asks for gradients do not count."""
    if tensor.layout != torch.strided:
        raise UndescribableError(f"{place} is a tensor of layout {tensor.layout}, which is not described")
    return ["tensor", str(tensor.dtype), list(tensor.shape), hashlib.sha256(tensor_bytes(tensor)).hexdigest()]


def tensor_bytes(tensor: Tensor) -> bytes:
    """Give the content of a tensor in row-major order, whatever its device and memory format."""
    flat = tensor.detach().cpu().contiguous().flatten()
    return flat.view(torch.uint8).numpy().tobytes()
