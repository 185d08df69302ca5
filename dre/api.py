"""Functions for notebooks: saliency from a classifier and images in one call, without configuration or Lightning."""

import copy
import difflib
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from dre import renamed
from dre.checks import NonFiniteError, check_images, class_indices
from dre.explainers import Explainer, idgi
from dre.explainers.base import UnsupportedError
from dre.explainers.methods import catalogue, first_line, method_name, options_of, supported_explainers
from dre.images.decode import Pictures, batch_or_pictures, preprocess
from dre.models import Classifier, variant_of
from dre.models.class_names import class_index
from dre.models.copies import original
from dre.models.outputs import OutputsName

__all__ = ["catalogue", "explain", "list_explainers", "method_name", "options_of", "supported_explainers"]

log = logging.getLogger("dre")

IDGI = "+idgi"

Targets = int | str | np.integer[Any] | Sequence[int] | Sequence[str] | np.ndarray[Any, Any] | Tensor | None


@overload
def explain(
    classifier: nn.Module | str,
    images: Pictures,
    targets: Targets = None,
    method: str | None = None,
    *,
    return_target: Literal[False] = False,
    **options: Any,
) -> Tensor: ...


@overload
def explain(
    classifier: nn.Module | str,
    images: Pictures,
    targets: Targets = None,
    method: str | None = None,
    *,
    return_target: Literal[True],
    **options: Any,
) -> tuple[Tensor, Tensor]: ...


def explain(
    classifier: nn.Module | str,
    images: Pictures,
    targets: Targets = None,
    method: str | None = None,
    *,
    return_target: bool = False,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    weights: str | None = "pretrained",
    outputs: OutputsName = "logits",
    device: str | torch.device | None = None,
    **options: Any,
) -> Tensor | tuple[Tensor, Tensor]:
    """Explain images: return saliency [B, 1, H, W] on the classifier's device, higher is more relevant.

    A module or a name is wrapped at each call; wrap it once, by `dre.models.Classifier`, to explain many batches.

    Args:
        classifier: A `dre.models.Classifier`; or any module that maps images to logits, of which a copy is explained,
            without compilation; or the name of a model, `resnet50` for timm's or `torchvision/resnet50`.
        images: A tensor or a NumPy array of floating-point numbers, [B, C, H, W] or [C, H, W] in [0, 1]; or pictures,
            one or several: PIL images, paths, or arrays of 8 bits, [H, W], [H, W, C] or [B, H, W, C] with 1, 3 or 4
            channels. The classifier's own preprocessing resizes and crops pictures (for a plain module: to 224 x 224).
        targets: Class to explain, an integer of any type or a name, for all images, or one for each; by default the
            one that the classifier predicts.
        method: A name from `list_explainers()`; `+idgi` appended to a path method sums it by IDGI's rule. By default
            the one that a given `checkpoint` holds, else Grad-CAM, or integrated gradients where the network has no
            feature map; the logger `dre` says which.
        return_target: Return the class that was explained, int64 [B], behind the saliency.
        mean: What is subtracted before a plain module sees the images, one value or one per channel; by default 0.
        std: What the difference is then divided by; by default 1.
        weights: For a name alone: "pretrained" downloads them; a path, "package" or None as in `Classifier`.
        outputs: What a plain module gives; the logarithms of "probabilities" are taken as logits.
        device: Where to explain, "cuda" or "cpu"; by default where the classifier is, which stays there.
        options: Of the explainer, such as `steps`, `score`, `chunk`, `layer` for methods that read a feature map, or
            `checkpoint` for learned ones.

    Raises:
        ValueError: The method, an option or the device is unknown, or images or targets do not suit the classifier.
        NonFiniteError: The classifier gives NaN or infinity for an image; a ValueError.
        TypeError: `classifier`, `images` or `targets` are of another type.
        FileNotFoundError: There is no picture at a path.
        UnsupportedError: The method does not work for this network.

    Example:
        >>> import dre
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 10))
        >>> dre.explain(network, torch.rand(2, 3, 8, 8), method="integrated_gradients+idgi", steps=4).shape
        torch.Size([2, 1, 8, 8])
    """
    _refuse_slips(targets, method, options)
    if method is not None:
        _chosen(method, options)  # before a network is built
    given = batch_or_pictures(images)
    wrapped = _wrapped(classifier, given, mean, std, weights, outputs, options.get("layer"))
    wrapped = _on_device(wrapped, device, is_own=classifier)
    kind, options = _chosen(method or _default_method(wrapped, options), options)
    with naming_supported():
        explainer = kind(wrapped, **options)
        pixels = _pixels(given, wrapped)
        explained = _targets(targets, pixels, explainer)
        saliency: Tensor = explainer(pixels, explained)
    return (saliency, explained) if return_target else saliency


