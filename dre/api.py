"""Functions for notebooks: saliency from a classifier and images in one call, without configuration or Lightning."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn

from dre.engine.allocation import keep_memory_on_cpu
from dre.explainers.arguments import Targets, as_classifier, class_targets, on_device, pixels_of, predicted_classes
from dre.explainers.methods import (
    IDGI,
    catalogue,
    chosen_method,
    first_line,
    method_name,
    naming_supported,
    options_of,
    supported_explainers,
)
from dre.images.decode import Pictures, batch_or_pictures
from dre.models import Classifier, variant_of
from dre.models.copies import original
from dre.models.outputs import OutputsName
from dre.models.packed import shipped

__all__ = [
    "catalogue",
    "explain",
    "list_explainers",
    "method_name",
    "naming_supported",
    "options_of",
    "supported_explainers",
]

log = logging.getLogger("dre")


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

    A module or a name is wrapped at each call; wrap it once, by `dre.models.Classifier`, to explain many batches. On a
    CPU the process keeps up to 2 GiB of what it freed, which makes passes faster; DRE_KEEP_MEMORY=0 leaves that be.

    Args:
        classifier: A `dre.models.Classifier`; or any module that maps images to logits, of which a copy is explained,
            without compilation; or the name of a model, `resnet50` for timm's or `torchvision/resnet50`.
        images: A tensor or a NumPy array of floating-point numbers, [B, C, H, W] or [C, H, W] in [0, 1]; or pictures,
            one or several: PIL images, paths, or arrays of 8 bits, [H, W], [H, W, C] or [B, H, W, C] with 1, 3 or 4
            channels. The classifier's own preprocessing resizes and crops pictures (for a plain module: to 224 x 224).
        targets: Class to explain, an integer of any type or a name, for all images, or one for each; by default the
            one that the classifier predicts.
        method: A name from `list_explainers()`; `+idgi` appended to a path method sums it by IDGI's rule. By default
            the one that a given `checkpoint` holds, DRE where a checkpoint for the classifier ships with `dre` and it
            takes the options, else Grad-CAM, or integrated gradients where the network has no feature map; the logger
            `dre` says which.
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
        chosen_method(method, options)  # before a network is built
    given = batch_or_pictures(images)
    wrapped = as_classifier(classifier, given, mean, std, weights, outputs, options.get("layer"))
    wrapped = on_device(wrapped, device, is_own=classifier)
    keep_memory_on_cpu(wrapped.mean.device)
    kind, options = chosen_method(method or default_method(wrapped, options), options)
    with naming_supported():
        explainer = kind(wrapped, **options)
        pixels = pixels_of(given, wrapped)
        explained = predicted_classes(pixels, wrapped, explainer.chunk)
        if targets is not None:
            explained = class_targets(targets, pixels, wrapped)
        saliency: Tensor = explainer(pixels, explained)
    return (saliency, explained) if return_target else saliency


def list_explainers(classifier: nn.Module | str | None = None, size: int | tuple[int, int] = 224) -> dict[str, str]:
    """Return the name of each method with a description of one line.

    Args:
        classifier: A classifier, a plain module or the name of a model; methods that do not work for it are left out.
        size: Of the images of a plain module, (height, width) or one number for both.

    Raises:
        TypeError: `classifier` is neither a module nor a name.
        ValueError: There is no network of this name, or the module does not take images of this size.

    Example:
        >>> list_explainers()["vanilla_gradient"]
        'Compute the magnitude of the gradient of the score at each pixel; one forward and one backward pass.'
    """
    kinds = catalogue()
    if classifier is None:
        return {name: first_line(kinds[name]) for name in sorted(kinds)}
    if isinstance(classifier, nn.Module) and not isinstance(original(classifier), Classifier):
        classifier = Classifier.wrap(original(classifier), size=size)
    wrapped = as_classifier(classifier, [], None, None, None, "logits")
    return {name: first_line(kinds[name]) for name in supported_explainers(wrapped)}


def _refuse_slips(targets: Targets, method: str | None, options: Mapping[str, Any]) -> None:
    """Raise for arguments that stand in each other's place; beside a method, its name may be that of a class, too."""
    if method is None and isinstance(targets, str) and targets.removesuffix(IDGI) in catalogue():
        raise TypeError(f"`targets` is {targets!r}, the name of a method; write method={targets!r}")
    if "target" in options:
        raise TypeError("`target` is called `targets`; write targets=...")


def default_method(classifier: Classifier, options: Mapping[str, Any]) -> str:
    """Return the method that explains where none is named, and log it."""
    if options.get("checkpoint") is not None:
        method: str = variant_of(options["checkpoint"])
    elif shipped(classifier) is not None and options.keys() <= set(options_of(catalogue()["dre"])):
        method = "dre"
    else:
        method = "grad_cam" if classifier.activation_tap is not None else "integrated_gradients"
    log.info("no `method` is named: %s explains", method)
    return method
