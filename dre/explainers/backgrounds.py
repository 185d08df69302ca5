"""Fills and random shifts for optimised masks, drawn anew at each iteration."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from dre.images.fill import blurred_background, coloured_noise, gaussian_blur

Background = Literal["blur", "mixture"]
"""The blurred image; or, at each iteration by even chance, the blur or the coloured noise that DRE is trained on."""


class Backgrounds:
    """Draw what is shown where a mask is 0, for a few images, iteration by iteration.

    Args:
        images: [N, C, H, W].
        kind: `blur` is the same at every iteration; Fu et al. 2021 give the `mixture` to all methods that perturb.
        sigma: Of `blur`, in pixels; the mixture has its own.
        generators: One for each image.
    """

    def __init__(self, images: Tensor, kind: Background, sigma: float, generators: Sequence[torch.Generator]) -> None:
        self.images, self.kind = images, kind
        self.blurred = gaussian_blur(images, sigma) if kind == "blur" else blurred_background(images)
        self.generators = [on_device(generator, images.device) for generator in generators]

    def draw(self) -> Tensor:
        """Return the backgrounds [N, C, H, W] of the next iteration."""
        if self.kind == "blur":
            return self.blurred
        drawn = []
        for place, generator in enumerate(self.generators):
            image, blurred = self.images[place : place + 1], self.blurred[place : place + 1]
            chance = torch.rand(1, device=image.device, generator=generator)
            drawn.append(torch.where(chance < 0.5, blurred, coloured_noise(image, generator=generator)))
        return torch.cat(drawn)


class Jitter:
    """Shift images by whole pixels, each by its own random amount at each iteration; borders are repeated.

    Args:
        reach: Pixels between the leftmost and the rightmost shift.
        iterations: Number of shifts.
        generators: One for each image.
    """

    def __init__(self, reach: int, iterations: int, generators: Sequence[torch.Generator]) -> None:
        self.reach = reach
        draws = [torch.randint(reach + 1, (iterations, 2), generator=generator) for generator in generators]
        self.moves: list[list[tuple[int, int]]] = torch.stack(draws, dim=1).tolist()

    def pad(self, images: Tensor) -> Tensor:
        """Pad the images by the largest shift: [N, C, H + reach, W + reach]."""
        before = self.reach // 2
        after = self.reach - before
        return F.pad(images, (before, after, before, after), mode="replicate") if self.reach else images

    def move(self, padded: Tensor, step: int) -> Tensor:
        """Cut the shifted windows [N, C, H, W] of this step out of padded images."""
        if not self.reach:
            return padded
        height, width = padded.shape[-2] - self.reach, padded.shape[-1] - self.reach
        return torch.stack(
            [
                image[:, down : down + height, right : right + width]
                for image, (down, right) in zip(padded, self.moves[step], strict=True)
            ]
        )


def on_device(generator: torch.Generator, device: torch.device) -> torch.Generator:
    """Derive a generator on the images' device, so that a GPU does not wait for draws of the CPU."""
    seed = int(torch.randint(1 << 62, (), generator=generator))
    return torch.Generator(device).manual_seed(seed)