def list_explainers(classifier: nn.Module | str | None = None, size: int | tuple[int, int] = 224) -> dict[str, str]:
    """Return the name of each method with a description of one line.

    Args:
        classifier: A classifier, a plain module or the name of a model; methods that do not work for it are left out.
        size: Of the images of a plain module, (height, width) or one number for both.

    Example:
        >>> list_explainers()["vanilla_gradient"]
        'Compute the magnitude of the gradient of the score at each pixel; one forward and one backward pass.'
    """
    kinds = catalogue()
    if classifier is None:
        return {name: first_line(kinds[name]) for name in sorted(kinds)}
    if isinstance(classifier, nn.Module) and not isinstance(original(classifier), Classifier):
        classifier = Classifier.wrap(original(classifier), size=size)
    wrapped = _wrapped(classifier, [], None, None, None, "logits", None)
    return {name: first_line(kinds[name]) for name in supported_explainers(wrapped)}


def _refuse_slips(targets: Targets, method: str | None, options: Mapping[str, Any]) -> None:
    """Raise for arguments that stand in each other's place; beside a method, its name may be that of a class, too."""
    if method is None and isinstance(targets, str) and targets.removesuffix(IDGI) in catalogue():
        raise TypeError(f"`targets` is {targets!r}, the name of a method; write method={targets!r}")
    if "target" in options:
        raise TypeError("`target` is called `targets`; write targets=...")


def _default_method(classifier: Classifier, options: Mapping[str, Any]) -> str:
    """Return the method that explains where none is named, and log it."""
    if options.get("checkpoint") is not None:
        method: str = variant_of(options["checkpoint"])
    else:
        method = "grad_cam" if classifier.activation_tap is not None else "integrated_gradients"
    log.info("no `method` is named: %s explains", method)
    return method


def _chosen(method: str, options: dict[str, Any]) -> tuple[type[Explainer], dict[str, Any]]:
    """Find the class of a method, and check the names of its options."""
    name, known = method.removesuffix(IDGI), catalogue()
    if name not in known:
        near = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise ValueError(f"unknown method {method!r}; {hint}dre.list_explainers() names all")
    allowed = options_of(known[name])
    if method.endswith(IDGI):
        if "rule" not in allowed:
            raise ValueError(f"{name!r} walks no path, so {IDGI!r} does not apply to it; leave the suffix away")
        options = {"rule": idgi, **options}
    options = renamed.options(known[name].__name__, options)
    for option in options:
        if option not in allowed:
            raise ValueError(f"{name!r} takes no option {option!r}; it takes {', '.join(allowed)}")
    return known[name], options


def _wrapped(
    classifier: nn.Module | str,
    images: Tensor | list[Image.Image],
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    weights: str | None,
    outputs: OutputsName,
    layer: str | None,
) -> Classifier:
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


def _on_device(classifier: Classifier, device: str | torch.device | None, is_own: object) -> Classifier:
    """Return a classifier on a device; the caller's own stays where it is, and a copy of it is moved."""
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


def _pixels(images: Tensor | list[Image.Image], classifier: Classifier) -> Tensor:
    """Return images or pictures on the classifier's device, [B, C, H, W]."""
    if not isinstance(images, Tensor):
        images = torch.stack([preprocess(picture, classifier.preprocessing) for picture in images])
    check_images(images, classifier.preprocessing.channels)
    return images.to(classifier.mean)


def _targets(targets: Targets, pixels: Tensor, explainer: Explainer) -> Tensor:
    predicted = _predicted(pixels, explainer)
    if targets is None:
        return predicted
    names = [targets] if isinstance(targets, str) else targets
    if isinstance(names, list | tuple) and names and all(isinstance(name, str) for name in names):
        classifier = explainer.classifier
        indices = [class_index(str(name), classifier.class_names, classifier.name) for name in names]
        targets = indices[0] if isinstance(targets, str) else indices
    return class_indices(targets, len(pixels), pixels.device)


@torch.no_grad()
def _predicted(pixels: Tensor, explainer: Explainer) -> Tensor:
    """Return the class that the classifier predicts for each image, [B]; raise where it gives NaN."""

    def classes(part: Tensor) -> tuple[Tensor, ...]:
        logits = explainer.classifier(part)
        return logits.argmax(dim=1), logits.float().logsumexp(dim=1)  # minus infinity of one class is a probability

    explainer.chunk.plan(pixels, explainer.classifier.memory_estimate)
    predicted, sizes = explainer.chunk.map(classes, pixels, backward=False)
    broken = (~sizes.isfinite()).nonzero()[:, 0].tolist()
    if broken:
        raise NonFiniteError(
            f"{explainer.classifier.name} gives NaN or infinity for {len(broken)} of {len(pixels)} images, the first "
            f"at place {broken[0]}; check its weights, `mean` and `std`, and try float32 in place of half precision"
        )
    return predicted


@contextmanager
def naming_supported() -> Iterator[None]:
    """Add to an `UnsupportedError` which methods work for the network."""
    try:
        yield
    except UnsupportedError as error:
        supported = ", ".join(supported_explainers(error.classifier))
        message = f"{error}; these work for {error.classifier.name}: {supported}"
        raise UnsupportedError(message, error.classifier) from None
