"""Observation of one forward and backward pass: the tensors of a network, and which of them all logits depend on."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dre.models.graph import depths
from dre.models.hooks import Key, Output, items, watching

ACTIVATIONS = frozenset(
    {
        *("celu", "clamp", "clamp_max", "clamp_min", "clip", "elu", "gelu", "hardsigmoid", "hardswish", "hardtanh"),
        *("leaky_relu", "mish", "prelu", "relu", "relu6", "rrelu", "selu", "sigmoid", "silu", "softplus", "tanh"),
        "threshold",
    }
)
JOINS = frozenset({"add", "cat", "concat", "concatenate"})
"""Functions that join a branch to the main path: the end of a block that is no module of its own."""

PRODUCTS = frozenset({"mul", "multiply", "sub", "div", "maximum", "minimum", "where"})
"""Functions that join two branches, unless one of the two is the main path itself: then the other is its gate."""

FUNCTIONS = ACTIVATIONS | JOINS | PRODUCTS


@dataclass(frozen=True, slots=True)
class Place:
    """Name a tensor of a network's forward pass.

    Args:
        module: Name of the module that gives it, or in whose forward the function is called; the network itself is "".
        call: Which run of the module, from 1; 0 is the last one.
        item: Index, key or attribute of the tensor where the module returns several.
        function: Name of the function that gives it, where no module does.
        ordinal: Which call of that function while the module runs, from 1.

    Example:
        >>> str(Place("layer4.2")), str(Place("stages.3", item=0)), str(Place("", function="relu", ordinal=2))
        ('layer4.2', 'stages.3[0]', '/relu#2')
        >>> Place.parse("/relu#2") == Place("", function="relu", ordinal=2)
        True
    """

    module: str
    call: int = 0
    item: Key | None = None
    function: str = ""
    ordinal: int = 0

    def __str__(self) -> str:
        """Return the name in one word, as users write it and checkpoints keep it."""
        run = f"#{self.call}" if self.call else ""
        item = "" if self.item is None else f"[{self.item}]"
        return f"{self.module}{run}{item}" + (f"/{self.function}#{self.ordinal}" if self.function else "")

    @classmethod
    def parse(cls, name: str) -> "Place":
        """Read what `str` gave.

        Raises:
            TypeError: `name` is no text.
            ValueError: It names no layer.
        """
        if not isinstance(name, str):
            raise TypeError(f"a layer is named by a text such as 'layer4.2', got {name!r}")
        module, slash, function = name.partition("/")
        module, bracket, item = module.partition("[")
        module, mark, call = module.partition("#")
        function, _, ordinal = function.partition("#")
        if (mark and not call.isdigit()) or (slash and not ordinal.isdigit()) or (bracket and not item.endswith("]")):
            raise ValueError(
                f"{name!r} names no layer; write a module's name such as 'layer4.2', and behind it [0] for one of "
                "several outputs, #2 for its second run, or /relu#1 for a function that it calls"
            )
        key: Key | None = (int(item[:-1]) if item[:-1].isdigit() else item[:-1]) if bracket else None
        return cls(module, int(call or 0), key, function, int(ordinal or 0))


@dataclass(frozen=True, slots=True)
class Sight:
    """Hold a tensor that was seen.

    Args:
        place: Its name.
        shape: Its shape.
        kind: Class of the module that gave it; None for a function.
        is_pooled: Whether a pooling without parameters gave it.
        is_gated: Whether it is a map of the path times a gate, whose features are those of the map.
        is_modified: Whether the network overwrites it later in the same pass.
        depth: Position on the path from the image to the logits when all of them depend on it, else -1.
        gradient: Of a random combination of the logits, where `depth` is not negative.
        rank: When it was seen.
    """

    place: Place
    shape: tuple[int, ...]
    kind: type[nn.Module] | None
    is_pooled: bool = False
    is_gated: bool = False
    is_modified: bool = False
    depth: int = -1
    gradient: Tensor | None = None
    rank: int = 0


@dataclass(slots=True)
class Observation:
    """Hold everything that was seen in a pass.

    Args:
        sights: In the order in which they were computed.
        flows: Ranks of tensors that reach the logits with a gradient that is not zero, though other ways pass them by.
        is_flat: Whether no pixel changes the logits.
    """

    sights: list[Sight]
    flows: dict[int, Sight] = field(default_factory=dict)
    is_flat: bool = False

    @property
    def path(self) -> list[Sight]:
        """Return what all logits depend on, from the image to the logits."""
        return sorted((sight for sight in self.sights if sight.depth >= 0), key=lambda sight: (sight.depth, sight.rank))


def canonical(func: Callable[..., Any]) -> str:
    """Return the name of a torch function without the marks of in-place and operator calls."""
    return str(getattr(func, "__name__", func)).strip("_")


class Recorder(TorchFunctionMode):
    """Note each output of a module and of some functions while a network runs.

    Args:
        network: What runs.
        kept: Numbers of axes of the tensors that are held; those of a whole pass may take gigabytes.
    """

    def __init__(self, network: nn.Module, kept: tuple[int, ...] = (3, 4)) -> None:
        super().__init__()
        self.network, self.kept = network, kept
        self.running: list[tuple[str, Counter[str]]] = []
        self.runs: Counter[str] = Counter()
        self.seen: list[tuple[Place, Tensor, type[nn.Module] | None, bool, tuple[int, ...], int, Any, int]] = []
        self.factors: dict[int, list[tuple[Any, int]]] = {}

    def enter(self, name: str, module: nn.Module, inputs: tuple[Any, ...], output: object) -> None:
        """Note that a module starts."""
        self.runs[name] += 1
        self.running.append((name, Counter()))

    def leave(self, name: str, module: nn.Module, inputs: tuple[Any, ...], output: Output) -> None:
        """Note what a module returns."""
        while self.running and self.running.pop()[0] != name:  # a hook of the user's own may have skipped one
            continue
        if name:
            before = next((one.shape for one in inputs if isinstance(one, Tensor)), None)
            for key, value in items(output):
                self._note(Place(name, self.runs[name], key), value, type(module), _is_pool(module, before, value))

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run a function as it is and note its result."""
        name = canonical(func)
        given = [
            (one.grad_fn, one.output_nr, one.shape) for one in args if isinstance(one, Tensor) and name in PRODUCTS
        ]
        result = func(*args, **(kwargs or {}))
        if name in FUNCTIONS and isinstance(result, Tensor) and self.running:
            for _, counts in self.running:
                counts[name] += 1
            owner, counts = self.running[-1]
            self.factors[len(self.seen)] = [(node, nr) for node, nr, shape in given if shape == result.shape]
            self._note(Place(owner, self.runs[owner], None, name, counts[name]), result, None, False)
        return result

    def _note(self, place: Place, value: Tensor, kind: type[nn.Module] | None, is_pooled: bool) -> None:
        if value.ndim in (3, 4) and value.is_floating_point():
            node, number = (value.grad_fn, value.output_nr) if value.grad_fn is not None else (None, 0)
            held = value if value.ndim in self.kept else value.new_empty(0)
            self.seen.append((place, held, kind, is_pooled, tuple(value.shape), value._version, node, number))

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Note for the duration of the context."""
        modules = [
            (name, one) for name, one in self.network.named_modules() if not isinstance(one, torch.jit.ScriptModule)
        ]
        with watching(modules, self.enter, before=True), watching(modules, self.leave), self:
            yield

    def places(self) -> list[Place]:
        """Return the names of what was seen; a module's last run has the number 0."""
        return [
            replace(one[0], call=0 if one[0].call == self.runs[one[0].module] else one[0].call) for one in self.seen
        ]


