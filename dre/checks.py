"""Checks of arguments: shapes, ranges and finite values, with errors that say what to do.

The module has more than 300 lines because each check documents what it refuses.
"""

import inspect
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from numbers import Integral, Number, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor


class NonFiniteError(ValueError):
    """Report NaN or infinity in a tensor that should be finite."""


def check_images(images: Tensor, channels: int | None = None) -> None:
    """Check that images are a finite float [B, C, H, W] in [0, 1].

    Args:
        images: The images.
        channels: How many of them the classifier reads; any number when not given.

    Raises:
        ValueError: The shape or a value is wrong.
        TypeError: The type is not floating point.
    """
    if images.ndim != 4:
        raise ValueError(
            f"`images` must be batched, [B, C, H, W], got {list(images.shape)}; add the axis with images[None]"
        )
    if not len(images):
        raise ValueError(f"`images` is empty, {list(images.shape)}; give at least one")
    if not images.is_floating_point():
        raise TypeError(f"`images` must be floating point in [0, 1], got {images.dtype}; divide 8-bit images by 255")
    if channels is not None and images.shape[1] != channels:
        raise ValueError(
            f"the classifier reads {channels} channels, `images` has {images.shape[1]}: {list(images.shape)}"
        )
    check_finite(images, "images")
    low, high = images.aminmax()
    if low < 0 or high > 1:
        raise ValueError(
            f"`images` must lie in [0, 1], got [{low.item():.3g}, {high.item():.3g}]; "
            "the classifier normalises inside its own forward, so pass plain pixels"
        )


def class_indices(targets: object, batch: int, device: torch.device | None = None) -> Tensor:
    """Return targets as int64 [B], from integers of any type: a number for all images, or one for each.

    Args:
        targets: An integer of Python or NumPy, a sequence, an array or a tensor of them, with or without dimensions.
        batch: How many images there are.
        device: Where the result shall lie.

    Raises:
        ValueError: They are no integers.
    """
    try:
        values = targets if isinstance(targets, Tensor) else torch.as_tensor(np.asarray(targets))
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"`targets` must be integers, one for all images or one for each, got {targets!r}") from None
    if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
        raise ValueError(f"`targets` must be integers [{batch}], got {values.dtype} {list(values.shape)}")
    values = values.detach().to(device, torch.int64)
    values = values.expand(batch) if values.ndim == 0 else values
    return values.clone() if values.is_inference() else values


def check_targets(targets: Tensor, batch: int, classes: int) -> None:
    """Check that targets are integers [B] within the classifier's outputs.

    Raises:
        ValueError: They are not.
    """
    if targets.shape != (batch,) or targets.is_floating_point():
        raise ValueError(f"`targets` must be integers [{batch}], got {targets.dtype} {list(targets.shape)}")
    if batch and (targets.min() < 0 or targets.max() >= classes):
        raise ValueError(
            f"`targets` must lie in 0..{classes - 1}, the classes of this classifier, got "
            f"{targets.min().item()}..{targets.max().item()}; does the data belong to another classifier?"
        )


def check_labels(labels: Tensor, classes: int, keys: Sequence[str], needed: bool = False) -> None:
    """Check that the classifier has an output for each label; the error names the image.

    Args:
        labels: [B], -1 for an image without class.
        classes: How many the classifier knows.
        keys: Names of the images.
        needed: Raise for an image without class too.

    Raises:
        ValueError: A label is unknown, or missing where it is needed.
    """
    unlabelled = (labels < 0).nonzero()[:, 0].tolist() if needed else []
    if unlabelled:
        raise ValueError(
            f"image {keys[unlabelled[0]]!r} has no class, and a classifier learns from classes; pack the images with "
            "their labels, by class folders or a labels.csv"
        )
    unknown = (labels >= classes).nonzero()[:, 0].tolist()
    if unknown:
        raise ValueError(
            f"image {keys[unknown[0]]!r} has class {int(labels[unknown[0]])}, the classifier knows 0..{classes - 1}; "
            "does the data belong to another classifier?"
        )


def check_saliency(saliency: Tensor, images: Tensor | None = None) -> None:
    """Check that maps are a finite [B, 1, H, W] of the images' size.

    Raises:
        ValueError: The shape is wrong.
        NonFiniteSaliencyError: A value is NaN or infinite.
    """
    if saliency.ndim != 4 or saliency.shape[1] != 1:
        raise ValueError(f"`saliency` must have shape [B, 1, H, W], got {list(saliency.shape)}")
    if images is not None and (saliency.shape[0], *saliency.shape[2:]) != (images.shape[0], *images.shape[2:]):
        raise ValueError(f"`saliency` {list(saliency.shape)} does not match `images` {list(images.shape)}")
    try:
        check_finite(saliency, "saliency")
    except NonFiniteError as error:
        raise NonFiniteSaliencyError(str(error), saliency) from None


class NonFiniteSaliencyError(NonFiniteError):
    """Report NaN or infinity in saliency maps.

    Args:
        message: What is wrong.
        saliency: The maps, for a caller that can continue with the others.
    """

    def __init__(self, message: str, saliency: Tensor) -> None:
        super().__init__(message)
        self.saliency = saliency


def check_objects(objects: Tensor, like: Tensor) -> None:
    """Check that object masks have the shape of `like` and values 0 and 1.

    Raises:
        ValueError: They do not.
    """
    if objects.shape != like.shape:
        raise ValueError(
            f"`objects` must have shape {list(like.shape)} to match `saliency`, got {list(objects.shape)}; "
            "add the channel axis with objects[:, None]"
        )
    if not ((objects == 0) | (objects == 1)).all():
        raise ValueError("`objects` must hold 0 (outside) and 1 (inside) only; threshold soft masks first")


