"""Taps: name feature maps of a network, and read them in one forward pass."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dre.models.grids import Layout, token_grid
from dre.models.hooks import Output, item_of, watching, with_item
from dre.models.observation import Place, canonical

See = Callable[[int, Tensor], Tensor | None]
"""From the number of a tap and its map to what replaces it; None keeps it."""


@dataclass(frozen=True, slots=True)
class Tap:
    """Name a feature map of a network and say how it is laid out.

    Args:
        module: Name of the module that gives it, or in whose forward the function is called.
        stride: Input pixels per map cell.
        channels: Channels of the map.
        layout: How the network arranges it.
        prefix: Class and register tokens before those of the grid.
        enlarge: Whether it is enlarged to `stride`, which is finer than its own.
        is_modified: Whether the network overwrites it later in the pass.
        call: Which run of the module; 0 is the last.
        item: Index or key where the module returns several tensors.
        function: Name of the function that gives it, where no module does.
        ordinal: Which call of that function.
    """

    module: str
    stride: int
    channels: int
    layout: Layout = "channels_first"
    prefix: int = 0
    enlarge: bool = False
    is_modified: bool = False
    call: int = 0
    item: int | str | None = None
    function: str = ""
    ordinal: int = 0

    @property
    def place(self) -> Place:
        """Return the name of the tensor."""
        return Place(self.module, self.call, self.item, self.function, self.ordinal)

    @property
    def name(self) -> str:
        """Return the name of the layer, as `layer` and `taps` take it."""
        return str(self.place)

    def read(self, output: Tensor, size: tuple[int, int]) -> Tensor:
        """Convert the network's tensor to [B, C, h, w] for an input of `size`."""
        if self.layout == "channels_first":
            return output
        if self.layout == "channels_last":
            return output.permute(0, 3, 1, 2)
        tokens = output.transpose(1, 2) if self.layout == "tokens" else output
        tokens = tokens[:, :, self.prefix :]
        grid = tokens.reshape(*tokens.shape[:2], *token_grid(tokens.shape[2], size))
        if not self.enlarge:
            return grid
        finer = (size[0] // self.stride, size[1] // self.stride)
        return F.interpolate(grid, size=finer, mode="bilinear", align_corners=False)


class _Functions(TorchFunctionMode):
    """Show the results of some functions while their owners run."""

    def __init__(self, taps: Sequence[tuple[int, Tap]], see: See) -> None:
        super().__init__()
        self.taps, self.see = taps, see
        self.counts: dict[int, int] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run a function as it is, show its result where a tap is there, and put in what replaces it."""
        result = func(*args, **(kwargs or {}))
        name = canonical(func)
        for number, tap in self.taps:
            if number not in self.counts or tap.function != name or not isinstance(result, Tensor):
                continue
            self.counts[number] += 1
            if self.counts[number] == tap.ordinal and (other := self.see(number, result)) is not None:
                is_in_place = bool(args) and result is args[0]
                result = result.copy_(other) if is_in_place else other  # others hold the tensor that was overwritten
        return result


@contextlib.contextmanager
def reading(network: nn.Module, taps: Sequence[Tap], see: See) -> Iterator[None]:
    """Show the maps at some taps whenever the network runs, for the duration of the context.

    Args:
        network: What runs.
        taps: What is shown, by number; of a module that runs again, each run where the last one is asked for.
        see: Called with the number of the tap and its map; what it returns goes on through the network instead.
    """
    plain = [(str(number), tap) for number, tap in enumerate(taps) if not tap.function]
    functions = _Functions([(number, tap) for number, tap in enumerate(taps) if tap.function], see)
    runs: Counter[str] = Counter()

    def show(number: str, module: nn.Module, inputs: tuple[Any, ...], output: Output) -> Output | None:
        tap = taps[int(number)]
        runs[number] += 1
        value = item_of(output, tap.item)
        if value is None or tap.call not in (0, runs[number]):
            return None
        other = see(int(number), value)
        return None if other is None else with_item(output, tap.item, other)

    def start(number: str, module: nn.Module, inputs: tuple[Any, ...], output: Output) -> None:
        functions.counts[int(number)] = 0

    def stop(number: str, module: nn.Module, inputs: tuple[Any, ...], output: Output) -> None:
        functions.counts.pop(int(number), None)

    owners = [(str(number), network.get_submodule(tap.module)) for number, tap in functions.taps]
    with contextlib.ExitStack() as stack:
        stack.enter_context(watching([(n, network.get_submodule(tap.module)) for n, tap in plain], show))
        if owners:
            stack.enter_context(watching(owners, start, before=True))
            stack.enter_context(watching(owners, stop))
            stack.enter_context(functions)
        yield
