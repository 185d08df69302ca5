"""Gradient explainers: the plain gradient, input x gradient and guided backpropagation."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dre import renamed
from dre.explainers.base import Explainer
from dre.models import Classifier
from dre.types import ScoreName

Reduction = Literal["sum", "abs_sum", "sum_abs", "max_abs", "max"]


def reduce_channels(attribution: Tensor, reduction: Reduction) -> Tensor:
    """Reduce an attribution [B, C, H, W] to one value for each pixel, [B, 1, H, W].

    `sum` keeps signs, `abs_sum` is the magnitude of the sum, `sum_abs` and `max_abs` work on magnitudes, `max` keeps
    the largest signed value.

    Raises:
        ValueError: `reduction` is none of these.
    """
    match reduction:
        case "sum":
            return attribution.sum(1, keepdim=True)
        case "abs_sum":
            return attribution.sum(1, keepdim=True).abs()
        case "sum_abs":
            return attribution.abs().sum(1, keepdim=True)
        case "max_abs":
            return attribution.abs().amax(1, keepdim=True)
        case "max":
            return attribution.amax(1, keepdim=True)
        case _:
            raise ValueError(f"unknown reduction {reduction!r}; choose sum, abs_sum, sum_abs, max_abs or max")


class VanillaGradient(Explainer):
    """Compute the magnitude of the gradient of the score at each pixel; one forward and one backward pass.

    Args:
        classifier: What is explained.
        score: Which output is differentiated; a saturated probability has almost no gradient, `log_probability` has.
        reduce: How the channels become one value.

    Raises:
        UnsupportedError: The classifier is a TorchScript module, of which no gradient can be read.

    Source: Simonyan et al. 2014.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from dre.models import Classifier
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
        >>> classifier = Classifier.wrap(network, size=(8, 8))
        >>> images, targets = torch.rand(1, 3, 8, 8), torch.tensor([1])
        >>> VanillaGradient(classifier)(images, targets).shape
        torch.Size([1, 1, 8, 8])
    """

    def __init__(
        self, classifier: Classifier, *, score: ScoreName = "probability", reduce: Reduction = "max_abs"
    ) -> None:
        super().__init__(classifier, score=score)
        self.reduce: Reduction = reduce

    def explain(self, images: Tensor, targets: Tensor) -> Tensor:
        """See `Explainer.forward`."""
        _, gradient = self.probe(targets).gradient(images)
        return reduce_channels(gradient, self.reduce)


class InputXGradient(Explainer):
    """Multiply the gradient of the score by the pixel, signed; one forward and one backward pass.

    Pixels are those of [0, 1]: black explains nothing. For the logit of a network that is piecewise linear and has no
    biases in these units, the map sums to the logit.

    Args:
        classifier: What is explained.
        score: Which output is differentiated.
        reduce: How the channels become one value.

    Raises:
        UnsupportedError: The classifier is a TorchScript module, of which no gradient can be read.

    Source: Shrikumar et al. 2016.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from dre.models import Classifier
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
        >>> classifier = Classifier.wrap(network, size=(8, 8))
        >>> images, targets = torch.rand(1, 3, 8, 8), torch.tensor([1])
        >>> InputXGradient(classifier)(images, targets).shape
        torch.Size([1, 1, 8, 8])
    """

    def __init__(self, classifier: Classifier, *, score: ScoreName = "probability", reduce: Reduction = "sum") -> None:
        super().__init__(classifier, score=score)
        self.reduce: Reduction = reduce

    def explain(self, images: Tensor, targets: Tensor) -> Tensor:
        """See `Explainer.forward`."""
        _, gradient = self.probe(targets).gradient(images)
        return reduce_channels(images * gradient, self.reduce)


class GuidedBackprop(VanillaGradient):
    """Compute the gradient with each ReLU passing it back only where its input and the gradient are positive.

    The map resembles the edges of the image more than what the classifier uses (Adebayo et al. 2018). One forward and
    one backward pass. Rectifiers are recognised when they run, so that functional, in-place and reused ones count as
    well as modules; other activations, such as SiLU or GELU, keep their gradient.

    Args:
        classifier: What is explained; refused when it has no rectifier at all.
        score: Which output is differentiated.
        reduce: How the channels become one value.

    Raises:
        UnsupportedError: The classifier runs no ReLU or ReLU6.

    Source: Springenberg et al. 2015.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from dre.models import Classifier
        >>> layers = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)]
        >>> classifier = Classifier.wrap(nn.Sequential(*layers), size=(16, 16))
        >>> images, targets = torch.rand(1, 3, 16, 16), torch.tensor([1])
        >>> GuidedBackprop(classifier)(images, targets).shape
        torch.Size([1, 1, 16, 16])
    """

    def __init__(self, classifier: Classifier, *, score: ScoreName = "logit", reduce: Reduction = "max_abs") -> None:
        super().__init__(classifier, score=score, reduce=reduce)

    @classmethod
    def require(cls, classifier: Classifier) -> None:
        """Refuse a classifier that runs no rectifier.

        Raises:
            ValueError: It runs no ReLU or ReLU6.
        """
        with GuidedRectifiers() as guided, torch.no_grad():
            classifier(classifier.sample())
        if not guided.count:
            raise ValueError(
                f"GuidedBackprop needs a ReLU or ReLU6, and {classifier.name} has none"
                f" ({activation_modules(classifier.network)})"
            )

    def explain(self, images: Tensor, targets: Tensor) -> Tensor:
        """See `Explainer.forward`."""
        with GuidedRectifiers():
            return super().explain(images, targets)


UNBOUNDED = {F.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_}
BOUNDED = {F.hardtanh, F.hardtanh_, F.relu6}
IN_PLACE = {torch.relu_, Tensor.relu_, F.hardtanh_}
GATES = (nn.MultiheadAttention, nn.Softmax, nn.Softmax2d, nn.LogSoftmax)
"""Modules that PyTorch files under activations, but that come after scores rather than after features."""


class _GuidedRectifier(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, ceiling: float) -> Tensor:
        ctx.save_for_backward((features > 0) & (features < ceiling))
        return features.clamp(0, ceiling)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (is_open,) = ctx.saved_tensors
        return gradients[0].clamp_min(0) * is_open, None


class GuidedRectifiers(TorchFunctionMode):
    """Let ReLU and ReLU6, however they are called, pass back positive gradients alone while the mode is on.

    The forward values do not change; `count` says how many rectifiers ran. Recognised are relu, relu6 and a hardtanh
    that starts at 0, as functions, methods and modules, in place or not; a clamp to zero is not.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Replace rectifiers and run every other function as it is."""
        kwargs = kwargs or {}
        top = ceiling(func, args, kwargs)
        if top is None:
            return func(*args, **kwargs)
        self.count += 1
        features = cast(Tensor, args[0] if args else kwargs["input"])
        rectified = cast(Tensor, _GuidedRectifier.apply(features, top))
        is_in_place = func in IN_PLACE or kwargs.get("inplace", False)
        return features.copy_(rectified) if is_in_place else rectified


def ceiling(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> float | None:
    """Return the value at which a rectifier stops growing; None when this call is no rectifier."""
    if func in UNBOUNDED:
        return float("inf")
    if func is F.relu6:
        return 6.0
    if func in BOUNDED:
        low = args[1] if len(args) > 1 else kwargs.get("min_val", -1.0)
        high = args[2] if len(args) > 2 else kwargs.get("max_val", 1.0)
        return float(high) if low == 0 else None
    return None


def activation_modules(network: nn.Module) -> str:
    """List the activations that a network has as modules, and where the first of each kind is."""
    first: dict[str, str] = {}
    for name, module in network.named_modules():
        home = type(module).__module__
        is_activation = home.endswith(".activation") or home.startswith("timm.layers.activations")
        if is_activation and not isinstance(module, GATES):
            first.setdefault(type(module).__name__, name)
    if not first:
        return "it has no activation module"
    return "its activations: " + ", ".join(f"{kind}, first in {name!r}" for kind, name in first.items())


__getattr__ = renamed.getter(__name__)
