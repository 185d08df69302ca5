"""Batch-norm folding: make each batch norm part of the convolution before it, with the same output."""

import copy
import logging
from collections import Counter
from collections.abc import Callable, Collection
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from dre.models.hooks import watching

logger = logging.getLogger(__name__)

FOLDING_TOLERANCE = 1e-3
"""Largest change of the output, relative to its largest value, that folding may cause in float32."""

Run = Callable[[Any], Tensor]
Network = TypeVar("Network", bound=nn.Module)


def fold_batch_norm(network: Network, run: Run, keep: Collection[str] = ()) -> Network:
    """Return a copy of a frozen network in which every batch norm that directly follows a convolution is part of it.

    Which batch norm follows which convolution is observed in a forward pass, not read from names. If the folded network
    does not give the same output, or cannot be made, the network is returned as it was.

    Args:
        network: In eval mode.
        run: Calls the network that it is given on some input and returns one tensor of its output.
        keep: Names of convolutions that are left alone, because their own output is read.
    """
    try:
        pairs = [pair for pair in _convolutions_before_batch_norms(network, run) if pair[0] not in keep]
        if not pairs:
            return network
        folded = _folded(network, pairs)
        with torch.no_grad():
            before, after = run(network), run(folded)
    except Exception as error:  # pruned or parametrised weights, modules that cannot be copied
        logger.info("batch norms are not folded: %s", error)
        return network
    same = (after - before).abs().max() <= FOLDING_TOLERANCE * before.abs().max()
    return folded if bool(same) else network


def _folded(network: Network, pairs: list[tuple[str, str]]) -> Network:
    folded = copy.deepcopy(network)
    for convolution_name, norm_name in pairs:
        convolution, norm = folded.get_submodule(convolution_name), folded.get_submodule(norm_name)
        if not isinstance(convolution, nn.Conv2d) or not isinstance(norm, nn.BatchNorm2d):
            raise TypeError(f"{convolution_name} and {norm_name} are no convolution and batch norm")
        folded.set_submodule(convolution_name, fuse_conv_bn_eval(convolution, norm))
        folded.set_submodule(norm_name, _what_remains(norm))
    return folded


def changed_convolutions(before: nn.Module, after: nn.Module) -> frozenset[str]:
    """Return the names of the convolutions into which a batch norm was folded."""
    if before is after:
        return frozenset()
    convolutions = {name: one for name, one in before.named_modules() if isinstance(one, nn.Conv2d)}
    later = {name: one for name, one in after.named_modules() if isinstance(one, nn.Conv2d)}
    return frozenset(name for name, one in convolutions.items() if not torch.equal(one.weight, later[name].weight))


def _what_remains(norm: nn.Module) -> nn.Module:
    """Return what a batch norm does besides normalising: timm's carries dropout and an activation."""
    parts = [part for name in ("drop", "act") if isinstance(part := getattr(norm, name, None), nn.Module)]
    parts = [part for part in parts if not isinstance(part, nn.Identity)]
    if not parts:
        return nn.Identity()
    return parts[0] if len(parts) == 1 else nn.Sequential(*parts)


def _convolutions_before_batch_norms(network: nn.Module, run: Run) -> list[tuple[str, str]]:
    """Observe one pass and list (convolution, batch norm) names that hand each other a tensor, each called once."""
    produced: dict[int, str] = {}
    kept_alive: list[Tensor] = []  # an id is only unique while its tensor lives
    read_by: list[tuple[str, str]] = []
    calls: Counter[str] = Counter()

    def see(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls[name] += 1
        if isinstance(module, nn.Conv2d):
            produced[id(output)] = name
            kept_alive.append(output)
        elif id(inputs[0]) in produced:
            read_by.append((produced[id(inputs[0])], name))

    watched = [(name, one) for name, one in network.named_modules() if isinstance(one, nn.Conv2d | nn.BatchNorm2d)]
    with watching(watched, see), torch.no_grad():
        run(network)
    readers = Counter(convolution for convolution, _ in read_by)
    return [
        (convolution, norm)
        for convolution, norm in read_by
        if readers[convolution] == calls[convolution] == calls[norm] == 1
    ]
