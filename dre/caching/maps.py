"""One saliency map as it is kept: float16 with a power of two as its unit, and what it took to make."""

import math
import zlib
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Self

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from dre.metering import Share

TOP = 15
"""Rounded maps have their largest value below 2^15, one power of two below what float16 can hold."""


def round_maps(saliency: Tensor) -> tuple[Tensor, Tensor]:
    """Round maps [B, 1, H, W] to float16 in units of a power of two of their own: the maps and the powers, int32 [B].

    Values down to 2^-28 of the largest keep a relative precision of 2^-11, whatever the units of the map. Smaller ones
    keep an absolute precision of 2^-39 of the largest.
    """
    _, exponents = torch.frexp(saliency.abs().amax(dim=(1, 2, 3)))
    powers = torch.where(saliency.flatten(1).any(dim=1), exponents - TOP, 0).to(torch.int32)
    return torch.ldexp(saliency.double(), -powers.double().view(-1, 1, 1, 1)).half(), powers


def restore_maps(rounded: Tensor, powers: Tensor) -> Tensor:
    """Give rounded maps back in their own units, float32 [B, 1, H, W]."""
    return torch.ldexp(rounded.double(), powers.double().view(-1, 1, 1, 1)).float()


@dataclass(frozen=True, slots=True)
class KeptMap:
    """A rounded map.

    Args:
        rounded: float16 [1, H, W].
        power: Of two, the unit of `rounded`.
        share: What the explanation took.
    """

    rounded: Tensor
    power: int
    share: Share

    @classmethod
    def of(cls, saliency: Tensor, share: Share) -> list[Self]:
        """Round a batch of maps [B, 1, H, W] that took the same each."""
        rounded, powers = round_maps(saliency)
        return [cls(one, power, share) for one, power in zip(rounded.cpu(), powers.tolist(), strict=True)]

    def pack(self) -> bytes:
        """Write a safetensors file: `saliency`, `power`, the share as `cost` (NaN for None), and their `checksum`."""
        numbers = [math.nan if value is None else value for value in astuple(self.share)]
        tensors = {
            "saliency": self.rounded.contiguous(),
            "power": torch.tensor(self.power, dtype=torch.int32),
            "cost": torch.tensor(numbers, dtype=torch.float64),
        }
        content: bytes = safetensors.torch.save(tensors | {"checksum": _checksum(tensors)})
        return content

    @classmethod
    def unpack(cls, content: bytes) -> Self:
        """Read what `pack` wrote.

        Raises:
            ValueError: It is damaged, or not such a file.
        """
        try:
            tensors = safetensors.torch.load(content)
            checksum = tensors.pop("checksum")
            rounded, power, cost = tensors["saliency"], int(tensors["power"]), tensors["cost"].tolist()
            if not torch.equal(checksum, _checksum(tensors)):
                raise ValueError("its checksum is another")
            share = Share(*(None if math.isnan(value) else value for value in cost))  # type: ignore[arg-type]
        except (SafetensorError, KeyError, RuntimeError, TypeError) as error:
            raise ValueError("it is no saliency map") from error
        return cls(rounded, power, share)


def join(kept: Sequence[KeptMap], device: torch.device) -> Tensor:
    """Give the maps of a batch back in their own units, float32 [B, 1, H, W]."""
    with torch.autocast("cpu", enabled=False):  # which stacks no float16
        rounded = torch.stack([one.rounded for one in kept]).to(device)
    return restore_maps(rounded, torch.tensor([one.power for one in kept], dtype=torch.int32, device=device))


def _checksum(tensors: dict[str, Tensor]) -> Tensor:
    value = 0
    for name in sorted(tensors):
        value = zlib.crc32(tensors[name].numpy().tobytes(), value)
    return torch.tensor(value, dtype=torch.int64)