def shapes(network: nn.Module, sample: Tensor) -> dict[Place, tuple[int, ...]]:
    """Run one forward pass and return the shape of each tensor by place."""
    recorder = Recorder(network, kept=())
    with torch.no_grad(), recorder.recording():
        network(sample)
    return {place: one[4] for place, one in zip(recorder.places(), recorder.seen, strict=True)}


def values(network: nn.Module, sample: Tensor, places: set[Place]) -> dict[Place, Tensor]:
    """Run one forward pass and return the tokens at some places, [1, N, C] or [1, C, N]."""
    recorder = Recorder(network, kept=(3,))
    with torch.no_grad(), recorder.recording():
        network(sample)
    pairs = zip(recorder.places(), recorder.seen, strict=True)
    return {place: one[1] for place, one in pairs if place in places}


def observe(network: nn.Module, sample: Tensor) -> Observation:
    """Run one forward and one backward pass on an image, and return what was seen.

    Args:
        network: In eval mode, frozen; gives logits [1, K].
        sample: [1, C, H, W].

    Raises:
        RuntimeError: The network cannot be differentiated.
    """
    recorder = Recorder(network)
    with torch.inference_mode(False), torch.enable_grad():
        pixels = sample.clone().requires_grad_()
        with recorder.recording():
            logits = network(pixels.clone())  # a copy: a network may overwrite its input
        if logits.grad_fn is None:
            raise RuntimeError("its logits have no gradient")
        draws = torch.randn(logits.shape, generator=torch.Generator().manual_seed(0)).to(logits)
        total = (logits * draws).sum()
        depth_of, flowing = depths(total, pixels)
        gradients: dict[tuple[Any, int], Tensor] = {}
        nodes = {(one[6], one[7]) for one in recorder.seen if one[6] is not None and (one[6], one[7]) in flowing}
        handles = [node.register_prehook(_keep(node, gradients)) for node in {node for node, _ in nodes}]
        try:
            (gradient,) = torch.autograd.grad(total, pixels)
        finally:
            for handle in handles:
                handle.remove()
    sights, flows = [], {}
    for rank, (place, one) in enumerate(zip(recorder.places(), recorder.seen, strict=True)):
        _, value, kind, is_pooled, shape, version, node, number = one
        depth, slope = depth_of.get((node, number), -1), gradients.get((node, number))
        is_gated = any(factor in depth_of for factor in recorder.factors.get(rank, ()))
        is_modified = value._version != version
        slope_of_path = slope if depth >= 0 else None
        sight = Sight(place, shape, kind, is_pooled, is_gated, is_modified, depth, slope_of_path, rank)
        sights.append(sight)
        if depth < 0 and slope is not None and bool(slope.any()):
            flows[rank] = sight
    return Observation(sights, flows, not bool(gradient.any()))


def _keep(node: Any, gradients: dict[tuple[Any, int], Tensor]) -> Callable[[tuple[Tensor | None, ...]], None]:
    def keep(slopes: tuple[Tensor | None, ...]) -> None:
        for number, slope in enumerate(slopes):
            if slope is not None:
                gradients[node, number] = slope.detach()

    return keep


def _is_pool(module: nn.Module, before: tuple[int, ...] | None, value: Tensor) -> bool:
    """Return whether a module pools without parameters."""
    is_named = "pool" in type(module).__name__.lower() and next(module.parameters(), None) is None
    return is_named and (type(module).__module__.startswith("torch.nn") or before != value.shape)
