"""Pretended accelerator for machines without one: finds code that mixes up where tensors lie.

Within `PretendedAccelerator` every tensor stays in main memory, but remembers where it would lie; what real devices
refuse is refused: operands on two devices, a generator of another device, and NumPy's view of an accelerator's memory.
Tensors that autograd makes by itself lie anywhere, so mistakes inside of backward hooks are not all seen.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self
from unittest.mock import patch

import pytorch_lightning as pl
import torch
from pytorch_lightning.accelerators import CPUAccelerator
from pytorch_lightning.strategies import SingleDeviceStrategy
from torch import Tensor
from torch.overrides import TorchFunctionMode, resolve_name

from tests.training import quiet_trainer

HERE, THERE = torch.device("cpu"), torch.device("cuda", 0)

MOVES = {Tensor.copy_, Tensor.cpu, Tensor.cuda, Tensor.data.__set__, torch.tensor, torch.as_tensor}
"""What takes tensors from one device to another."""

LIKE_ANOTHER = {Tensor.to, Tensor.type_as}
"""What moves a tensor to where another one lies."""

SHAPED_LIKE = {Tensor.expand_as, Tensor.view_as, Tensor.reshape_as}
"""What reads only the shape of another tensor."""

INDEXED = {Tensor.__getitem__, Tensor.__setitem__}
"""What an accelerator's tensor does with indices and values in main memory, too."""

DRIVER_CALLS = ("synchronize", "reset_peak_memory_stats", "max_memory_allocated")

NEW_PARAMETER = torch.nn.Parameter.__new__

READS_MEMORY = {Tensor.numpy, Tensor.__array__, Tensor.__dlpack__}


class PretendedAccelerator(TorchFunctionMode):
    """While it is entered, device "cuda" can be asked for and nothing may be computed across devices."""

    def __enter__(self) -> Self:
        self.patches = [
            patch("torch.Generator", PretendedGenerator),
            patch("torch.nn.Parameter.__new__", _new_parameter),
            patch("torch.cuda.mem_get_info", return_value=(1 << 30, 1 << 33)),
            *(patch(f"torch.cuda.{name}", return_value=0) for name in DRIVER_CALLS),
        ]
        for one in self.patches:
            one.start()
        return super().__enter__()

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)
        for one in self.patches:
            one.stop()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func == Tensor.device.__get__:
            return place_of(args[0]) or HERE
        if func == Tensor.is_cuda.__get__:
            return place_of(args[0]) == THERE
        if func in (torch.device, torch._has_compatible_shallow_copy_type):
            return func(*args, **kwargs)
        if func is torch._C._nn._parse_to:
            device, *rest = func(*args, **kwargs)
            return (place_of(args[0]) if args and isinstance(args[0], Tensor) else device), *rest
        if func in READS_MEMORY and place_of(args[0]) == THERE:
            raise TypeError(f"{_name(func)}: the memory of {THERE} cannot be read; use Tensor.cpu() first")
        place = self._place(func, args, kwargs)
        generator = kwargs.get("generator")
        if generator is not None and place is not None and place_of(generator) != place:
            raise RuntimeError(f"{_name(func)}: a generator of {place_of(generator)} cannot draw on {place}")
        operands = [one for one in _flat([args, kwargs]) if isinstance(one, Tensor)]
        if func is Tensor.cuda:
            func, args, kwargs = torch.ops.aten.alias, args[:1], {}
        found = func(*_at_home(args), **_at_home(kwargs))
        if func == Tensor.data.__set__:
            args[0].pretended_place = place_of(args[1])
        return _placed(found, place, operands)

    def _place(self, func: Any, args: Any, kwargs: Any) -> torch.device | None:
        """Say where the result lies; refuse operands that lie apart, but for numbers and indices in main memory."""
        if func is Tensor.cpu or func is Tensor.cuda:
            return HERE if func is Tensor.cpu else THERE
        asked = [device for device in map(_as_device, _flat([args, kwargs])) if device is not None]
        operands = [one for one in _flat([args, kwargs]) if isinstance(one, Tensor)]
        if asked or not operands:
            return asked[0] if asked else HERE
        if func in LIKE_ANOTHER:
            return place_of(operands[-1])
        if func in MOVES or func in SHAPED_LIKE or (func in INDEXED and place_of(operands[0]) == THERE):
            return place_of(operands[0])
        places = {place_of(one) for one in operands if one.dim() or place_of(one) == THERE} - {None}
        if len(places) > 1:
            shapes = ", ".join(f"{tuple(one.shape)} on {place_of(one)}" for one in operands)
            raise RuntimeError(f"{_name(func)}: operands lie on two devices: {shapes}")
        return places.pop() if places else place_of(operands[0])


class PretendedGenerator(torch.Generator):
    """A generator that remembers where it would draw."""

    def __new__(cls, device: Any = "cpu") -> Self:
        return super().__new__(cls)

    def __init__(self, device: Any = "cpu") -> None:
        self.pretended_place = _as_device(str(device))


def _new_parameter(cls: Any, data: Any = None, requires_grad: bool = True) -> Any:
    """Make a parameter that lies where its data do."""
    made = NEW_PARAMETER(cls, data, requires_grad)
    made.pretended_place = place_of(data) or HERE
    return made


def place_of(one: Any) -> torch.device | None:
    """Say where a tensor or a generator is meant to lie; `None` where nothing is known."""
    return getattr(one, "pretended_place", HERE if isinstance(one, torch.Generator | torch.nn.Parameter) else None)


def _name(func: Any) -> str:
    return resolve_name(func) or str(func)


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for one in value:
            yield from _flat(one)
    else:
        yield value


def _as_device(value: Any) -> torch.device | None:
    kind = value.type if isinstance(value, torch.device) else value.split(":")[0] if isinstance(value, str) else None
    return {"cpu": HERE, "cuda": THERE}.get(kind)


def _at_home(value: Any) -> Any:
    """Put main memory in place of every device."""
    if isinstance(value, dict):
        return {name: _at_home(one) for name, one in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(_at_home, value))
    return HERE if _as_device(value) is not None else value


def _placed(found: Any, place: torch.device | None, operands: list[Tensor]) -> Any:
    """Mark what came out; an operand that was given back although it moved becomes a tensor of its own."""
    if isinstance(found, list | tuple):
        placed = [_placed(one, place, operands) for one in found]
        return type(found)(*placed) if hasattr(found, "_fields") else type(found)(placed)
    if not isinstance(found, Tensor):
        return found
    if any(found is one for one in operands) and place_of(found) not in (None, place):
        found = torch.ops.aten.alias(found)
    found.pretended_place = place
    return found


class _AnyDevice(CPUAccelerator):
    """Takes whatever it is given."""

    def setup_device(self, device: torch.device) -> None:
        """Leave the driver alone: there is none."""


def pretended_trainer(root: Path, **options: Any) -> pl.Trainer:
    """Give a quiet trainer that puts module and batches on the pretended accelerator."""
    strategy = SingleDeviceStrategy(device=THERE, accelerator=_AnyDevice())
    return quiet_trainer(root, **{"accelerator": "auto", "devices": "auto", "strategy": strategy} | options)