def check_finite(values: Tensor, name: str) -> None:
    """Check that no value is NaN or infinite; the error counts the values and the batch elements.

    Raises:
        NonFiniteError: One is.
    """
    if not values.numel() or all(extreme.isfinite() for extreme in values.aminmax()):
        return  # the extremes are NaN where any value is: one pass, and no mask of the tensor's size
    finite = torch.isfinite(values)
    if not finite.all():
        rows = int((~finite).flatten(1).any(1).sum()) if values.ndim > 1 else int((~finite).sum())
        raise NonFiniteError(
            f"`{name}` has {int((~finite).sum())} non-finite values in {rows} of {len(values)} entries"
        )


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Check that a word is one of the choices.

    Raises:
        ValueError: It is none of them.
    """
    if value not in choices:
        raise ValueError(f"`{name}` must be one of {', '.join(choices)}, got {value!r}")


LARGEST = 1_000_000
"""Largest magnitude of a number that is an option of a method; larger ones would take years or overflow."""

WIDE = frozenset(
    [
        "blur_radius",
        "blur_sigma",
        "cell",
        "cells",
        "dilation",
        "jitter",
        "kernel_size",
        "levels",
        "mask_sigma",
        "max_sigma",
        "sigma",
        "size",
        "step",
    ]
)
"""Options that are counted in pixels or that memory grows with, at most `WIDEST`."""

WIDEST = 10_000


NUMBERS: tuple[tuple[object, str], ...] = (
    (int, "an integer"),
    (float, "a number"),
    (int | None, "an integer or none"),
    (float | None, "a number or none"),
)
"""Types of options that are numbers, in words."""


def check_options(owner: str, annotations: Mapping[str, object], options: Mapping[str, object]) -> None:
    """Check the numbers among the options of a method: of the right type, finite, and no larger than is of use.

    Args:
        owner: Name of the method.
        annotations: Types of its options.
        options: As they were given.

    Raises:
        TypeError: A number is wanted, and something else is given.
        ValueError: A number is NaN, infinite or enormous, or a seed is negative.
    """
    for name, value in options.items():
        wanted = annotations.get(name)
        plain = next((word for kind, word in NUMBERS if kind == wanted), None)
        is_none = value is None and wanted not in (int, float)
        if plain is not None and not isinstance(value, Number) and not is_none:
            raise TypeError(f"`{name}` of {owner} must be {plain}, got {value!r}")
        if wanted in (int, int | None) and isinstance(value, float) and not value.is_integer():
            raise TypeError(f"`{name}` of {owner} must be an integer, got {value!r}")
        if name == "seed" and isinstance(value, int) and not 0 <= value < 1 << 63:
            raise ValueError(f"`seed` of {owner} must lie in 0..{(1 << 63) - 1}, got {value}")
        if name == "blur_radius" and isinstance(value, int) and value < 0:
            raise ValueError(f"`blur_radius` of {owner} must not be negative, got {value}; none follows from the sigma")
        largest = WIDEST if name in WIDE else LARGEST
        for number in value if isinstance(value, list | tuple) else [value]:
            if isinstance(number, int | float) and name not in ("seed", "chunk") and not abs(number) <= largest:
                raise ValueError(f"`{name}` of {owner} must be finite and at most {largest:,}, got {number}")


def check_constructor(kind: type, arguments: Sequence[object], options: Mapping[str, object]) -> None:
    """Check the numbers that the constructor of a method is given before it sees them, by `check_options`.

    Raises:
        TypeError: A number is wanted, and something else is given.
        ValueError: A number is NaN, infinite or enormous, or a seed is negative.
    """
    signature = inspect.signature(kind.__init__)  # type: ignore[misc]
    found = dict(options)
    with suppress(TypeError):  # the constructor says itself which argument is missing or unknown
        bound = signature.bind_partial(None, *arguments, **options).arguments
        found |= {name: value for name, value in bound.items() if name in signature.parameters}
    check_options(kind.__name__, {one.name: one.annotation for one in signature.parameters.values()}, found)


def check_not_negative(**amounts: float) -> None:
    """Check that weights and widths are not below zero.

    Raises:
        ValueError: A weight or width is below zero.
    """
    for name, amount in amounts.items():
        if amount < 0:
            raise ValueError(f"`{name}` must not be negative, got {amount}; 0 switches it off")


def check_count(name: str, value: int, least: int = 1) -> None:
    """Check that there are enough samples, points or steps.

    Raises:
        ValueError: There are fewer than `least`.
    """
    if value < least:
        raise ValueError(f"`{name}` must be at least {least}, got {value}")


def check_shares(**arguments: float) -> None:
    """Check that shares lie in [0, 1].

    Raises:
        ValueError: A value is outside [0, 1].
    """
    for name, value in arguments.items():
        if not 0 <= value <= 1:
            raise ValueError(f"`{name}` is a share in [0, 1], got {value}")


def check_number(name: str, value: Any, least: float, most: float, whole: bool = True) -> None:
    """Check that an option is a number within bounds.

    Raises:
        TypeError: It is no number, or not a whole one.
        ValueError: It is not finite, or out of bounds.
    """
    kind: Any = Integral if whole else Real
    if isinstance(value, bool) or not isinstance(value, kind):
        raise TypeError(f"`{name}` must be a {'whole number' if whole else 'number'}, got {value!r}")
    if not math.isfinite(value):
        raise ValueError(f"`{name}` must be finite, got {value}")
    if value < least:
        raise ValueError(f"`{name}` must be at least {least}, got {value}")
    if value > most:
        raise ValueError(f"`{name}` must be at most {most}, got {value}")
