"""Saliency maps rounded to float16, and the safetensors files that keep them."""

import math
import zlib
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Self

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from dre.engine.cost import Share

TOP = 15
"""Rounded maps have their largest magnitude below 2^15, one power of two below what float16 can hold."""

Rounded = tuple[Tensor, Tensor, Tensor]
"""Maps as float16 [B, 1, H, W], the power of two that is their unit, int32 [B], and their zero, float32 [B]."""


def round_maps(saliency: Tensor) -> Rounded:
    """Round maps [B, 1, H, W] to float16, each in units of its own and counted from its value that is nearest to zero.

    Distances from that value keep a relative precision of 2^-11 down to 2^-28 of the largest, whatever the units of the
    map and whatever is added to it; smaller ones an absolute precision of 2^-39 of the largest. Equal values stay
    equal, and none changes places with another.
    """
    low, high = saliency.flatten(1).aminmax(dim=1)
    zeros = low.clamp_min(0) + high.clamp_max(0)  # one of them is zero
    distances = saliency.double() - zeros.double().view(-1, 1, 1, 1)
    largest = distances.abs().amax(dim=(1, 2, 3))
    powers = torch.where(largest > 0, torch.frexp(largest).exponent - TOP, 0).to(torch.int32)
    return torch.ldexp(distances, -powers.double().view(-1, 1, 1, 1)).half(), powers, zeros


def restore_maps(rounded: Tensor, powers: Tensor, zeros: Tensor) -> Tensor:
    """Give rounded maps back in their own units, float32 [B, 1, H, W]."""
    distances = torch.ldexp(rounded.double(), powers.double().view(-1, 1, 1, 1))
    return (distances + zeros.double().view(-1, 1, 1, 1)).float()


@dataclass(frozen=True, slots=True)
class KeptMap:
    """A rounded map.

    Args:
        rounded: float16 [1, H, W].
        power: Of two, the unit of `rounded`.
        zero: Where `rounded` counts from.
        share: What the explanation took.
    """

    rounded: Tensor
    power: int
    zero: float
    share: Share

    @classmethod
    def of(cls, saliency: Tensor, share: Share) -> list[Self]:
        """Round a batch of maps [B, 1, H, W] that took the same each."""
        rounded, powers, zeros = round_maps(saliency)
        parts = zip(rounded.cpu(), powers.tolist(), zeros.tolist(), strict=True)
        return [cls(one, power, zero, share) for one, power, zero in parts]

    def pack(self) -> bytes:
        """Write a safetensors file: the map is `saliency` x 2^`power` + `zero`; in `cost`, None is NaN."""
        numbers = [math.nan if value is None else value for value in astuple(self.share)]
        tensors = {
            "saliency": self.rounded.contiguous(),
            "power": torch.tensor(self.power, dtype=torch.int32),
            "zero": torch.tensor(self.zero, dtype=torch.float32),
            "cost": torch.tensor(numbers, dtype=torch.float64),
        }
        content: bytes = safetensors.torch.save(tensors | {"checksum": _checksum(tensors)})
        return content

    @classmethod
    def unpack(cls, content: bytes, size: Sequence[int]) -> Self:
        """Read what `pack` wrote of a map of a certain (height, width).

        Raises:
            ValueError: It is damaged, or not such a file.
        """
        try:
            tensors = safetensors.torch.load(content)
            checksum = tensors.pop("checksum")
            rounded, power, zero = tensors["saliency"], int(tensors["power"]), float(tensors["zero"])
            cost = tensors["cost"].tolist()
            if not torch.equal(checksum, _checksum(tensors)):
                raise ValueError("its checksum is another")
            if rounded.dtype != torch.float16 or rounded.shape != (1, *size):
                raise ValueError(f"it is {rounded.dtype} of shape {list(rounded.shape)}")
            share = Share(*(None if math.isnan(value) else value for value in cost))  # type: ignore[arg-type]
        except (SafetensorError, KeyError, RuntimeError, TypeError) as error:
            raise ValueError("it is no saliency map") from error
        return cls(rounded, power, zero, share)


def join(kept: Sequence[KeptMap], device: torch.device) -> Tensor:
    """Give the maps of a batch back in their own units, float32 [B, 1, H, W]."""
    with torch.autocast("cpu", enabled=False):  # which stacks no float16
        rounded = torch.stack([one.rounded for one in kept]).to(device)
    powers = torch.tensor([one.power for one in kept], dtype=torch.int32, device=device)
    return restore_maps(rounded, powers, torch.tensor([one.zero for one in kept], dtype=torch.float32, device=device))


def _checksum(tensors: dict[str, Tensor]) -> Tensor:
    value = 0
    for name in sorted(tensors):
        value = zlib.crc32(tensors[name].numpy().tobytes(), value)
    return torch.tensor(value, dtype=torch.int64)
