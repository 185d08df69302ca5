"""Layers that version 0.1 tapped, found by walking children: for its checkpoints, which do not name them; until 0.3."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from dre.models.hooks import watching

STRIDES = (4, 8, 16, 32)
Layout = Literal["channels_first", "channels_last", "tokens"]


@dataclass(frozen=True, slots=True)
class Tap:
    """Name a module of the network whose output is a feature map.

    Args:
        module: Name of the module inside the network.
        stride: Input pixels per map cell.
        channels: Channels of the map.
        layout: How the module arranges its output.
        patch: Input pixels per token, for the `tokens` layout.
    """

    module: str
    stride: int
    channels: int
    layout: Layout = "channels_first"
    patch: int = 0


def trunk(network: nn.Module, prefix: str = "", is_root: bool = True) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules of the main path: children in order, plain sequences opened, blocks closed."""
    for name, child in network.named_children():
        path = f"{prefix}{name}"
        is_encoder = is_root and any(_repeats_a_block(part) for part in child.children())
        if type(child) is nn.Sequential or is_encoder:
            yield from trunk(child, f"{path}.", is_root=False)
        else:
            yield path, child


def _repeats_a_block(module: nn.Module) -> bool:
    """Return whether a module is a stack of equal blocks, as inside torchvision's transformer encoder."""
    return isinstance(module, nn.Sequential) and len(module) >= 4 and len({type(part) for part in module}) == 1


def trace(network: nn.Module, sample: Tensor, names: list[str]) -> dict[str, tuple[int, ...]]:
    """Run one pass and return the output shapes of some modules, in the order in which they last finished."""
    shapes: dict[str, tuple[int, ...]] = {}

    def see(name: str, module: nn.Module, inputs: tuple[object, ...], output: object) -> None:
        shapes.pop(name, None)
        if isinstance(output, Tensor):
            shapes[name] = tuple(output.shape)

    with watching([(name, network.get_submodule(name)) for name in names], see), torch.no_grad():
        network(sample)
    return shapes


def describe(name: str, shape: tuple[int, ...], side: int) -> Tap | None:
    """Recognise an output as a feature map of a square input of `side` pixels; None when it is not one."""
    if len(shape) == 3 and shape[1] > 1:
        grid = int(shape[1] ** 0.5)
        return Tap(name, side // grid, shape[2], "tokens", side // grid)
    if len(shape) != 4:
        return None
    layout: Layout = "channels_first" if shape[2] == shape[3] else "channels_last"
    channels, cells = (shape[1], shape[2]) if layout == "channels_first" else (shape[3], shape[1])
    if cells < 2:
        return None
    exponent = round(torch.log2(torch.tensor(side / cells)).item())  # valid padding makes maps a little smaller
    return Tap(name, 2**exponent, channels, layout)


def find_maps(network: nn.Module, sample: Tensor) -> list[Tap]:
    """Recognise the maps along the trunk, or along that of the network that this one wraps.

    A network is wrapped, as behind a normalisation of its own, where it holds all parameters, gives no map and runs
    once.
    """
    inner, prefix = network, ""
    while True:
        shapes = trace(network, sample, [name for name, _ in trunk(inner, prefix)])
        found = [tap for name, shape in shapes.items() if (tap := describe(name, shape, sample.shape[-1]))]
        holders = [f"{prefix}{name}" for name, child in inner.named_children() if any(True for _ in child.parameters())]
        is_leaf = len(holders) != 1 or not list(network.get_submodule(holders[0]).children())
        if is_leaf or any(f"{tap.module}.".startswith(f"{holders[0]}.") for tap in found):
            return found
        if _runs(network, holders[0], sample) != 1:
            return found
        inner, prefix = network.get_submodule(holders[0]), f"{holders[0]}."


def _runs(network: nn.Module, name: str, sample: Tensor) -> int:
    """Count how often a module runs in one pass."""
    seen: list[str] = []
    with watching([(name, network.get_submodule(name))], lambda name, *_: seen.append(name)), torch.no_grad():
        network(sample)
    return len(seen)


def find_taps(network: nn.Module, sample: Tensor, pooled: bool = False) -> tuple[list[Tap], Tap | None]:
    """Choose the last map of the trunk at each stride, and the map that class activation methods read.

    The last convolutional map is the one that the head pools, and serves for both; with `pooled`, activation methods
    read the finer map before the last pooling. In a transformer the four taps lie a quarter of the depth apart, and
    activation methods read the input of the last block: behind it, patch tokens no longer reach a class token.

    Args:
        network: In eval mode.
        sample: One square image, [1, C, S, S].
        pooled: Use max-pooling outputs alone, as Fu et al. 2021 do for VGG.

    Returns:
        Four taps, or an empty list when the network has no map at one of the strides; the activation map, or None.
    """
    found = find_maps(network, sample)
    blocks = _token_blocks(network, [tap for tap in found if tap.layout == "tokens"])
    if len(blocks) >= 4:
        picks = [blocks[len(blocks) * quarter // 4 - 1] for quarter in (1, 2, 3, 4)]
        return [replace(tap, stride=stride) for tap, stride in zip(picks, STRIDES, strict=True)], blocks[-2]
    found = [tap for tap in found if tap.layout != "tokens"]
    pools = [tap for tap in found if pooled and isinstance(network.get_submodule(tap.module), nn.MaxPool2d)]
    last = {tap.stride: tap for tap in pools or found}
    taps = [last[stride] for stride in STRIDES] if all(stride in last for stride in STRIDES) else []
    before = found[: found.index(pools[-1])] if pools else found
    return taps, before[-1] if before else None


def _token_blocks(network: nn.Module, tokens: list[Tap]) -> list[Tap]:
    """Return the outputs of the block type that occurs most often: the transformer's layers."""
    kinds = Counter(type(network.get_submodule(tap.module)) for tap in tokens)
    kinds.pop(nn.Identity, None)
    if not kinds:
        return []
    block = kinds.most_common(1)[0][0]
    return [tap for tap in tokens if type(network.get_submodule(tap.module)) is block]


def names_of_0_1(network: nn.Module, sample: Tensor, pooled: bool) -> list[str]:
    """Return the names of the layers that 0.1 tapped at strides 4, 8, 16 and 32; empty where it found none."""
    return [tap.module for tap in find_taps(network, sample, pooled)[0]]
