"""Networks by name: build timm's, torchvision's and this project's, and load weights into them."""

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dre.models.class_names import IMAGENET, imagenet_names
from dre.models.packages import check_package, load_package
from dre.models.timm_library import timm_library
from dre.models.weights import load_weights
from dre.types import Preprocessing


class MNISTCNN(nn.Module):
    """Apply two convolutions of 5 x 5, each followed by 2 x 2 max pooling and a ReLU, and one linear layer.

    Without padding the last map has 64 x 4 x 4 = 1,024 values, which are the inputs that the paper gives to its
    fully connected layer.

    Args:
        num_classes: Size of the head.

    Source: Rahman et al. 2022, "Training on MNIST Dataset".
    """

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 32, 5), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(32, 64, 5), nn.MaxPool2d(2), nn.ReLU()
        )
        self.flatten = nn.Flatten()
        self.head = nn.Linear(64 * 4 * 4, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits [B, K] of normalised images [B, 1, 28, 28]."""
        logits: Tensor = self.head(self.flatten(self.features(images)))
        return logits


TORCHVISION = "torchvision/"
HUB = ("hf_hub:", "hf-hub:")
"""How names begin that timm looks up on the Hugging Face hub."""

OWN = {"dre/mnist_cnn": (MNISTCNN, Preprocessing((28, 28), 28, "bilinear", channels=1), (0.1307,), (0.3081,))}
"""Networks of this project: how to build one, its preprocessing, and mean and standard deviation of its images."""

AUXILIARY = {"torchvision/googlenet": ("aux1.", "aux2."), "torchvision/inception_v3": ("AuxLogits.",)}
"""Auxiliary heads, which only training from scratch needs; they are left out here."""


@dataclass(frozen=True, slots=True)
class NamedNetwork:
    """Hold a network and what belongs to it.

    Args:
        name: What it is called in run files, checkpoints and reports.
        module: Maps normalised images to logits.
        preprocessing: How it wants its images.
        mean: One value, or one per channel.
        std: One value, or one per channel.
        class_names: Name of each class by index, where its weights come with them.
        options: What timm was given beside the name, where it was given anything.

    Raises:
        ValueError: `mean` or `std` has another length, or a value that images cannot be normalised with.
    """

    name: str
    module: nn.Module
    preprocessing: Preprocessing
    mean: Sequence[float]
    std: Sequence[float]
    class_names: tuple[str, ...] | None = None
    options: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        """Check the normalisation."""
        for name, least in (("mean", -math.inf), ("std", 0.0)):
            _check_normalisation(name, getattr(self, name), self.preprocessing.channels, least)


def _check_normalisation(name: str, values: object, channels: int, least: float) -> None:
    try:
        numbers = torch.as_tensor(values, dtype=torch.float64).flatten()
    except (TypeError, ValueError, RuntimeError):
        numbers = torch.empty(0)
    fits = len(numbers) in (1, channels) and bool((numbers.isfinite() & (numbers > least)).all())
    if not fits:
        what = "positive numbers" if name == "std" else "numbers"
        raise ValueError(f"`{name}` must be one or {channels} {what}, for {channels} channels; got {values!r}")


def build(
    name: str, pretrained: bool = False, num_classes: int | None = None, options: Mapping[str, Any] | None = None
) -> NamedNetwork:
    """Build a network by name, with random weights or with those that its library downloads.

    Args:
        name: A timm model name, one of the hub (`hf_hub:timm/resnet50.a1_in1k`), `torchvision/NAME`, or one of `OWN`.
        pretrained: Download weights.
        num_classes: Size of the head when it is not the network's default.
        options: What else `timm.create_model` is given; for timm's networks alone.

    Raises:
        ValueError: There is no network of that name or no weights for it, `num_classes` is below 2, or `options` are
            given for a network that is not timm's.
        ConnectionError: The weights cannot be downloaded.
    """
    if options and (name in OWN or name.startswith(TORCHVISION)):
        raise ValueError(f"`options` are handed to timm, which does not build {name}; leave them out")
    if num_classes is not None and num_classes < 2:
        raise ValueError(f"`num_classes` must be at least 2, got {num_classes}; null keeps the network's own head")
    if name in OWN:
        if pretrained:
            raise ValueError(f"nobody publishes weights of {name}; train it, or give a path")
        module, preprocessing, mean, std = OWN[name]
        return NamedNetwork(name, module(num_classes or 10), preprocessing, mean, std)
    if name.startswith(TORCHVISION):
        return _build_torchvision(name, pretrained, num_classes)
    return _build_timm(name, pretrained, num_classes, options or {})


def load(
    name: str | None, weights: str | None, num_classes: int | None, options: Mapping[str, Any] | None = None
) -> NamedNetwork:
    """Build a network and put weights into it; the arguments are those of `Classifier`.

    Raises:
        ValueError: There is no such network, or the weights belong to another one or to other classes or options.
        FileNotFoundError: There is no file of weights at the path.
        ConnectionError: The weights cannot be downloaded.
    """
    if weights is None or weights in ("pretrained", "package"):
        if name is None:
            raise ValueError(
                "`name` is left out, and `weights` is no checkpoint of classifier training: name a network"
            )
        if weights == "package":
            check_package(name)  # before the network is built
        network = build(name, weights == "pretrained", num_classes, options)
        if weights == "package":
            load_strictly(network.module, load_package(name, network.module), name, "the package")
        return network if weights is None else _with_class_names(network)
    state, trained = load_weights(Path(weights))
    if trained is None:
        if name is None:
            raise ValueError(f"{weights} does not say which network it belongs to; give its name as `name`")
        network = build(name, num_classes=num_classes, options=options)
        load_strictly(network.module, state, name, weights)
        return network
    if name not in (None, trained.name):
        raise ValueError(f"{weights} holds weights of {trained.name}, not of {name}; give that name, or leave it out")
    if num_classes not in (None, trained.num_classes):
        raise ValueError(f"{weights} knows {trained.num_classes} classes, `num_classes` is {num_classes}; leave it out")
    if options not in (None, trained.options):
        raise ValueError(f"{weights} was trained with the options {trained.options}, not {options}; leave them out")
    module = build(trained.name, num_classes=trained.num_classes, options=trained.options).module
    load_strictly(module, state, trained.name, weights)
    return NamedNetwork(
        trained.name, module, trained.preprocessing, trained.mean, trained.std, trained.class_names, trained.options
    )


def origin_of(name: str | None, weights: str) -> str:
    """Describe the file of weights that is missing, and how its path is given."""
    if weights.endswith(".ckpt") or name is None:
        what = "a checkpoint of classifier training, which `python train.py` with a run file classifier_... writes"
    elif name in OWN:
        what = f"a state dict of {name}"
    elif name.startswith(TORCHVISION):
        what = f"the torchvision weights file of {name.removeprefix(TORCHVISION)}"
    else:
        what = f"the timm weights file of {name}, a state dict under timm's names"
    return f"this one is {what}: give its path with --model.classifier.weights"


HEAD = 2
"""Tensors of a head: weights and biases."""


def load_strictly(network: nn.Module, state: dict[str, Tensor], name: str, origin: str) -> None:
    """Load weights that fit a network in every tensor.

    Raises:
        ValueError: They do not fit; the message says which.
    """
    state = {key: value for key, value in state.items() if not key.startswith(AUXILIARY.get(name, ()))}
    own = network.state_dict()
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    misshapen = [key for key in own.keys() & state.keys() if own[key].shape != state[key].shape]
    classes = {len(state[key]) for key in misshapen if state[key].shape[1:] == own[key].shape[1:]}
    if len(classes) == 1 and len(misshapen) <= HEAD and not missing and not unexpected:
        head, given, wanted = ", ".join(sorted(misshapen)), classes.pop(), len(own[misshapen[0]])
        raise ValueError(
            f"{origin} does not fit {name}: its head ({head}) has {given} outputs, not {wanted}; "
            f"give num_classes={given}"
        )
    if missing or unexpected or misshapen:
        raise ValueError(
            f"{origin} does not fit {name}: {len(missing)} missing {missing[:2]}, {len(unexpected)} unexpected "
            f"{unexpected[:2]}, {len(misshapen)} of another shape {misshapen[:2]}; was it saved from this network?"
        )
    network.load_state_dict(state)


def _build_timm(name: str, pretrained: bool, num_classes: int | None, options: Mapping[str, Any]) -> NamedNetwork:
    is_on_hub = name.startswith(HUB)
    if not is_on_hub and not timm_library().is_model(name.split(".", 1)[0]):
        raise ValueError(_unknown(name))
    size_of_head = {} if num_classes is None else {"num_classes": num_classes}
    try:
        network = timm_library().create_model(name, pretrained=pretrained, **{**options, **size_of_head})
    except TypeError as error:  # an option that the network does not know
        raise ValueError(f"timm cannot build {name!r} with the options {dict(options)}: {error}") from None
    except RuntimeError as error:  # an unknown tag behind the dot, or no way to the weights
        raise ValueError(f"timm cannot build {name!r}: {error}") from None
    except Exception as error:  # each version of the hub's library has errors of its own
        if not is_on_hub:
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConnectionError(f"{name} cannot be read from the Hugging Face hub: {reason}") from None
    config = timm_library().data.resolve_model_data_config(network)
    channels, height, width = config["input_size"]
    preprocessing = Preprocessing(
        size=(height, width),
        resize=math.floor(min(height, width) / config["crop_pct"]),
        interpolation=config["interpolation"],
        channels=channels,
    )
    return NamedNetwork(name, network, preprocessing, config["mean"], config["std"], options=options or None)


def _build_torchvision(name: str, pretrained: bool, num_classes: int | None) -> NamedNetwork:
    """Build one of torchvision's classifiers; GoogLeNet and Inception always as their published weights want them."""
    from torchvision import models  # takes two seconds with torch's compiler, which a plain module does not need

    own_name = name.removeprefix(TORCHVISION)
    if own_name not in models.list_models(module=models):
        raise ValueError(_unknown(name))
    weights = models.get_model_weights(own_name).DEFAULT
    options: dict[str, object] = {} if num_classes is None else {"num_classes": num_classes}
    if name in AUXILIARY:  # their own initialisation takes minutes, and weights follow anyway
        options |= {"aux_logits": False, "transform_input": True, "init_weights": False}
    try:
        network = models.get_model(own_name, weights=weights if pretrained else None, **options)
    except OSError as error:  # no way to where they lie
        raise ConnectionError(
            f"the weights of {name} cannot be downloaded from {weights.url}: {error}; fetch that file elsewhere and "
            "give its path as `weights`"
        ) from None
    transform = weights.transforms()
    preprocessing = Preprocessing(
        size=(transform.crop_size[0], transform.crop_size[0]),
        resize=transform.resize_size[0],
        interpolation=transform.interpolation.value,
    )
    return NamedNetwork(name, network, preprocessing, transform.mean, transform.std)


def _with_class_names(network: NamedNetwork) -> NamedNetwork:
    """Name the classes of published weights: 1,000 are those of ImageNet-1k."""
    outputs = getattr(network.module, "num_classes", IMAGENET)  # torchvision publishes no others
    return replace(network, class_names=imagenet_names()) if outputs == IMAGENET else network


def _unknown(name: str) -> str:
    from torchvision import models

    known = [*timm_library().list_models(), *OWN]
    known += [TORCHVISION + name for name in models.list_models(module=models)]
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(near)}?" if near else "timm.list_models() lists the names"
    return f"unknown model {name!r}; {hint} (torchvision's models are written torchvision/NAME)"
