"""Grids: tell how a network lays out its feature maps, from the shapes of two passes on images of two widths."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from dre.models.observation import Observation, Place, Sight, shapes, values

Layout = Literal["channels_first", "channels_last", "tokens", "tokens_last"]
"""[B, C, h, w], [B, h, w, C], [B, N, C] or [B, C, N]."""

MOST_PREFIX_TOKENS = 16
"""Most class and register tokens that are looked for where the network does not state their number."""

CORNERS, PATCH, FAR, STANDS_OUT = ((0.7, 0.2), (0.2, 0.7)), 0.15, 0.3, 4.0
"""Corners and side of patches and what is far, in sides of the image; how far a change exceeds the median one."""

FIRST = (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.GroupNorm, nn.MaxPool2d, nn.AvgPool2d)
LAST = (nn.Linear, nn.LayerNorm)
"""Modules whose channels are the second or the last axis, whatever the sizes are."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Describe a feature map.

    Args:
        layout: Order of its axes.
        rows: Places from top to bottom.
        columns: Places from left to right.
        channels: Values at each place.
        stride: Pixels of the image for each place, as a power of two for maps and as a quotient for tokens.
        prefix: Tokens before those of the grid.
    """

    layout: Layout
    rows: int
    columns: int
    channels: int
    stride: int
    prefix: int = 0

    @property
    def cells(self) -> int:
        """Return the number of places."""
        return self.rows * self.columns


def token_grid(tokens: int, size: tuple[int, int]) -> tuple[int, int]:
    """Return rows and columns of tokens that cover an image of `size`, (height, width) in pixels.

    Raises:
        ValueError: No grid of about square cells has so many.

    Example:
        >>> token_grid(196, (224, 224)), token_grid(98, (112, 224))
        ((14, 14), (7, 14))
    """
    ideal = math.sqrt(tokens * size[0] / size[1])
    rows = min((r for r in range(1, tokens + 1) if tokens % r == 0), key=lambda r: abs(math.log(r / ideal)), default=0)
    if not rows or abs(math.log(rows / ideal)) > math.log(1.2):
        raise ValueError(f"{tokens} tokens form no grid for an image of {size[0]} x {size[1]} pixels; name a `layer`")
    return rows, tokens // rows


def find_grids(network: nn.Module, seen: Observation, sample: Tensor, wide: Tensor | None) -> dict[int, Grid | None]:
    """Describe what was seen in a pass, by rank: None where a layout cannot be told; what is no map is left out.

    Where the network takes a wider image too, the axis that grows holds the columns. Where it does not, the layout that
    it states decides, then the shape, then the kind of the module.
    """
    others: dict[Place, tuple[int, ...]] = {}
    if wide is not None:
        try:
            others = shapes(network, wide)
        except Exception:
            others = {}
    size, found = (sample.shape[-2], sample.shape[-1]), dict[int, Grid | None]()
    stated, named = stated_prefix(network), _stated_layout(network)
    patches: tuple[int, int] | None = None
    for sight in seen.sights:
        if sight.shape[0] != len(sample):
            continue
        other = others.get(sight.place)
        if other is not None and wide is not None and len(other) == len(sight.shape):
            grid = _by_growth(sight.shape, other, size, wide.shape[-1], stated)
        elif len(sight.shape) == 4:
            grid = _by_shape(named, sight, size)
        else:
            grid = _tokens(stated, sight.shape, size, patches)
        if grid is not None and grid.cells > 1:
            found[sight.rank] = grid
            patches = (grid.rows, grid.columns) if len(sight.shape) == 4 else patches
        elif grid is None and other is None and len(sight.shape) == 4 and len(set(sight.shape[1:])) == 1:
            found[sight.rank] = None  # a cube
    return found


def out_of_order(
    network: nn.Module, sample: Tensor, sights: Sequence[Sight], found: Mapping[int, Grid | None]
) -> list[int]:
    """Return the ranks of tokens that do not lie in the order of the image, as where windows come one after another.

    A patch of the image is turned over. Where the tokens that change most stand out, and lie elsewhere, the order is
    another one. Where the change is spread over the image, as behind attentions, nothing can be told.
    """
    tokens = {sight.place: sight.rank for sight in sights if (g := found.get(sight.rank)) and "tokens" in g.layout}
    if not tokens:
        return []
    before, wrong = values(network, sample, set(tokens)), set()
    for up, left in CORNERS:
        height, width = sample.shape[-2:]
        rows = slice(int(height * up), int(height * (up + PATCH)))
        columns = slice(int(width * left), int(width * (left + PATCH)))
        other = sample.clone()
        other[..., rows, columns] = 2 * sample.mean() - sample[..., rows, columns]
        for place, after in values(network, other, set(tokens)).items():
            grid = found[tokens[place]]
            if grid is not None and place in before:
                axis = 2 if grid.layout == "tokens" else 1
                change = (after - before[place]).float().norm(dim=axis)[0, grid.prefix :]
                if _lies_elsewhere(change, grid, (up + PATCH / 2, left + PATCH / 2)):
                    wrong.add(tokens[place])
    return sorted(wrong)


def _lies_elsewhere(change: Tensor, grid: Grid, centre: tuple[float, float]) -> bool:
    """Return whether the place that changed most stands out and is far from where the image changed."""
    top = int(change.argmax())
    row, column = (top // grid.columns + 0.5) / grid.rows, (top % grid.columns + 0.5) / grid.columns
    is_far = math.hypot(row - centre[0], column - centre[1]) > FAR
    return is_far and float(change.max()) > STANDS_OUT * float(change.median())


def _by_growth(
    shape: tuple[int, ...], wide: tuple[int, ...], size: tuple[int, int], width: int, stated: int | None
) -> Grid | None:
    """Describe a map by the one axis that grew with the width of the image."""
    grown = [axis for axis in range(len(shape)) if shape[axis] != wide[axis]]
    if len(grown) != 1:
        return None
    (axis,) = grown
    if len(shape) == 4:
        if axis == 3:
            return _map("channels_first", shape[2], shape[3], shape[1], size)
        return _map("channels_last", shape[1], shape[2], shape[3], size) if axis == 2 else None
    if axis == 0 or wide[axis] < shape[axis]:
        return None
    tokens, channels = shape[axis], shape[3 - axis]
    more = wide[axis] - tokens
    ideal = math.sqrt(more * size[0] / (width - size[1]))  # rows x new columns, which are as wide as the others
    choices = [rows for rows in _around(ideal, tokens) if more % rows == 0]
    for rows in choices:
        columns = round(rows * size[1] / size[0])
        prefix = tokens - rows * columns
        if prefix == stated or (stated is None and 0 <= prefix <= MOST_PREFIX_TOKENS):
            return _token_map(axis, rows, columns, channels, prefix, size)
    for rows in choices:  # what is stated holds for another part of the network, as where the class joins late
        columns = round(rows * size[1] / size[0])
        if 0 <= tokens - rows * columns <= MOST_PREFIX_TOKENS:
            return _token_map(axis, rows, columns, channels, tokens - rows * columns, size)
    return None


def _around(ideal: float, most: int) -> list[int]:
    nearby = range(max(1, math.floor(ideal) - 1), min(most, math.ceil(ideal) + 1) + 1)
    return sorted(nearby, key=lambda rows: abs(rows - ideal))


def _by_shape(stated: Layout | None, sight: Sight, size: tuple[int, int]) -> Grid | None:
    """Describe [1, a, b, c] by the proportions of the image; by what the network or module states where both fit."""
    _, first, second, third = sight.shape
    choices: list[Layout] = []
    if _fits(second, third, size):
        choices.append("channels_first")
    if _fits(first, second, size):
        choices.append("channels_last")
    if len(choices) == 2:
        choices = [layout for layout in choices if layout == (_layout_of_kind(sight.kind) or stated)]
    if len(choices) != 1:
        return None
    if choices[0] == "channels_first":
        return _map("channels_first", second, third, first, size)
    return _map("channels_last", first, second, third, size)


def _fits(rows: int, columns: int, size: tuple[int, int]) -> bool:
    """Return whether a grid has the proportions of the image, to less than a cell."""
    return abs(rows * size[1] / size[0] - columns) < 1 and rows <= size[0]


def _layout_of_kind(kind: type[nn.Module] | None) -> Layout | None:
    """Return the layout that a kind of module has at all sizes; None where it takes any."""
    if kind is not None and (issubclass(kind, FIRST) or kind.__name__.startswith("BatchNorm")):
        return "channels_first"
    return "channels_last" if kind is not None and issubclass(kind, LAST) else None


def _stated_layout(network: nn.Module) -> Layout | None:
    """Return the layout that a network states for all its maps, as timm's do."""
    stated = next(
        (getattr(part, "output_fmt", None) for part in network.modules() if hasattr(part, "output_fmt")), None
    )
    layouts: dict[str, Layout] = {"NCHW": "channels_first", "NHWC": "channels_last"}
    return layouts.get(str(getattr(stated, "value", stated)).upper())


