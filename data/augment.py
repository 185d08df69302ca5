"""Augmentation of training crops by torchvision, besides crop and flip."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import torch
from PIL import Image

from dre.checks import check_shares

GREY = 127
"""What an erased rectangle shows."""

POLICIES = {"auto_augment": "AutoAugment", "rand_augment": "RandAugment", "trivial_augment": "TrivialAugmentWide"}
"""torchvision's class of each policy."""


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Random changes of the training images. They move pixels, but not boxes, which training does not read.

    Args:
        policy: Operations on colour and geometry with torchvision's own settings: "trivial_augment" draws one,
            "rand_augment" two, "auto_augment" a pair of those that were found for ImageNet.
        colour: Largest relative change of brightness, contrast and saturation.
        erase: Probability that a rectangle of 2 to 33 % of the area becomes grey.

    Raises:
        ValueError: A share is outside [0, 1].
    """

    policy: Literal["none", "auto_augment", "rand_augment", "trivial_augment"] = "none"
    colour: float = 0.0
    erase: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what is no share."""
        check_shares(colour=self.colour, erase=self.erase)

    def __call__(self, image: Image.Image, draws: random.Random) -> Image.Image:
        """Change an image; equal draws change it equally, whatever was drawn elsewhere."""
        changes = _changes(self)
        if changes is None:
            return image
        before = torch.get_rng_state()  # torchvision draws from the process's own randomness
        try:
            torch.default_generator.manual_seed(draws.getrandbits(63))
            changed = changes(image)
        finally:
            torch.set_rng_state(before)
        return changed


@lru_cache(maxsize=8)
def _changes(augmentation: Augmentation) -> Callable[[Image.Image], Image.Image] | None:
    """Build the transform; `None` where nothing is to be changed."""
    if augmentation == Augmentation():
        return None
    from torchvision.transforms import v2  # takes a second, which most trainings do not need

    steps: list[Any] = []
    if augmentation.policy != "none":
        steps.append(getattr(v2, POLICIES[augmentation.policy])())
    if augmentation.colour:
        strength = augmentation.colour
        steps.append(v2.ColorJitter(brightness=strength, contrast=strength, saturation=strength))
    if augmentation.erase:
        steps.append(v2.RandomErasing(augmentation.erase, value=GREY))
    compose: Callable[[Image.Image], Image.Image] = v2.Compose(steps)
    return compose
