"""Randomised copies of a classifier: weights drawn anew, or a sigma perturbation (noise in shares of sigma).

A copy keeps the name and the fingerprint of its original, so that an explainer that was trained for the original can be
built on it. Nothing may be stored under the fingerprint of a copy.
"""

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from dre.checks import check_choice
from dre.images.randomness import named_generator
from dre.models.classifiers import Classifier
from dre.models.folding import changed_convolutions, fold_batch_norm
from dre.models.hooks import watching

Redraw = Literal["initial", "shuffled"]
"""Where new weights come from: the usual start of training, or the layer's own values in a random order."""

Deviation = Literal["global", "tensor"]
"""What sigma is: the standard deviation of all parameters together, or of each tensor."""

STATISTICS = ("running_mean", "running_var")


@dataclass(frozen=True, slots=True)
class WeightLayer:
    """Hold a layer that has weights, with what scales and shifts its output.

    Args:
        name: Of its first member.
        members: Names of the modules whose own parameters belong to it, in the order in which they run.
    """

    name: str
    members: tuple[str, ...]


def weight_layers(classifier: Classifier) -> list[WeightLayer]:
    """Name the layers with weights in the order in which they run, from the image to the logits.

    Order and use are observed in one forward and backward pass: parameters that no logit depends on, as those of
    auxiliary heads, belong to no layer. A module that has only vectors (a norm, a layer scale) is part of the layer
    before it, so a folded network and the same one unfolded have the same layers. A module that has parameters of its
    own beside modules inside it, as a transformer with a class token, is a layer that begins before them.
    """
    owners = _owners(classifier)
    layers: list[list[str]] = []
    for owner, has_matrix in owners.items():
        if layers and not has_matrix:
            layers[-1].append(owner)
        else:
            layers.append([owner])
    return [WeightLayer(members[0], tuple(members)) for members in layers]


@torch.no_grad()
def randomise(
    classifier: Classifier, layers: Iterable[WeightLayer], seed: int = 0, redraw: Redraw = "initial"
) -> Classifier:
    """Return a copy of a classifier in which these layers are drawn anew, each tensor from its own random stream.

    `initial` gives convolutions and linear layers He's normal weights (variance 2 / fan-in), shifts of zero, scales of
    one, and batch norms the statistics 0 and 1; bare parameters have no usual start and are shuffled. Shifts are zero
    so that a folded and an unfolded network become the same function (but for a batch norm's epsilon). `shuffled`
    permutes the entries of every tensor, running statistics included.

    Args:
        classifier: Left as it is.
        layers: Of `weight_layers`.
        seed: With the name of a tensor it decides what is drawn, whichever other layers are drawn.
        redraw: Where new values come from.

    Raises:
        ValueError: `redraw` is neither `initial` nor `shuffled`.

    Source: Adebayo et al. 2018; what is drawn is our choice.
    """
    check_choice("redraw", redraw, ("initial", "shuffled"))
    changed = copy.deepcopy(classifier)
    for layer in layers:
        for member in layer.members:
            module = changed.network.get_submodule(member)
            for name, tensor in _own_tensors(module):
                generator = named_generator(seed, f"weights of {member}.{name}".encode())
                values = _initial(module, name, tensor, generator) if redraw == "initial" else None
                tensor.copy_(_shuffled(tensor, generator) if values is None else values)
    return changed


@torch.no_grad()
def add_noise(
    classifier: Classifier, level: float, seed: int = 0, sigma: Deviation = "global", draw: int = 0
) -> Classifier:
    """Return a copy of a classifier with normal noise of standard deviation level x sigma on every parameter.

    Buffers, as a batch norm's running statistics, stay. Level 0 copies bit by bit.

    Args:
        classifier: Left as it is. Folded, the noise is that of its folded convolutions.
        level: Share of sigma, not negative.
        seed: With the level, the draw and the name of a tensor it decides what is drawn.
        sigma: Standard deviation of all parameters of the network together, as in the paper, or of each tensor.
        draw: Number of the draw.

    Raises:
        ValueError: `level` is negative or infinite, or `sigma` is neither `global` nor `tensor`.

    Source: Rahman et al. 2022, section 4. Their N(0, eps I) makes eps the variance and bounds it by a standard
    deviation; here eps is the standard deviation.
    """
    check_choice("sigma", sigma, ("global", "tensor"))
    if not 0 <= level < float("inf"):
        raise ValueError(f"`level` is a share of sigma and must not be negative, got {level}")
    changed = copy.deepcopy(classifier)
    parameters = dict(changed.network.named_parameters())
    overall = standard_deviation(parameters.values()) if sigma == "global" else 0.0
    for name, parameter in parameters.items() if level > 0 else ():
        place = f"noise of level {level:.6g} on {name}" + (f", draw {draw}" if draw else "")
        generator = named_generator(seed, place.encode())
        deviation = overall if sigma == "global" else standard_deviation([parameter])
        parameter.add_(torch.randn(parameter.shape, generator=generator).to(parameter), alpha=level * deviation)
    return changed


