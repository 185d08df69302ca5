"""Layers that class activation methods read: one line for a small network of every family of timm and torchvision.

`python -m benchmarks.taps` prints network, layer, stride, layout and what is tapped, or why nothing is read, and exits
with 1 where a map is read that is not the last one. For timm that is the grid of the last entry of `feature_info`; in a
network with a class token it is what its last block reads. `python -m benchmarks.taps levit pit` does so for some.
"""

import argparse
import contextlib
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torchvision
from torch import nn

from dre.models import Classifier
from dre.models.networks import TORCHVISION, build
from dre.models.timm_library import timm_library

SMALL = (
    *("test", "femto", "atto", "pico", "nano", "xxs", "xxtiny", "xtiny", "xs", "tiny", "mini", "050", "035", "small"),
    *("_s", "18", "lite", "0", "xx"),
)
"""Parts of names that small networks have, smallest first."""

MOST_PARAMETERS = 150e6
"""Largest network that is built without `--all`."""

STRIDE_TOLERANCE = 0.34
"""Largest relative difference of strides: valid padding makes maps smaller."""

EARLIEST_OF_STACK = 0.75
"""Where in a stack of equal resolution the last feature map may lie: what a class token's last block reads."""


@dataclass(frozen=True, slots=True)
class Line:
    """Hold what is read of a network, and what is wrong with it."""

    name: str
    layer: str
    fault: str = ""


def families() -> dict[str, str]:
    """Return the name of a small network for each family."""
    timm, chosen = timm_library(), {}
    for family in timm.list_modules():
        if names := [name for name in timm.list_models(module=family) if "dinov3" not in name]:
            chosen[f"timm {family}"] = min(names, key=_size)
    every = torchvision.models.list_models(module=torchvision.models)
    for name in every:
        family = torchvision.models.get_model_builder(name).__module__.rpartition(".")[2]
        known = chosen.get(f"torchvision {family}")
        if known is None or _size(name) < _size(known.removeprefix(TORCHVISION)):
            chosen[f"torchvision {family}"] = TORCHVISION + name
    return chosen


def _size(name: str) -> tuple[int, int, str]:
    """Return how large the name sounds."""
    return next((place for place, part in enumerate(SMALL) if part in name), len(SMALL)), len(name), name


def parameters(name: str) -> int:
    """Count the parameters of a network without making them; 0 for one that its library cannot build so."""
    with contextlib.suppress(Exception), torch.device("meta"):
        return sum(one.numel() for one in build(name).module.parameters())
    return 0


def look(name: str) -> Line:
    """Build a network with random weights, and compare what is read of it with what its library says."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        try:
            with _live_heads():
                classifier = Classifier(name, fold=False)
        except ValueError as error:
            return Line(name, f"refused: {error}")
    tap = classifier.activation_tap
    taps = " ".join(one.name for one in classifier.taps) or "-"
    if tap is None:
        return Line(name, f"refused: {classifier.no_activation_tap}")
    grid = f"stride {tap.stride}, {tap.layout}" + (f", {tap.prefix} tokens before" if tap.prefix else "")
    return Line(name, f"{tap.name} ({grid}); taps {taps}", _fault(classifier))


@contextlib.contextmanager
def _live_heads() -> Iterator[None]:
    """Start heads with other values than zero, as trained ones have: on zeros no layer has a gradient."""
    build = nn.init.zeros_

    def draw(tensor: torch.Tensor) -> torch.Tensor:
        return nn.init.trunc_normal_(tensor, std=0.02) if tensor.ndim > 1 else build(tensor)

    nn.init.zeros_ = draw
    try:
        yield
    finally:
        nn.init.zeros_ = build


def _fault(classifier: Classifier) -> str:
    """Return what is wrong with the layer that is read; empty where nothing is."""
    tap, network = classifier.activation_tap, classifier.network
    info = getattr(network, "feature_info", None)
    if tap is None or not info:
        return ""
    last = info[-1]
    module, reduction = str(last["module"]), int(last["reduction"])
    if isinstance(network.get_submodule(module), nn.MaxPool2d):  # VGG: what it pools is read
        reduction //= 2
    images = classifier.sample()
    with torch.no_grad():
        maps = classifier.feature_map(images, tap)
    side = classifier.preprocessing.size[0]
    if abs(side / maps.shape[-2] / reduction - 1) > STRIDE_TOLERANCE:
        return f"stride {side / maps.shape[-2]:.3g} where {module} has {reduction}"
    with contextlib.suppress(ValueError), torch.no_grad():
        if torch.equal(classifier.feature_map(images, classifier.tap(module)), maps):
            return ""
    order = [name for name, _ in network.named_modules()]
    stack = [order.index(one["module"]) for one in info if one["reduction"] == reduction and one["module"] in order]
    first = stack[0] + EARLIEST_OF_STACK * (stack[-1] - stack[0]) if stack else 0
    return f"{tap.name} comes before {module}" if order.index(tap.module) < first else ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the lines; return 1 where another layer than the last one is read."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("only", nargs="*", help="families or networks; all when not given")
    parser.add_argument("--all", action="store_true", help="build networks of more than 150 million parameters, too")
    options = parser.parse_args(arguments)
    only = options.only
    chosen = {family: name for family, name in families().items() if not only or {*only} & {name, family.split()[1]}}
    faults = 0
    for family, name in chosen.items():
        is_large = not options.all and parameters(name) > MOST_PARAMETERS
        line = Line(name, "not built: it is large, see --all") if is_large else look(name)
        faults += bool(line.fault)
        print(f"{family}: {name}: {line.layer}" + (f"  WRONG: {line.fault}" if line.fault else ""), flush=True)
    print(f"{len(chosen)} families, {faults} read another layer")
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