def _tokens(
    stated: int | None, shape: tuple[int, ...], size: tuple[int, int], patches: tuple[int, int] | None
) -> Grid | None:
    """Describe tokens by the number that the network states, by the map that they were cut from, or as a full grid."""
    for axis in (1, 2):
        tokens, channels = shape[axis], shape[3 - axis]
        if patches is not None and 0 <= (prefix := tokens - patches[0] * patches[1]) <= MOST_PREFIX_TOKENS:
            return _token_map(axis, *patches, channels, prefix, size)
        for prefix in [stated] if stated is not None else []:
            for rows, columns in _full_grids(tokens - prefix, size):
                return _token_map(axis, rows, columns, channels, prefix, size)
    for prefix in range(MOST_PREFIX_TOKENS + 1):
        for rows, columns in _full_grids(shape[1] - prefix, size):
            return _token_map(1, rows, columns, shape[2], prefix, size)
    return None


def _full_grids(tokens: int, size: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """Yield the grid of as many tokens that has the proportions of the image, where there is one."""
    if tokens > 1:
        rows = round(math.sqrt(tokens * size[0] / size[1]))
        if rows and tokens % rows == 0 and _fits(rows, tokens // rows, size):
            yield rows, tokens // rows


def stated_prefix(network: nn.Module) -> int | None:
    """Return the number of class and register tokens that a network states, as timm's do."""
    for part in network.modules():
        number = getattr(part, "num_prefix_tokens", None)
        if isinstance(number, int) and not isinstance(number, bool):
            return number
    return None


def power_of_two(size: tuple[int, int], cells: int) -> int:
    """Return the stride of a map as a power of two: padding and its absence make maps a little larger or smaller."""
    return int(2 ** max(0, round(math.log2(size[0] * size[1] / cells) / 2)))


def _map(layout: Layout, rows: int, columns: int, channels: int, size: tuple[int, int]) -> Grid:
    return Grid(layout, rows, columns, channels, power_of_two(size, rows * columns))


def _token_map(axis: int, rows: int, columns: int, channels: int, prefix: int, size: tuple[int, int]) -> Grid:
    layout: Layout = "tokens" if axis == 1 else "tokens_last"
    return Grid(layout, rows, columns, channels, max(1, size[0] // rows), prefix)
