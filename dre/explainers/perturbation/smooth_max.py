"""Smooth maximum of bumps, which builds the masks of extremal perturbations, and the regulariser of their area."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dre.images.maps import kth_smallest

COLDNESS = 20.0
"""Inverse temperature: the higher, the closer the soft maximum is to the maximum."""

OCTAVES = COLDNESS / math.log(2)
"""The same for powers of two, which torch computes in half the time: exp(20 z) = 2^(OCTAVES z)."""

VALUES_AT_ONCE = {"cpu": 1 << 19, "cuda": 1 << 26}
"""Values of one place in the kernel that are computed at once: on a CPU four such arrays fit into its last cache."""


def bump(distance: Tensor) -> Tensor:
    """Return the height of a bump at a distance in units of its width: flat to one half, then Gaussian."""
    return torch.exp(-2 * (distance - 0.5).clamp_min(0).square())


@dataclass(frozen=True, slots=True)
class SmoothMax:
    """Build masks [N, 1, H, W] in [0, 1] from one parameter in [0, 1] for each cell of `step` x `step` pixels.

    Each pixel is sum(z softmax(20 z)) over the nearest cells, where z is a cell's parameter times its bump there. The
    masks are built with a margin of `sigma` pixels on each side, into which bumps reach; the area is measured there.

    The bumps repeat with the cells: `radius` cells to each side matter, and pixels at the same one of step x step
    places within their cells have the same heights. So the loop runs over the cells of this neighbourhood, on all
    pixels at once, and no neighbourhood is copied in memory.

    Args:
        size: (height, width) of the masks.
        step: Pixels between parameters.
        sigma: Width of a bump, in pixels.

    Source: Fong, Patrick and Vedaldi 2019, section 3.2, with the geometry of its published code.
    """

    size: tuple[int, int]
    step: int = 7
    sigma: float = 21.0

    @property
    def radius(self) -> int:
        """Return the number of cells to each side whose bump matters."""
        return 1 + math.ceil(self.sigma / self.step)

    @property
    def padding(self) -> int:
        """Return the number of empty cells around the parameters."""
        return self.radius + math.ceil(self.sigma / self.step)

    @property
    def grid(self) -> tuple[int, int]:
        """Return the number of parameters along height and width."""
        return math.ceil(self.size[0] / self.step), math.ceil(self.size[1] / self.step)

    @property
    def cells(self) -> tuple[int, int]:
        """Return the number of cells of the mask with its margin, along height and width."""
        rows, columns = self.grid
        around = 2 * (self.padding - self.radius)
        return rows + around, columns + around

    def build(self, parameters: Tensor) -> Tensor:
        """Build masks with their margin, [N, 1, H', W'], from parameters [N, 1, h, w]; differentiable."""
        padded = F.pad(parameters, (self.padding,) * 4)
        neighbours = F.unfold(padded, 2 * self.radius + 1).transpose(0, 1).flatten(1)
        values: Tensor = _SoftMaximum.apply(neighbours, bump_heights(self, parameters.dtype, parameters.device))
        down, right = self.cells
        masks = values.view(self.step, self.step, len(parameters), down, right).permute(2, 3, 0, 4, 1)
        masks = masks.reshape(len(parameters), 1, down * self.step, right * self.step)
        return masks[..., : (down - 1) * self.step + 1, : (right - 1) * self.step + 1]

    def crop(self, masks: Tensor) -> Tensor:
        """Cut the margin off: [N, 1, H, W]."""
        margin = round(self.sigma)
        return masks[..., margin : margin + self.size[0], margin : margin + self.size[1]]


@lru_cache(maxsize=16)
@torch.inference_mode(False)  # kept for later calls, which may need gradients
def bump_heights(shape: SmoothMax, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the heights [(2 radius + 1)^2, step^2] of the cells around each place within a cell."""
    cells = torch.arange(2 * shape.radius + 1, dtype=torch.float64)
    places = torch.arange(shape.step, dtype=torch.float64)
    along = places[None, :] + shape.step * (shape.padding - cells[:, None]) - shape.sigma
    distance = (along[:, None, :, None].square() + along[None, :, None, :].square()).sqrt()
    return bump(distance / shape.sigma).flatten(2).flatten(0, 1).to(device, dtype)


