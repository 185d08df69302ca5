"""Random generators that belong to an image: seeded by its key, independent of batch, order and rank."""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


def image_generators(images: Tensor, keys: Sequence[str] | None, seed: int) -> list[torch.Generator]:
    """Return one CPU generator per image, seeded by its key, so that draws depend on neither batch nor rank.

    Args:
        images: [B, C, H, W]; without keys, a hash of the pixels stands for the key.
        keys: Sample names.
        seed: Of the run.
    """
    return [named_generator(seed, name) for name in image_names(images, keys)]


def image_names(images: Tensor, keys: Sequence[str] | None) -> list[bytes]:
    """Return what tells the images of a batch apart: their keys, or their pixels where they have none."""
    return [key.encode() for key in keys] if keys is not None else [_pixels(image) for image in images]


def pixel_order(name: bytes, pixels: int, seed: int, draw: int) -> Tensor:
    """Shuffle the pixels of an image: int64 [pixels], a permutation that name, seed and number of the draw decide."""
    return torch.randperm(pixels, generator=named_generator(seed, b"order %d of " % draw + name))


def scattered_pixels(name: bytes, size: tuple[int, int], share: float, seed: int) -> Tensor:
    """Draw a share of the pixels, rounded down, and add the four corners: bool [H, W]."""
    height, width = size
    chosen = torch.zeros(height * width, dtype=torch.bool)
    generator = named_generator(seed, b"scattered in " + name)
    chosen[torch.randperm(height * width, generator=generator)[: int(height * width * share)]] = True
    chosen = chosen.view(height, width)
    chosen[:: max(1, height - 1), :: max(1, width - 1)] = True
    return chosen


def named_generator(seed: int, name: bytes) -> torch.Generator:
    """Return the CPU generator that belongs to a seed and a name, the same on every machine."""
    digest = hashlib.sha256(seed.to_bytes(8, "little") + name).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def _pixels(image: Tensor) -> bytes:
    return image.detach().float().cpu().contiguous().numpy().tobytes()


class Draw(NamedTuple):
    """Name a random order of an image's pixels."""

    seed: int
    number: int


def top_count(ratio: float, pixels: int) -> int:
    """Return the size of a random subset: the nearest number of pixels, but one where the ratio is small and not 0."""
    return max(round(ratio * pixels), int(ratio > 0))


def draw_orders(names: Sequence[bytes], pixels: int, draw: Draw) -> Tensor:
    """Draw random orders of the pixels of a batch, int64 [B, pixels]: the pixel that comes first, second, ..."""
    return torch.stack([pixel_order(name, pixels, draw.seed, draw.number) for name in names])


def on_device(generator: torch.Generator, device: torch.device) -> torch.Generator:
    """Derive a generator that draws where the images are: a CPU would hold up a GPU."""
    seed = int(torch.randint(1 << 62, (), generator=generator))
    return torch.Generator(device).manual_seed(seed)
