"""Random masks of coarse cells, and what their scores give: a mean over the masks with its standard error."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, Self

import torch
from torch import Tensor

from dre.engine.chunks import slices

CellBorder = Literal["repeat", "reflect"]
"""What lies beyond the centres of the outermost cells: their own value, or the cells mirrored at these centres."""

MASKS_AT_ONCE = 64
"""Masks that are held while scores are added up."""

FIRST_MASKS = 256
"""Masks after which the standard error is looked at first."""
GROWTH = 1.25
"""From one look at the standard error to the next: how many times as many masks."""


@dataclass(frozen=True, slots=True)
class CellMasks:
    """Build smooth random masks a few at a time: coarse cells, enlarged bilinearly and shifted.

    Args:
        cells: [N, s, s], 1 where a cell is kept.
        shifts: [N, 2], rows and columns by which the enlarged cells are shifted.
        enlarge: [H', s] and [W', s], how each row and column of the enlarged cells mixes the cells.
        size: (height, width) of the masks.

    Source: Petsiuk et al. 2018: s x s cells are enlarged to (s + 1) times the size of a cell, and a window of the
    size of the image is cut out at random.
    """

    cells: Tensor
    shifts: Tensor
    enlarge: tuple[Tensor, Tensor]
    size: tuple[int, int]

    @classmethod
    def draw(
        cls,
        masks: int,
        cells: int,
        keep: float,
        size: tuple[int, int],
        seed: int,
        like: Tensor,
        border: CellBorder = "repeat",
        antithetic: bool = False,
    ) -> Self:
        """Draw masks for images of `size`; the draws depend on the seed and on these numbers alone.

        Of antithetic masks each second one is 1 minus the one before: the other cells are kept, shifted alike.
        """
        generator = torch.Generator().manual_seed(seed)
        drawn = masks // 2 if antithetic else masks
        kept = torch.rand(drawn, cells, cells, generator=generator) < keep
        sides = [math.ceil(side / cells) for side in size]
        shifts = torch.stack([torch.randint(side, (drawn,), generator=generator) for side in sides], dim=1)
        if antithetic:
            kept, shifts = torch.stack([kept, ~kept], dim=1).flatten(0, 1), shifts.repeat_interleave(2, dim=0)
        rows, columns = (enlarging(cells, (cells + 1) * side, border).to(like) for side in sides)
        return cls(kept.to(like), shifts.to(like.device), (rows, columns), size)

    def part(self, which: slice) -> Self:
        """Return some of the masks."""
        return replace(self, cells=self.cells[which], shifts=self.shifts[which])

    def build(self, part: slice) -> Tensor:
        """Build the masks [n, 1, H, W] in [0, 1] of a slice of all; the same in any slicing."""
        rows, columns = (
            matrix[self.shifts[part, axis, None] + torch.arange(side, device=matrix.device)]
            for axis, (matrix, side) in enumerate(zip(self.enlarge, self.size, strict=True))
        )
        with torch.autocast(self.cells.device.type, enabled=False):
            return (rows @ self.cells[part] @ columns.mT)[:, None]


def enlarging(cells: int, length: int, border: CellBorder = "repeat") -> Tensor:
    """Return how each of `length` places mixes the cells linearly, float64 [length, cells]; the rows sum to one.

    Example:
        >>> enlarging(2, 4)[0], enlarging(2, 4, "reflect")[0]
        (tensor([1., 0.], dtype=torch.float64), tensor([0.7500, 0.2500], dtype=torch.float64))
    """
    places = (torch.arange(length, dtype=torch.float64) + 0.5) * cells / length - 0.5
    places = places.abs() if border == "reflect" else places.clamp_min(0)
    beyond = places - (cells - 1)
    places = torch.where(beyond > 0, cells - 1 - (beyond if border == "reflect" else 0.0), places).clamp_min(0)
    return (1 - (places[:, None] - torch.arange(cells)).abs()).clamp_min(0)


def weighted_masks(masks: CellMasks, scores: Tensor, keep: float) -> tuple[Tensor, Tensor]:
    """Return the mean over the masks of score x mask / keep, and its standard error: [B, 1, H, W] each.

    Args:
        masks: N of them.
        scores: [B, N].
        keep: Mean value of each mask.
    """
    count = scores.shape[1]
    first, _, second = _moments(masks, scores)
    mean = first / (count * keep)
    variance = (second / (count * keep**2) - mean.square()).clamp_min(0)
    return _maps(mean, masks), _maps((variance / (count - 1)).sqrt(), masks)


def covered_masks(masks: CellMasks, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sum of score x mask over the sum of the masks, and its standard error: [B, 1, H, W] each.

    A score that is always the same gives a flat map. A pixel that no mask shows gets 0.

    Args:
        masks: N of them.
        scores: [B, N].
    """
    count, level = scores.shape[1], scores.mean(dim=1, keepdim=True)
    rows = torch.cat([scores - level, torch.ones_like(level[:1].expand(1, count))])  # the last sums the masks up
    first, mixed, second = _moments(masks, rows)
    cover = first[-1:]
    whole = cover.where(cover > 0, 1.0)
    mean = first[:-1] / whole
    residues = (second[:-1] - 2 * mean * mixed[:-1] + mean.square() * second[-1:]).clamp_min(0)
    error = (residues * count / (count - 1)).sqrt() / whole  # of a ratio of two sums, to first order
    return _maps((mean + level).where(cover > 0, 0.0), masks), _maps(error, masks)