class _SoftMaximum(torch.autograd.Function):
    """Compute the soft maximum [P, M] over K neighbours [K, M] of M cells, times their heights [K, P] at P places."""

    @staticmethod
    def forward(ctx: Any, neighbours: Tensor, heights: Tensor) -> Tensor:
        parts = [_forward(part, heights) for part in torch.split(neighbours, _tile(heights), dim=1)]
        value, total = (torch.cat(column, dim=1) for column in zip(*parts, strict=True))
        ctx.save_for_backward(neighbours, heights, value, total)
        return value

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:
        neighbours, heights, value, total = ctx.saved_tensors
        share = upstream[0] / total
        rest = share * (1 - COLDNESS * value)
        tiles = (torch.split(tensor, _tile(heights), dim=1) for tensor in (neighbours, share, rest))
        with torch.autocast(neighbours.device.type, enabled=False):
            parts = [_backward(part, heights, *above) for part, *above in zip(*tiles, strict=True)]
        return torch.cat(parts, dim=1), None


def _forward(neighbours: Tensor, heights: Tensor) -> tuple[Tensor, Tensor]:
    """Return the soft maximum and the sum of the exponentials."""
    shape = heights.shape[1], neighbours.shape[1]
    total, weighted = neighbours.new_zeros(shape), neighbours.new_zeros(shape)
    scaled, powers = torch.empty_like(total), torch.empty_like(total)
    for height, neighbour in zip((OCTAVES * heights)[:, :, None], neighbours, strict=True):
        torch.mul(height, neighbour, out=scaled)
        torch.exp2(scaled, out=powers)  # at most exp(20): no maximum has to be taken off first
        total += powers
        weighted.addcmul_(powers, scaled)
    return weighted.div_(total).div_(OCTAVES), total


def _backward(neighbours: Tensor, heights: Tensor, share: Tensor, rest: Tensor) -> Tensor:
    """Return the gradient [K, M]; exponentials are computed again, because keeping them takes K times the memory."""
    share, rest = share.contiguous(), rest.contiguous()
    scaled, powers, gradient = torch.empty_like(share), torch.empty_like(share), torch.empty_like(neighbours)
    scaled_heights = (OCTAVES * heights)[:, :, None]
    for height, scaled_height, neighbour, row in zip(heights, scaled_heights, neighbours, gradient, strict=True):
        torch.mul(scaled_height, neighbour, out=scaled)
        torch.exp2(scaled, out=powers)
        torch.addcmul(rest, share, scaled, value=COLDNESS / OCTAVES, out=scaled)
        scaled *= powers
        torch.mv(scaled.T, height, out=row)
    return gradient


def _tile(heights: Tensor) -> int:
    """Return how many cells are worked on at once."""
    return max(1, VALUES_AT_ONCE.get(heights.device.type, VALUES_AT_ONCE["cpu"]) // heights.shape[1])


def area_term(masks: Tensor, areas: Tensor) -> Tensor:
    """Return the mean squared distance [N] of a mask's sorted values from those of a binary mask of the wanted area.

    Sorting is not needed: the smallest values are compared with 0, the largest with 1, and one rank divides them.
    Values that tie with that rank share the ones that are left, so that no place is preferred.

    Args:
        masks: [N, 1, H', W'] in [0, 1].
        areas: Wanted share of each, [N] in [0, 1].

    Source: Fong, Patrick and Vedaldi 2019, Eq. 3 (the regulariser R_a), as a mean.
    """
    values = masks.flatten(1)
    pixels = values.shape[1]
    zeros = [round(pixels * (1 - area)) for area in areas.tolist()]
    with torch.no_grad():
        ones = torch.stack([_ones(row, count) for row, count in zip(values, zeros, strict=True)])
    return (values.square() + (1 - 2 * values) * ones).mean(1)  # ones are their own squares, shared or not


def _ones(values: Tensor, zeros: int) -> Tensor:
    """Give 0 to the `zeros` smallest values and 1 to the others."""
    if zeros == 0:
        return torch.ones_like(values)
    bar = kth_smallest(values[None], zeros)[0]
    above, ties = values > bar, values == bar
    left = len(values) - zeros - above.sum()
    return above + ties * (left / ties.sum())
