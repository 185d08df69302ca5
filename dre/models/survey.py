"""Survey of a network: its feature maps at strides 4, 8, 16 and 32 and its last one, found in one pass."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from dre.models.grids import Grid, find_grids, out_of_order, power_of_two
from dre.models.hooks import Output, items, with_item
from dre.models.observation import Observation, Place, Recorder, Sight, observe
from dre.models.outputs import first_line
from dre.models.taps import Tap

STRIDES = (4, 8, 16, 32)

BRANCH = re.compile(r"(attn|attention|mlp)$|^attn|^attention", re.IGNORECASE)
"""Names of classes of attentions and perceptrons."""

LEAST_BLOCKS = 4
"""Blocks of one kind that make a network without maps at these strides a stack, of which a quarter each is tapped."""


@dataclass(frozen=True, slots=True)
class Taps:
    """Hold what was found in a network.

    Args:
        taps: Feature maps at strides 4, 8, 16 and 32; empty where there are none.
        last: The map that class activation methods read; None where there is none.
        reason: Why there is none, as the end of a sentence.
    """

    taps: list[Tap]
    last: Tap | None
    reason: str = ""


class Survey:
    """Observe a network once and answer which feature maps it has.

    Args:
        network: In eval mode, frozen; gives logits.
        sample: One image [1, C, H, W] in the network's own units.
        wide: A wider one, which tells rows from columns and both from channels; None where the network takes no other.
    """

    def __init__(self, network: nn.Module, sample: Tensor, wide: Tensor | None) -> None:
        self.network, self.size = network, (sample.shape[-2], sample.shape[-1])
        self.seen: Observation = observe(network, sample)
        self.grids = find_grids(network, self.seen, sample, wide)
        for rank in out_of_order(network, sample, self.seen.path, self.grids):
            del self.grids[rank]

    def find(self) -> Taps:
        """Choose the taps, and the map that class activation methods read.

        The last map is the last tensor on the path that all logits depend on, with more than one place and a gradient
        that is not zero at them. A pooling without parameters gives none. Where several branches follow it that come
        together only in the head, no single map explains the logits, and none is read.
        """
        maps = [one for one in self._named(self.seen.path) if self.grids.get(one.rank) and not one.is_gated]
        taps = self._at_strides(maps) or self._of_stack(maps)
        if self.seen.is_flat:
            return Taps(taps, None, "no pixel changes its logits; are its weights loaded?")
        live = [s for s in maps if not s.is_pooled and self._is_live(s) and not self._is_in_a_branch(s)]
        if not live:
            unclear = [sight for sight in self.seen.path if sight.rank in self.grids and self.grids[sight.rank] is None]
            reason = f": how {unclear[-1].place} is laid out cannot be told" if unclear else ""
            return Taps(taps, None, f"all its logits depend on no single feature map{reason}; name a `layer`")
        if branch := self._branch_behind(live[-1]):
            return Taps(
                [],
                None,
                f"branches as {branch.place} follow {live[-1].place} and meet only in the head; name a `layer`",
            )
        return Taps(taps, self._tap(live[-1]))

    def named(self, name: str) -> Tap:
        """Return the tap at a place that the user names.

        Raises:
            ValueError: There is no such module, or no feature map there.
        """
        place = Place.parse(name)
        known = {sight.place: sight for sight in self.seen.sights}
        alike = [one for one in known if one.module == place.module and bool(one.function) == bool(place.function)]
        if place.module not in dict(self.network.named_modules()):
            layers = list(dict.fromkeys(sight.place.module for sight in self._named(self.seen.path)))
            raise ValueError(f"no module {place.module!r} to tap in this network; among its layers are {layers}")
        if place not in known:
            others = ", ".join(str(one) for one in alike)
            hint = f"it gives {others}" if others else "it gives no tensor that could be a feature map"
            raise ValueError(f"no feature map at {name!r}: {hint}")
        grid = self.grids.get(known[place].rank)
        if grid is None:
            raise ValueError(f"{name!r} gives {list(known[place].shape)}, which is not a feature map to tap")
        return _tap_at(known[place], grid)

    def carries(self, tap: Tap) -> bool:
        """Return whether the logits depend on a tap."""
        ranks = {sight.rank for sight in self.seen.sights if sight.place == tap.place}
        live = {sight.rank for sight in self.seen.path if sight.gradient is not None and bool(sight.gradient.any())}
        return bool(ranks & (live | self.seen.flows.keys()))

    def _tap(self, sight: Sight) -> Tap:
        grid = self.grids[sight.rank]
        if grid is None:
            raise ValueError(f"{sight.place} is no feature map")
        return _tap_at(sight, grid)

    def _named(self, path: Sequence[Sight]) -> list[Sight]:
        """Return one sight for each tensor of the path, by the name of its outermost module that is no sequence."""

        def order(sight: Sight) -> tuple[Any, ...]:
            place, kind = sight.place, sight.kind or nn.Module
            is_plain = kind in (nn.Identity, nn.Dropout) or kind is nn.Sequential
            return bool(place.function), place.item is not None, is_plain, place.module.count("."), sight.rank

        best: dict[int, Sight] = {}
        for sight in sorted(path, key=order):
            known = best.setdefault(sight.depth, sight)
            if sight.is_pooled and not known.is_pooled:
                best[sight.depth] = replace(known, is_pooled=True)
        return [best[depth] for depth in sorted(best)]

    def _is_live(self, sight: Sight) -> bool:
        """Return whether places of the grid have a gradient, beside class and register tokens."""
        grid, gradient = self.grids[sight.rank], sight.gradient
        if grid is None or gradient is None:
            return False
        axis = {"tokens": 1, "tokens_last": 2}.get(grid.layout)
        return bool((gradient if axis is None else gradient.narrow(axis, grid.prefix, grid.cells)).any())

    def _is_in_a_branch(self, sight: Sight) -> bool:
        """Return whether a map lies inside an attention or a perceptron, as in a head that pools by attention."""
        names = sight.place.module.split(".")
        whole = sum(1 for _ in self.network.parameters())
        for length in range(1, len(names) + bool(sight.place.function)):
            module = self.network.get_submodule(".".join(names[:length]))
            if BRANCH.search(type(module).__name__) and 2 * sum(1 for _ in module.parameters()) < whole:
                return True
        return False

    def _branch_behind(self, last: Sight) -> Sight | None:
        """Return a map behind the last one that takes part in the logits on a way of its own, if there is one."""
        own = self.grids[last.rank]
        if own is None or any(sight.depth > last.depth and self.grids.get(sight.rank) for sight in self.seen.path):
            return None
        for rank, sight in self.seen.flows.items():
            grid = self.grids.get(rank)
            if grid is None or rank <= last.rank or sight.kind is None or grid.channels < max(8, own.channels // 4):
                continue
            module = self.network.get_submodule(sight.place.module)
            mixes = isinstance(module, nn.Conv2d) and max(module.kernel_size) > 1
            if mixes or grid.cells < own.cells:
                return sight
        return None

    def _at_strides(self, maps: list[Sight]) -> list[Tap]:
        """Return the last map at each of the four strides; a pooling's only where there is no other."""
        found: list[Tap] = []
        inner = self._inside_a_downsampling(maps)
        for stride in STRIDES:
            here = [sight for sight in maps if self._stride(sight) == stride]
            best = [s for s in here if not s.is_pooled and s.rank not in inner] or [s for s in here if not s.is_pooled]
            if not (best := best or here):
                return []
            found.append(self._tap(best[-1]))
        return found

    def _inside_a_downsampling(self, maps: list[Sight]) -> set[int]:
        """Return maps inside a module that halves the resolution at its start: its input is the last of its stride."""
        every = self._named(self.seen.path)
        inner: set[int] = set()
        for outer in maps:
            module = outer.place.module
            own = [s for s in every if s.place.module == module or s.place.module.startswith(f"{module}.")]
            inside = [sight for sight in own if sight.depth <= outer.depth]
            strides = [self._stride(sight) for sight in inside if self.grids.get(sight.rank)]
            before = [sight for sight in maps if inside and sight.depth < inside[0].depth]
            if not before or len(set(strides)) != 2 or self._stride(before[-1]) != strides[0]:
                continue
            if 2 * strides.count(strides[0]) <= len(strides):
                inner |= {sight.rank for sight in inside if self._stride(sight) == strides[0]}
        return inner

    def _stride(self, sight: Sight) -> int:
        grid = self.grids.get(sight.rank)
        return power_of_two(self.size, grid.cells) if grid else 0

    def _of_stack(self, maps: list[Sight]) -> list[Tap]:
        """Return taps a quarter of the depth apart, out of the tokens of a network whose blocks have one resolution."""
        tokens = [sight for sight in maps if self._tap(sight).layout.startswith("tokens") and sight.kind]
        kinds = Counter(sight.kind for sight in tokens if sight.kind is not nn.Identity)
        if not kinds:
            return []
        (kind, _), *_ = kinds.most_common(1)
        blocks = [self._tap(sight) for sight in tokens if sight.kind is kind]
        if len(blocks) < LEAST_BLOCKS:
            return []
        picks = [blocks[len(blocks) * quarter // 4 - 1] for quarter in (1, 2, 3, 4)]
        return [replace(tap, stride=stride, enlarge=True) for tap, stride in zip(picks, STRIDES, strict=True)]


def survey_of(network: nn.Module, sample: Tensor, name: str) -> Survey:
    """Observe a network on an image and on a wider one.

    Raises:
        ValueError: The network cannot be differentiated.
    """
    more = max(32, round(sample.shape[-1] / 96) * 32)  # whole cells at all strides
    columns = sample.shape[-1] + more
    wide = sample.repeat(1, 1, 1, -(-columns // sample.shape[-1]))[..., :columns]
    try:
        try:
            return Survey(network, sample, wide)
        except RuntimeError:
            if not keep_overwritten(network, sample):
                raise
            return Survey(network, sample, wide)
    except Exception as error:  # whatever a network of the user's own raises
        raise ValueError(f"no layer of {name} can be read: it cannot be differentiated: {first_line(error)}") from error


def keep_overwritten(network: nn.Module, sample: Tensor) -> bool:
    """Let modules hand on a copy of what the network then overwrites; return whether there are any.

    A ReLU needs its own output for the gradient, so that `x += y` on it ends in an error of autograd.
    """
    recorder = Recorder(network)
    with torch.enable_grad(), recorder.recording():
        network(sample.clone().requires_grad_())
    names = dict.fromkeys(one[0].module for one in recorder.seen if one[2] is not None and one[1]._version != one[5])
    for name in names:
        network.get_submodule(name).register_forward_hook(_hand_on_a_copy)
    return bool(names)


def _hand_on_a_copy(module: nn.Module, inputs: tuple[Any, ...], output: Output) -> Output:
    for key, value in list(items(output)):
        output = with_item(output, key, value.clone())
    return output


def find_maps(network: nn.Module, sample: Tensor, name: str) -> Taps:
    """Find a network's feature maps; none where it cannot be differentiated.

    Args:
        network: In eval mode, frozen; gives logits.
        sample: One image [1, C, H, W] in the network's own units.
        name: Of the network, for messages.
    """
    try:
        return survey_of(network, sample, name).find()
    except ValueError as error:
        return Taps([], None, str(error))


def named_layers(network: nn.Module, sample: Tensor, names: Sequence[str], name: str) -> list[Tap]:
    """Describe layers that the user names.

    Raises:
        ValueError: One gives no feature map, or the logits do not depend on it.
    """
    seen = survey_of(network, sample, name)
    taps = [seen.named(layer) for layer in names]
    for layer, tap in zip(names, taps, strict=True):
        if not seen.carries(tap):
            raise ValueError(f"the logits of {name} do not depend on {layer!r}, so that its map explains nothing")
    return taps


def named_taps(network: nn.Module, sample: Tensor, names: Sequence[str], name: str) -> list[Tap]:
    """Describe the four taps that the user names, finest first; tokens of one resolution are enlarged to the strides.

    Raises:
        ValueError: They are not four, or one of them is no feature map.
    """
    if len(names) != len(STRIDES):
        raise ValueError(f"`taps` names four modules, for strides 4, 8, 16 and 32, got {len(names)}: {list(names)}")
    taps = [seen.named(layer) for seen in [survey_of(network, sample, name)] for layer in names]
    if len({tap.stride for tap in taps}) == 1 and taps[0].layout.startswith("tokens"):
        return [replace(tap, stride=stride, enlarge=True) for tap, stride in zip(taps, STRIDES, strict=True)]
    return taps


def _tap_at(sight: Sight, grid: Grid) -> Tap:
    """Return the tap of what was seen in a pass."""
    place = sight.place
    return Tap(
        *(place.module, grid.stride, grid.channels, grid.layout, grid.prefix, False, sight.is_modified),
        *(place.call, place.item, place.function, place.ordinal),
    )
