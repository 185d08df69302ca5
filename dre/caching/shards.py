"""Tar shards of saliency maps: one writer each, readable up to the last whole map."""

import json
import math
import os
import tarfile
import uuid
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Self

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from dre.engine.cost import Share

SUFFIX = ".tar"
FILE = ".safetensors"
ABOUT = "about.json"
FORMAT = "saliency maps 1"
LARGEST = 1 << 30
"""Bytes after which a writer begins another shard."""


class ShardWriter:
    """Append files to shards that are this writer's alone; a shard begins with what `about` says.

    Args:
        directory: Made where it does not exist.
        rank: Part of the shards' names.
        about: Plain values; `explainers` must list the fingerprints whose maps follow.
        largest: Bytes after which another shard begins.
    """

    def __init__(self, directory: Path, rank: int, about: dict[str, Any], largest: int = LARGEST) -> None:
        self.directory, self.largest = directory, largest
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
        self.stem = f"{stamp}-rank{rank}-{uuid.uuid4().hex[:12]}"
        self.about = json.dumps({"format": FORMAT, **about}, indent=1).encode()
        self.shards = 0
        self.whole = 0
        self._file: IO[bytes] | None = None

    def write(self, name: str, content: bytes) -> None:
        """Append a file.

        Raises:
            OSError: It could not be written whole; call `abandon`.
        """
        if self._file is None or self.whole >= self.largest:
            self.close()
            self.directory.mkdir(parents=True, exist_ok=True)
            self._file = (self.directory / f"{self.stem}-{self.shards:05d}{SUFFIX}").open("xb")
            self.shards, self.whole = self.shards + 1, 0
            self._add(self._file, ABOUT, self.about)
        self._add(self._file, name, content)

    def flush(self) -> None:
        """Hand what was written to the system, so that it outlives the process."""
        if self._file is not None:
            self._file.flush()

    def close(self) -> None:
        """End the shard."""
        if self._file is not None:
            self._file.write(bytes(2 * tarfile.BLOCKSIZE))
            self._file.close()
        self._file = None

    def abandon(self) -> None:
        """Give up a shard that cannot be written on, and cut off what is not whole."""
        if self._file is None:
            return
        path = Path(self._file.name)
        with suppress(OSError):
            self._file.close()  # tries once more to write what it holds
        with suppress(OSError):
            os.truncate(path, min(self.whole, path.stat().st_size))
            if not self.whole:
                path.unlink()
        self._file = None

    def _add(self, file: IO[bytes], name: str, content: bytes) -> None:
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        file.write(entry.tobuf(tarfile.USTAR_FORMAT))
        file.write(content)
        file.write(bytes(-len(content) % tarfile.BLOCKSIZE))
        self.whole = file.tell()


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
    def unpack(cls, content: bytes) -> Self:
        """Read what `pack` wrote.

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
