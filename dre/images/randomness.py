"""Random generators that belong to an image: seeded by its key, independent of batch, order and rank."""

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
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
    return [key.encode() for key in (pixel_keys(images) if keys is None else keys)]


def pixel_keys(images: Tensor) -> list[str]:
    """Return a key for each image [B, C, H, W] without a name: the SHA-256 of its pixels."""
    return [hashlib.sha256(_pixels(image)).hexdigest() for image in images]


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


def noisy_copies(
    images: Tensor, keys: Sequence[str] | None = None, draws: int = 10, radius: float = 0.02, seed: int = 0
) -> Tensor:
    """Add uniform noise to every value of images and cut off at 0 and 1: [B, draws, C, H, W].

    The copies of an image depend on its key alone, and those of fewer draws are the first of more.

    Args:
        images: [B, C, H, W] in [0, 1].
        keys: Sample names; without them, a hash of the pixels stands for the key.
        draws: Copies of each image.
        radius: Most that is added or taken away.
        seed: Of the noise.

    Source: Yeh et al. 2019 and captum's `sensitivity_max`, whose radius is one of what the network is given; ours is
    one of pixels, before the classifier's normalisation.

    Example:
        >>> copies = noisy_copies(torch.full((1, 3, 4, 4), 0.5), ["cat"], draws=2)
        >>> copies.shape, bool((copies - 0.5).abs().max() <= 0.02)
        (torch.Size([1, 2, 3, 4, 4]), True)
    """
    copies = []
    for image, name in zip(images, image_names(images, keys), strict=True):
        generator = named_generator(seed, b"noise on " + name)
        noise = [2 * torch.rand(image.shape, generator=generator) - 1 for _ in range(draws)]
        copies.append((image + radius * torch.stack(noise).to(image)).clamp(0, 1))
    return torch.stack(copies)


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


@contextmanager
def global_draws(generator: torch.Generator, device: torch.device) -> Iterator[Callable[[], bool]]:
    """Seed the global generators of Python, NumPy and PyTorch as one of ours is, and put them back afterwards.

    The context gives a function that says whether anything was drawn from them.

    Args:
        generator: Of an image; its seed counts, and it stays as it is.
        device: Where else PyTorch draws.

    Example:
        >>> with global_draws(torch.Generator().manual_seed(3), torch.device("cpu")) as were_drawn:
        ...     before = were_drawn()
        ...     first = torch.rand(1)
        ...     before, were_drawn()
        (False, True)
        >>> torch.equal(first, torch.rand(1, generator=torch.Generator().manual_seed(3)))
        True
    """
    before, seed = _global_states(device), generator.initial_seed()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
    if on_gpu := _draws_there(device):
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    seeded = _global_states(device)
    try:
        yield lambda: not _are_equal(seeded, _global_states(device))
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])
        if on_gpu:
            torch.cuda.set_rng_state(before[3], device)


def _global_states(device: torch.device) -> tuple[Any, ...]:
    there = (torch.cuda.get_rng_state(device),) if _draws_there(device) else ()
    return random.getstate(), np.random.get_state(), torch.get_rng_state(), *there


def _draws_there(device: torch.device) -> bool:
    """Return whether a device has a generator of its own, which another one does not share."""
    return device.type == "cuda" and torch.cuda.is_available()


def _are_equal(first: tuple[Any, ...], second: tuple[Any, ...]) -> bool:
    """Return whether no generator moved; NumPy's state is a name, an array, its position and a spare normal."""
    numpys = zip(first[1], second[1], strict=True)
    tensors = zip(first[2:], second[2:], strict=True)
    return (
        first[0] == second[0]
        and all(np.array_equal(one, other) for one, other in numpys)
        and all(torch.equal(one, other) for one, other in tensors)
    )