def fold(classifier: Classifier) -> Classifier:
    """Return a copy of a classifier in which batch norms are part of the convolutions before them, with its logits.

    Folding changes the parameters, hence their standard deviation and what noise on them does. Convolutions whose own
    output a tap reads are left alone.

    Args:
        classifier: Left as it is.
    """
    changed = copy.deepcopy(classifier)
    kept = {tap.module for tap in (*changed.taps, changed.activation_tap) if tap is not None}
    sample = changed.normalise(changed.sample())
    network = fold_batch_norm(changed.network, lambda one: one(sample), kept)
    changed.folded = changed.folded | changed_convolutions(changed.network, network)
    changed.network = network
    return changed.eval()


def standard_deviation(tensors: Iterable[Tensor]) -> float:
    """Return the standard deviation of the values of all tensors taken as one vector, computed in float64."""
    vectors = [tensor.detach().flatten().double() for tensor in tensors]
    return float(torch.cat(vectors).std(correction=0))


def _owners(classifier: Classifier) -> dict[str, bool]:
    """Name the modules with parameters of their own in the order in which they begin, and whether one is a matrix."""
    probe = copy.deepcopy(classifier).requires_grad_(True)
    parameters = dict(probe.network.named_parameters())
    begun: dict[str, int] = {}

    def note(name: str, *_: object) -> None:
        begun.setdefault(name, len(begun))

    with torch.enable_grad(), watching(probe.network.named_modules(), note, before=True):
        logits = probe(probe.sample())
        slopes = torch.autograd.grad(logits.sum(), list(parameters.values()), allow_unused=True)
    matrices: dict[str, bool] = {
        name: False
        for name, module in probe.network.named_modules()
        if isinstance(module, _BatchNorm) and name in begun
    }
    for (name, parameter), slope in zip(parameters.items(), slopes, strict=True):
        if slope is not None:
            owner = name.rpartition(".")[0]
            matrices[owner] = matrices.get(owner, False) or parameter.ndim > 1
    order = list(dict(probe.network.named_modules()))
    return dict(sorted(matrices.items(), key=lambda entry: (_begin(entry[0], begun), order.index(entry[0]))))


def _begin(name: str, begun: dict[str, int]) -> int:
    """Return when a module began; one whose weights are read from outside begins with the module around it."""
    while name not in begun:
        name = name.rpartition(".")[0]
    return begun[name]


def _own_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield a module's own parameters and running statistics, not those of modules inside it."""
    yield from module.named_parameters(recurse=False)
    yield from (entry for entry in module.named_buffers(recurse=False) if entry[0] in STATISTICS)


def _initial(module: nn.Module, name: str, tensor: Tensor, generator: torch.Generator) -> Tensor | None:
    """Return what training would start from; None for a parameter that has no usual start."""
    if isinstance(module, _ConvNd | nn.Linear):
        if name == "weight":
            start = torch.empty(tensor.shape)
            return nn.init.kaiming_normal_(start, nonlinearity="relu", generator=generator)
        return torch.zeros_like(tensor)
    if isinstance(module, _BatchNorm | nn.LayerNorm | nn.GroupNorm):
        return torch.ones_like(tensor) if name in ("weight", "running_var") else torch.zeros_like(tensor)
    return None


def _shuffled(tensor: Tensor, generator: torch.Generator) -> Tensor:
    order = torch.randperm(tensor.numel(), generator=generator).to(tensor.device)
    return tensor.flatten()[order].view(tensor.shape)