def paired_masks(masks: CellMasks, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Return what `weighted_masks` does of antithetic masks, whose pairs are drawn independently: [B, 1, H, W] each.

    The mean over the masks that were drawn, of `covered_masks`, is the same: each pair shows each pixel once. A single
    pair has a standard error of NaN.

    Args:
        masks: N of them, each second one 1 minus the one before.
        scores: [B, N].
    """
    pairs, level = scores.shape[1] // 2, scores.mean(dim=1, keepdim=True)
    scores = scores - level  # a pair shows each pixel once, so that a level moves the mean alone
    shape = len(scores), masks.size[0] * masks.size[1]
    first, second = (torch.zeros(shape, dtype=torch.float64, device=scores.device) for _ in range(2))
    with torch.autocast(scores.device.type, enabled=False):
        for part in slices(pairs, MASKS_AT_ONCE // 2):
            which = slice(2 * part.start, 2 * part.stop)
            here, there = masks.build(which).reshape(-1, 2, shape[1]).unbind(1)
            one, other = scores[:, which].reshape(len(scores), -1, 2).unbind(2)
            first += one @ here + other @ there
            second += (
                one.square() @ here.square() + other.square() @ there.square() + 2 * (one * other) @ (here * there)
            )
    mean = first / pairs
    variance = (second / pairs - mean.square()).clamp_min(0)
    error = (variance / (pairs - 1)).sqrt() if pairs > 1 else torch.full_like(mean, torch.nan)
    return _maps(mean + level, masks), _maps(error, masks)


def looks(most: int) -> Iterator[int]:
    """Yield after how many masks the standard error is looked at, even numbers up to `most`.

    Example:
        >>> list(looks(500))
        [256, 320, 400, 500]
    """
    count = min(FIRST_MASKS, most)
    while count < most:
        yield count
        count = min(most, 2 * round(count * GROWTH / 2))
    yield count


def _moments(masks: CellMasks, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the sums over the masks of score x mask, score x mask^2 and score^2 x mask^2, float64 [B, H*W] each."""
    shape = len(scores), masks.size[0] * masks.size[1]
    first, mixed, second = (torch.zeros(shape, dtype=torch.float64, device=scores.device) for _ in range(3))
    with torch.autocast(scores.device.type, enabled=False):
        for part in slices(scores.shape[1], MASKS_AT_ONCE):
            block = masks.build(part).flatten(1)
            squares = block.square()
            first += scores[:, part] @ block
            mixed += scores[:, part] @ squares
            second += scores[:, part].square() @ squares
    return first, mixed, second


def _maps(values: Tensor, masks: CellMasks) -> Tensor:
    return values.view(len(values), 1, *masks.size)


def error_share(saliency: Tensor, error: Tensor) -> Tensor:
    """Return the root mean square of a standard error as a share of the map's range, [B]; 0 where it is rounding.

    Example:
        >>> error_share(torch.tensor([[[[0.0, 2.0]]]]), torch.tensor([[[[0.1, 0.1]]]]))
        tensor([0.0500])
    """
    extent = saliency.flatten(1).amax(1) - saliency.flatten(1).amin(1)
    size = error.square().flatten(1).mean(1).sqrt()
    height = saliency.flatten(1).abs().amax(1)
    rounding = torch.finfo(torch.float32).eps * height.maximum(size)  # of scores, whatever adds them up
    return torch.where(size > rounding, size / extent.maximum(rounding), 0.0)  # finite for a flat map, too
