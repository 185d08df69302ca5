"""Arguments of calls from a notebook: classifiers, pictures, classes and devices as a user has them at hand."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from dre.checks import NonFiniteError, check_images, check_targets, class_indices
from dre.engine.chunks import Chunk
from dre.images.decode import preprocess
from dre.models import Classifier
from dre.models.class_names import class_index
from dre.models.copies import original
from dre.models.outputs import OutputsName

Targets = int | str | np.integer[Any] | Sequence[int] | Sequence[str] | np.ndarray[Any, Any] | Tensor | None
"""Class to explain, by index or name, for all images or one for each; None is the one that is predicted."""


def as_classifier(
    classifier: nn.Module | str,
    images: Tensor | list[Image.Image],
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    weights: str | None,
    outputs: OutputsName,
    layer: str | None = None,
) -> Classifier:
    """Return the classifier that a call is about, see `dre.explain`: as it is, around a module, or by its name.

    Raises:
        TypeError: `classifier` is neither a module nor a name.
        ValueError: `mean`, `std` or `outputs` are given for a classifier that has its own, there is no network of this
            name, or the module does not fit the images.
    """
    if not isinstance(classifier, nn.Module | str):
        raise TypeError(
            f"`classifier` must be a torch.nn.Module, a dre.models.Classifier or the name of a model, got "
            f"{type(classifier).__name__}; {_way_out(classifier)}"
        )
    classifier = original(classifier) if isinstance(classifier, nn.Module) else classifier
    if isinstance(classifier, nn.Module) and not isinstance(classifier, Classifier):
        channels, height, width = images.shape[1:] if isinstance(images, Tensor) else (3, 224, 224)
        mean, std = (0.0,) if mean is None else mean, (1.0,) if std is None else std
        size = (height, width)
        return Classifier.wrap(classifier, mean, std, size=size, channels=channels, layer=layer, outputs=outputs)
    if mean is not None or std is not None:
        name = classifier if isinstance(classifier, str) else classifier.name
        raise ValueError(f"`mean` and `std` belong to a plain module; {name} has its own")
    if outputs != "logits":
        raise ValueError("`outputs` belongs to a plain module; give it to `Classifier.wrap` where that is used")
    return Classifier(classifier, weights, layer=layer) if isinstance(classifier, str) else classifier


def _way_out(classifier: object) -> str:
    if isinstance(classifier, Mapping):
        return "a state dict is loaded into a module by `load_state_dict`, or its path given as `weights=` of a name"
    return "put a function into a module"


def on_device(classifier: Classifier, device: str | torch.device | None, is_own: object) -> Classifier:
    """Return a classifier on a device; the caller's own stays where it is, and a copy of it is moved.

    Raises:
        ValueError: There is no such device.
    """
    if device is None:
        return classifier
    try:
        there = torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"`device` {device!r} cannot be used: {reason}; cpu always can") from None
    if classifier.mean.device == there:
        return classifier
    moved: Classifier = (copy.deepcopy(classifier) if classifier is original_of(is_own) else classifier).to(there)
    return moved


def original_of(value: object) -> object:
    """Return the module that `torch.compile` was given, or the value itself."""
    return original(value) if isinstance(value, nn.Module) else value


def pixels_of(images: Tensor | list[Image.Image], classifier: Classifier) -> Tensor:
    """Return images or pictures on the classifier's device, [B, C, H, W].

    Raises:
        ValueError: The images are not [B, C, H, W] in [0, 1], or have other channels than the classifier reads.
        TypeError: They are not floating point.
    """
    if classifier.mean.is_meta:
        raise ValueError("the classifier is on the device 'meta', where there are shapes and no values; take cpu")
    if not isinstance(images, Tensor):
        images = torch.stack([preprocess(picture, classifier.preprocessing) for picture in images])
    check_images(images, classifier.preprocessing.channels)
    return images.to(classifier.mean)


def class_targets(targets: Targets, images: Tensor, classifier: Classifier) -> Tensor:
    """Return the classes that are given, by index or name, as int64 [B] for images [B, C, H, W].

    Raises:
        ValueError: They are neither one class nor one for each image, or the classifier has no such class.
    """
    names = [targets] if isinstance(targets, str) else targets
    if isinstance(names, list | tuple) and names and all(isinstance(name, str) for name in names):
        indices = [class_index(str(name), classifier.class_names, classifier.name) for name in names]
        targets = indices[0] if isinstance(targets, str) else indices
    found = class_indices(targets, len(images), images.device)
    check_targets(found, len(images), classifier.num_classes)
    return found


@torch.no_grad()
def predicted_classes(images: Tensor, classifier: Classifier, chunk: Chunk) -> Tensor:
    """Return the class that the classifier predicts for each image, int64 [B].

    Raises:
        NonFiniteError: It gives NaN or infinity for an image.
    """

    def classes(part: Tensor) -> tuple[Tensor, ...]:
        logits = classifier(part)
        return logits.argmax(dim=1), logits.float().logsumexp(dim=1)  # minus infinity of one class is a probability

    chunk.plan(images, classifier.memory_estimate)
    predicted, sizes = chunk.map(classes, images, backward=False)
    broken = (~sizes.isfinite()).nonzero()[:, 0].tolist()
    if broken:
        raise NonFiniteError(
            f"{classifier.name} gives NaN or infinity for {len(broken)} of {len(images)} images, the first "
            f"at place {broken[0]}; check its weights, `mean` and `std`, and try float32 in place of half precision"
        )
    return predicted
