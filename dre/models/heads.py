"""Classification heads: build a network for training with a head for as many classes as the data have."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from dre.models.networks import NamedNetwork, build, load
from dre.types import Preprocessing

BACKBONE = "backbone"
"""Name for everything but the head."""

HEAD_SPREAD = 0.01
"""Standard deviation of a new head's weights: first logits lie close together, whatever the features' scale."""


def load_for_training(
    name: str,
    weights: str | None,
    num_classes: int | None,
    preprocessing: Preprocessing | None,
    options: Mapping[str, Any] | None = None,
) -> NamedNetwork:
    """Build a network, put weights into it, and give it a new head where the one of the weights has another size.

    Args:
        name: As in `Classifier`.
        weights: As in `Classifier`; they are loaded with their own head.
        num_classes: Size of the head; null keeps the one that the weights have.
        preprocessing: Instead of the network's own, such as smaller images.
        options: As in `Classifier`.
    """
    is_new = weights is None
    network = build(name, num_classes=num_classes, options=options) if is_new else load(name, weights, None, options)
    if num_classes is not None and head_size(network.module) != num_classes:
        replace_head(network.module, num_classes)
        network = replace(network, class_names=None)
    if preprocessing is not None:
        network = replace(network, preprocessing=preprocessing)
    _try_out(network)
    network.module.to(memory_format=torch.channels_last)
    return network


def find_head(network: nn.Module) -> str:
    """Name the layer that gives the logits: the last linear layer or convolution in the order of construction.

    Raises:
        ValueError: The network has neither.
    """
    layers: list[str] = [name for name, module in network.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    if not layers:
        raise ValueError(f"{type(network).__name__} has neither a linear layer nor a convolution to end in")
    return layers[-1]


def head_size(network: nn.Module) -> int:
    """Count the classes that a network's head knows."""
    return len(network.get_submodule(find_head(network)).get_parameter("weight"))


def replace_head(network: nn.Module, num_classes: int) -> None:
    """Put a new head with small random weights in place of the one that is there.

    Raises:
        TypeError: The last layer is a convolution with a kernel larger than 1.
        ValueError: There is neither a linear layer nor a convolution.
    """
    name = find_head(network)
    old = network.get_submodule(name)
    new: nn.Linear | nn.Conv2d
    if isinstance(old, nn.Linear):
        new = nn.Linear(old.in_features, num_classes)
    elif isinstance(old, nn.Conv2d) and old.kernel_size == (1, 1):
        new = nn.Conv2d(old.in_channels, num_classes, 1)
    else:
        raise TypeError(f"{name} is no head that could be replaced: {old}")
    nn.init.normal_(new.weight, std=HEAD_SPREAD)
    nn.init.zeros_(new.get_parameter("bias"))
    network.set_submodule(name, new)


def _try_out(network: NamedNetwork) -> None:
    """Raise ValueError for a network that does not run on its images, or whose last layer is not its head."""
    channels, size = network.preprocessing.channels, network.preprocessing.size
    sample = torch.zeros(1, channels, *size)
    try:
        with torch.no_grad():
            logits = network.module.eval()(sample)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"{network.name} does not run on images {list(sample.shape)}: {reason}") from None
    network.module.train()
    if not isinstance(logits, Tensor) or logits.shape != (1, head_size(network.module)):
        raise ValueError(f"{network.name} does not end in its last layer, {find_head(network.module)}: choose another")


def last_linear(network: nn.Module, classes: int) -> tuple[Tensor | None, Tensor]:
    """Return the weights [K, C] and biases [K] of the last linear layer; of one logit, halved and signed.

    Without such a layer the weights are None.
    """
    linear = [module for module in network.modules() if isinstance(module, nn.Linear)]
    if not linear:
        return None, torch.zeros(0)
    weights = linear[-1].weight.detach()
    biases = weights.new_zeros(len(weights)) if linear[-1].bias is None else linear[-1].bias.detach()
    if len(weights) == 1 and classes == 2:
        weights, biases = torch.cat([-weights / 2, weights / 2]), torch.cat([-biases / 2, biases / 2])
    return weights, biases


def freeze(network: nn.Module, names: Sequence[str]) -> list[nn.Module]:
    """Switch off the gradients of modules and return those that must stay in eval mode.

    Args:
        network: Which is trained.
        names: Of its modules; `backbone` is all but the head.

    Raises:
        ValueError: There is no module of a name, or nothing is left to train.
    """
    if BACKBONE in names:
        network.requires_grad_(False)
        network.get_submodule(find_head(network)).requires_grad_(True)
        return [network]
    modules = dict(network.named_modules())
    for name in names:
        if name not in modules:
            known = [name for name, _ in network.named_children()]
            raise ValueError(
                f"no module {name!r} to freeze; there are {', '.join(known)}, and backbone, all but the head"
            )
        modules[name].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise ValueError(f"`frozen` {list(names)} leaves nothing to train")
    return [modules[name] for name in names]
