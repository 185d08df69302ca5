"""Function mode of LRP: the relevance rule of each torch function that a network calls."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from dre.explainers.propagation.function_mode import (
    AVERAGES,
    LAYERS,
    MAXIMA,
    RESHAPING,
    Call,
    FunctionMode,
    UnsupportedFunctionError,
    named,
    wide,
    with_gradient,
)
from dre.explainers.propagation.rules import (
    FLOOR,
    Layer,
    Leaves,
    Rule,
    boxed,
    is_positive,
    per_image,
    proportional,
    pull_of,
    spread,
    stabiliser,
)

FirstLayer = Literal["same", "z_box", "flat"]

HOMOGENEOUS = named("leaky_relu neg prelu relu rrelu")
"""Functions that are proportional to their input on either side of zero: their gradient passes relevance through."""
CURVES = named("celu clamp clamp_max clamp_min elu gelu hardswish hardtanh mish relu6 selu silu softsign tanh")
"""Other activations that are zero at zero."""

GATES = named("hardsigmoid sigmoid softmax")
"""Functions whose result may only multiply features."""

SUMS = named("add sub subtract rsub")
PRODUCTS = named("mul multiply")
QUOTIENTS = named("div divide true_divide")


@dataclass(frozen=True, slots=True)
class Rules:
    """Hold which rule is used in which layer.

    Args:
        convolutional: For convolutions, batch norms that could not be folded, sums and averages.
        dense: For linear layers.
        first: For layers that read the pixels, instead of the one above.
        epsilon: Stabiliser of every layer, in standard deviations of its output over the image.
    """

    convolutional: Rule
    dense: Rule
    first: FirstLayer
    epsilon: float


class Relevance(FunctionMode):
    """Turn the gradient of a score with respect to `leaves` into relevance while the mode is on.

    ReLU, max pooling, averages of features of one sign and reshaping pass their gradient; activations that are zero at
    zero pass relevance through, whatever their shape. A product of features and a gate is shared by the features
    alone; a gate is what comes from a sigmoid, a hard sigmoid or a softmax, or the smaller of two factors. A product
    of two signals is shared equally.

    Args:
        network: Runs under the mode.
        rules: Used in its layers.
        leaves: Made for the pixels.
    """

    def __init__(self, network: nn.Module, rules: Rules, leaves: Leaves) -> None:
        super().__init__(network)
        self.applied, self.leaves = rules, leaves
        self.pixels: dict[int, tuple[Tensor, list[Tensor]]] = {}
        self.gates: dict[int, Tensor] = {}
        self.first_layers = 0
        groups: list[tuple[frozenset[str], Callable[[Call], Any]]] = [
            (RESHAPING, self._reshape),
            (HOMOGENEOUS | MAXIMA, self._pass),
            (CURVES, self._curve),
            (GATES, self._gate),
            (LAYERS, self._layer),
            (AVERAGES, self._average),
            (SUMS, self._sum),
            (PRODUCTS, self._product),
            (QUOTIENTS, self._quotient),
            (frozenset({"batch_norm"}), self._batch_norm),
        ]
        self.rules = {name: rule for names, rule in groups for name in names}

    def show(self, images: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """Return the images [B, C, H, W] to run on, which depend on their leaf.

        Args:
            images: In the network's own units.
            low: Smallest values that they may have, [1, C, 1, 1].
            high: Largest values, likewise.
        """
        presence = self.leaves.presence
        pixels = presence * images
        if self.applied.first != "same":
            companions = [presence] if self.applied.first == "flat" else [presence * low, presence * high]
            self.pixels[id(pixels)] = (pixels, companions)
        return pixels

    def finish(self, logits: Tensor) -> None:
        """Refuse a run whose logits come from a gate, or in which no layer read the pixels."""
        if self.is_gate(logits) or not logits.requires_grad:
            raise UnsupportedFunctionError("logits that come from a sigmoid, hard sigmoid or softmax")
        if self.applied.first != "same" and self.first_layers == 0:
            raise UnsupportedFunctionError(f"the rule {self.applied.first!r}, because no layer reads the pixels")

    def is_gate(self, value: object) -> bool:
        """Return whether a value came from a gate."""
        return self.gates.get(id(value)) is value and isinstance(value, Tensor)

    def without_rule(self, call: Call) -> Any:
        """Run a function without a rule; what is computed from a gate is a gate as well."""
        result = super().without_rule(call)
        if any(map(self.is_gate, call.tensors())):
            self.gates |= {id(item): item for item in _listed(result)}
        return result

    def _reshape(self, call: Call) -> Any:
        return self._follow(call, self.without_rule(call))

    def _pass(self, call: Call) -> Any:
        self._refuse_gates(call)
        return call.run()

    def _curve(self, call: Call) -> Any:
        """Pass relevance through by the multiplier f(x) / x."""
        self._refuse_gates(call)
        features = call.operand
        if not features.requires_grad:
            return call.run()
        if call.on(features.detach().new_zeros(1)).any():
            self.refuse(call, ", whose bounds exclude zero")
        value = call.value(features.detach())
        divisor = wide(features.detach()) + FLOOR
        multiplier = torch.div(wide(value), divisor, out=divisor)
        return with_gradient(value, [(features, multiplier)], call.is_in_place)

    def _gate(self, call: Call) -> Tensor:
        """Cut the gradient: what multiplies features is a constant."""
        self._refuse_gates(call)
        result = cast(Tensor, call.run())
        gate = result.detach_() if call.is_in_place and not result._is_view() else result.detach()
        self.gates[id(gate)] = gate
        return gate

    def _layer(self, call: Call) -> Tensor:
        self._refuse_gates(call)
        options = {name: value for name, value in call.options.items() if name not in ("input", "weight", "bias")}

        def run(features: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
            return cast(Tensor, call.func(features, weight, bias, *call.args[3:], **options))

        weight = cast(Tensor, call.argument(1, "weight"))
        layer = Layer(run, weight, call.argument(2, "bias"), bias_axes=weight.ndim - 2, pull=pull_of(call))
        return self._layer_output(
            call, layer, self.applied.dense if call.name == "linear" else self.applied.convolutional
        )

    def _batch_norm(self, call: Call) -> Tensor:
        """Treat a batch norm that was not folded as a layer with one weight for each channel."""
        self._refuse_gates(call)
        mean, variance = call.argument(1, "running_mean"), call.argument(2, "running_var")
        if mean is None or call.argument(5, "training", False):
            self.refuse(call, ", which normalises by the statistics of the batch")
        weight, bias = call.argument(3, "weight"), call.argument(4, "bias")
        scale = (variance + call.argument(7, "eps", 1e-5)).rsqrt() * (1.0 if weight is None else weight)
        shift = (0.0 if bias is None else bias) - mean * scale
        axes = call.operand.ndim - 2

        def run(features: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
            scaled = features * cast(Tensor, weight).view(-1, *[1] * axes)
            return scaled if bias is None else scaled + bias.view(-1, *[1] * axes)

        return self._layer_output(call, Layer(run, scale, shift, axes), self.applied.convolutional)

    def _average(self, call: Call) -> Tensor:
        self._refuse_gates(call)
        if not call.operand.requires_grad or not self.applied.convolutional.splits_signs or is_positive(call.operand):
            return cast(Tensor, call.run())
        layer = Layer(lambda features, weight, bias: cast(Tensor, call.on(features)))
        return spread(call.operand, layer, self.applied.convolutional, self.applied.epsilon, self.leaves)

    def _layer_output(self, call: Call, layer: Layer, rule: Rule) -> Tensor:
        """Spread the relevance of a layer, or use the rule of the first layer where it reads the pixels."""
        features = call.operand
        if not features.requires_grad:
            return cast(Tensor, call.run())
        if id(features) not in self.pixels:
            return spread(features, layer, rule, self.applied.epsilon, self.leaves)
        self.first_layers += 1
        _, companions = self.pixels[id(features)]
        with torch.no_grad():
            value = layer.output(features)
        if self.applied.first == "flat":
            carrier = layer.run(companions[0], torch.ones_like(cast(Tensor, layer.weight)), None)
            return proportional(value, carrier, 0.0, self.leaves)
        return proportional(value, boxed(features, companions, layer), 0.0, self.leaves)

    def _sum(self, call: Call) -> Any:
        """Treat a sum as a layer of weights one, and a constant in it as a bias."""
        tensors = [value for value in call.operands if isinstance(value, Tensor)]
        varying = [value for value in tensors if value.requires_grad]
        if not varying:
            return self.without_rule(call)
        self._refuse_gates(call)
        splits_signs = self.applied.convolutional.splits_signs and not (
            len(varying) == 2 and all(map(is_positive, varying))
        )
        counts_bias = self.leaves.bias is not None and len(varying) == 1
        is_of_pixels = any(id(value) in self.pixels for value in tensors)  # whose layer has a rule without biases
        is_constant_overwritten = call.is_in_place and not tensors[0].requires_grad
        if not (splits_signs or counts_bias) or is_of_pixels or is_constant_overwritten:
            return self._follow(call, call.run())
        alpha = call.options.get("alpha", 1)
        signs = {"sub": (1, -alpha), "subtract": (1, -alpha), "rsub": (-alpha, 1)}.get(call.name, (1, alpha))
        terms = [value if sign == 1 else value * sign for value, sign in zip(call.operands, signs, strict=True)]
        return self._follow(call, self._share(terms, varying[0], call.is_in_place))

    def _share(self, terms: Sequence[Any], like: Tensor, is_in_place: bool) -> Tensor:
        """Add two terms and share relevance between those that vary and, where it is counted, the bias."""
        first, second = (wide(term.detach() if isinstance(term, Tensor) else like.new_tensor(term)) for term in terms)
        value = first + second
        signed, unsigned = torch.ones_like(value), torch.zeros_like(value)
        if self.applied.convolutional.splits_signs:
            epsilon = stabiliser(value, self.applied.epsilon)
            signed, unsigned = self.applied.convolutional.factors(value, first.abs() + second.abs(), epsilon)
        carriers = []
        for term, constant in zip(terms, (first, second), strict=True):
            factor = signed + unsigned * constant.sign()
            if isinstance(term, Tensor) and term.requires_grad:
                carriers.append((term, factor))
            elif self.leaves.bias is not None:
                carriers.append((per_image(self.leaves.bias, value), factor * constant))
        lost = self.leaves.lost(value, carriers)
        return with_gradient(value.to(torch.result_type(*terms)), carriers + lost, is_in_place)

    def _product(self, call: Call) -> Any:
        """Let the features take all beside a gate or a constant, and two signals share equally."""
        varying = [value for value in call.operands if isinstance(value, Tensor) and value.requires_grad]
        if len(varying) < 2:
            result = call.run() if varying else self.without_rule(call)
            return self._follow(call, result)
        first, second = varying
        if first.numel() == second.numel():
            value = first.detach() * second.detach()
            return with_gradient(value, [(first, second.detach() / 2), (second, first.detach() / 2)], call.is_in_place)
        gate = min(varying, key=Tensor.numel)
        return call.replaced(lambda value: value.detach() if value is gate else value).run()

    def _quotient(self, call: Call) -> Any:
        dividend, divisor = call.operands
        if isinstance(divisor, Tensor) and divisor.requires_grad:
            self.refuse(call, ", by something that depends on the image")
        is_varying = isinstance(dividend, Tensor) and dividend.requires_grad
        return self._follow(call, call.run() if is_varying else self.without_rule(call))

    def _refuse_gates(self, call: Call) -> None:
        if any(map(self.is_gate, call.tensors())):
            self.refuse(call, ", whose input comes from a sigmoid, hard sigmoid or softmax and multiplies nothing")

    def _follow(self, call: Call, result: Any) -> Any:
        """Apply to the companions of pixels what is applied to the pixels before a layer reads them."""
        known = [value for value in call.tensors() if id(value) in self.pixels]
        if not known:
            return result
        is_moved = call.name in RESHAPING or self.applied.first == "z_box"  # scaling leaves presence as it is

        def companion(place: int) -> Any:
            if not is_moved:
                return self.pixels[id(known[0])][1][place]
            return call.replaced(
                lambda value: self.pixels[id(value)][1][place] if id(value) in self.pixels else value
            ).run()

        places = range(len(self.pixels[id(known[0])][1]))
        results, companions = _listed(result), [_listed(companion(place)) for place in places]
        for place, item in enumerate(results):
            self.pixels[id(item)] = (item, [each[place] for each in companions])
        return result


def _listed(result: Any) -> list[Tensor]:
    return list(result) if isinstance(result, list | tuple) else [result]
