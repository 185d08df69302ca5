"""Explainers of one's own: a function of a model, images and targets, run with gradients and counted as any other."""

import inspect
from abc import abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from torch import Tensor, nn

from dre.engine.cost import counted
from dre.explainers.base import Explainer
from dre.images.maps import upsample
from dre.images.randomness import global_draws
from dre.models import Classifier
from dre.models.hooks import left_as_found

Maps: TypeAlias = Tensor | np.ndarray[Any, Any]
"""Maps [B, 1, H, W] or [B, H, W], or those of a smaller grid."""

Attribution: TypeAlias = Callable[..., Any]
"""From a model, images [B, C, H, W] and targets [B] to `Maps`; what it returns is checked when it has run."""

Builder: TypeAlias = Callable[[Classifier], Explainer]
"""Builds an explainer from a classifier."""

ARGUMENTS = ("model", "images", "targets")
"""Parameters by which a function is an explainer."""

REGISTERED = "__dre_explainer__"
"""Attribute of a function that was registered as an explainer."""


class ExplainedModel(nn.Module):
    """Give a classifier as a plain module that maps images in [0, 1] to logits [B, K].

    Layers, weights and other attributes are those of the network, by their own names, so that `model.layer4` is a layer
    and a layer that is replaced is replaced in the network. Where gradients are on and neither the images nor the
    weights ask for them, it records them all the same: what is hooked can be differentiated.

    Args:
        classifier: Frozen.
    """

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        network = classifier.network
        for held in ("_modules", "_parameters", "_buffers"):
            object.__setattr__(self, held, getattr(network, held))
        object.__setattr__(self, "training", network.training)
        object.__setattr__(self, "explained", (classifier,))  # in a tuple: it is no part of this module

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits [B, K] of images [B, C, H, W] in [0, 1]."""
        if torch.is_grad_enabled() and not images.requires_grad:
            images = images.detach().requires_grad_()
        logits: Tensor = self.explained[0](images)
        return logits

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the network, or of the classifier around it."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            explained = self.__dict__.get("explained")
            if explained is None or name.startswith("__"):
                raise
        network = explained[0].network
        return getattr(network, name) if hasattr(network, name) else getattr(explained[0], name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute, of the network where it has it."""
        explained = self.__dict__.get("explained")
        if explained is not None and name in vars(explained[0].network):
            setattr(explained[0].network, name, value)
        super().__setattr__(name, value)

    def __getitem__(self, place: Any) -> Any:
        """Return a layer of a network that numbers its layers."""
        return self.explained[0].network[place]

    def __len__(self) -> int:
        """Return how many layers such a network has."""
        return len(self.explained[0].network)

    def __bool__(self) -> bool:
        """Return True: a model is there, whatever its number of layers."""
        return True


class OutsideExplainer(Explainer):
    """Run code from outside: a subclass gives maps by `attribute`, with gradients on, whatever mode its caller is in.

    Weights, modes, hooks and layers of the classifier are afterwards as they were, also after an exception. Passes
    through the network are counted by hooks. Draws from the global generators of Python, NumPy and PyTorch are seeded
    by the key of the image: the first image of a batch goes alone, and where it draws, so do the others.

    Args:
        classifier: What is explained.
        chunk: Most images in one call.
        seed: Of draws from global generators.
        layer: Name of the layer that is read.
    """

    puts_weights_back = False
    """Whether the code from outside writes to weights and puts them back itself."""

    alone = False
    """Whether it is called for one image at a time even where it draws nothing."""

    def __init__(
        self, classifier: Classifier, *, chunk: int | None = None, seed: int = 0, layer: str | None = None
    ) -> None:
        super().__init__(classifier, score="logit", chunk=chunk, layer=layer)
        self.seed = seed

    @abstractmethod
    def attribute(self, model: ExplainedModel, images: Tensor, targets: Tensor) -> Maps:
        """Return maps [B, 1, H, W] or [B, H, W], or those of a smaller grid."""

    def explain(self, images: Tensor, targets: Tensor) -> Tensor:
        """See `Explainer.forward`."""
        with counted(self.classifier.network) as passes:
            try:
                maps = self._first_alone(images, targets)
            finally:
                self.cost.forwards += passes.forwards
                self.cost.backwards += passes.backwards
        return maps

    def _first_alone(self, images: Tensor, targets: Tensor) -> Tensor:
        generators = self.generators(images, self.seed)
        rows = torch.arange(len(images), device=images.device)

        def run(images: Tensor, targets: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
            seeded = global_draws(generators[int(rows[0])], images.device)
            with left_as_found(self.classifier, self.puts_weights_back), seeded as were_drawn, torch.enable_grad():
                model = ExplainedModel(self.classifier)
                found = self.attribute(model, images.detach().clone(), targets.clone())
                draws = torch.full((len(images),), were_drawn(), device=images.device)
            maps = checked_maps(found, images, self.called)
            if len(images) > 1 and bool(draws[0]):
                return alone(images, targets, rows)
            return maps, draws

        def alone(*whole: Tensor) -> tuple[Tensor, Tensor]:
            singles = zip(*(torch.split(one, 1) for one in whole), strict=True)
            maps, draws = zip(*(run(*single) for single in singles), strict=True)
            return torch.cat(maps), torch.cat(draws)

        maps, draws = run(images[:1], targets[:1], rows[:1])
        if len(images) == 1:
            return maps
        rest = (images[1:], targets[1:], rows[1:])
        others, _ = alone(*rest) if self.alone or bool(draws[0]) else self.chunk.map(run, *rest)
        return torch.cat([maps, others])

    @property
    def called(self) -> str:
        """Return what messages call the code from outside."""
        return type(self).__name__


def checked_maps(found: object, images: Tensor, name: str) -> Tensor:
    """Return what a function gave as maps [B, 1, H, W] of the images' size; smaller grids are enlarged bilinearly.

    Args:
        found: [B, 1, h, w] or [B, h, w], of PyTorch or NumPy.
        images: [B, C, H, W].
        name: Of the function, for messages.

    Raises:
        TypeError: It is no array.
        ValueError: It has another shape.
    """
    if not isinstance(found, Tensor | np.ndarray):
        raise TypeError(f"{name} must return a tensor or an array of maps [B, 1, H, W], got {type(found).__name__}")
    maps = found if isinstance(found, Tensor) else torch.from_numpy(np.ascontiguousarray(found))  # of any strides
    maps = maps.detach().to(images.device)
    if maps.is_complex():
        raise TypeError(f"{name} must return real numbers, got {maps.dtype}")
    maps, shape = maps.to(torch.promote_types(maps.dtype, torch.float32)), list(maps.shape)
    wanted = f"[{len(images)}, 1, {images.shape[2]}, {images.shape[3]}]"
    if maps.ndim == 4 and maps.shape[1] != 1:
        raise ValueError(
            f"{name} must return one value for each pixel, {wanted}, got {shape}; reduce the channels, as by "
            "maps.sum(1) or maps.abs().amax(1)"
        )
    maps = maps[:, None] if maps.ndim == 3 else maps
    if maps.ndim != 4 or len(maps) != len(images) or not maps.numel():
        raise ValueError(f"{name} must return a map for each image, {wanted} or smaller, got {shape}")
    if maps.shape[2] > images.shape[2] or maps.shape[3] > images.shape[3]:
        raise ValueError(f"{name} must return maps no larger than the images, {wanted}, got {shape}; resize them")
    return upsample(maps, (images.shape[2], images.shape[3]))


class FunctionExplainer(OutsideExplainer):
    """Explain by a function of one's own, `function(model, images, targets)`, which returns maps.

    `model` is a plain module from images in [0, 1] to logits [B, K], which the function may call, hook and take layers
    of, `model.layer4`; gradients are on, also under `no_grad` and in inference mode. Maps are [B, 1, H, W] or
    [B, H, W], a smaller grid is enlarged bilinearly, and NumPy's arrays will do. See `OutsideExplainer` for what is
    counted and put back. The function must treat the images of a batch apart.

    Args:
        classifier: What is explained.
        function: The function, or another callable.
        options: Further arguments of the function, by name.
        chunk: Most images in one call.
        seed: Of draws from the global generators of Python, NumPy and PyTorch, with the key of the image.

    Raises:
        TypeError: `function` is a class, or cannot be called.

    Source: our choice.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from dre.models import Classifier
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
        >>> classifier = Classifier.wrap(network, size=(8, 8))
        >>> images, targets = torch.rand(1, 3, 8, 8), torch.tensor([1])
        >>> def gradient(model, images, targets):
        ...     images.requires_grad_()
        ...     model(images)[torch.arange(len(images)), targets].sum().backward()
        ...     return images.grad.abs().amax(1)
        >>> FunctionExplainer(classifier, gradient)(images, targets).shape
        torch.Size([1, 1, 8, 8])
    """

    asks_outputs_alone = True

    def __init__(
        self,
        classifier: Classifier,
        function: Attribution,
        *,
        options: Mapping[str, Any] | None = None,
        chunk: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(classifier, chunk=chunk, seed=seed)
        if not callable(function) or isinstance(function, type):
            raise TypeError(f"`function` must be a function of a model, images and targets, got {function!r}")
        self.function = function
        self.options = dict(options or {})

    def attribute(self, model: ExplainedModel, images: Tensor, targets: Tensor) -> Maps:
        """See `OutsideExplainer`."""
        found: Maps = self.function(model, images, targets, **self.options)
        return found

    @property
    def called(self) -> str:
        """Return the name of the function."""
        return str(getattr(self.function, "__name__", type(self.function).__name__))


def is_attribution(value: object) -> bool:
    """Return whether a function is an explainer itself: registered, or by its parameters model, images and targets.

    Example:
        >>> is_attribution(lambda model, images, targets: images.mean(1)), is_attribution(FunctionExplainer)
        (True, False)
    """
    if not (inspect.isfunction(value) or inspect.ismethod(value)):
        return False
    return getattr(value, REGISTERED, False) is True or set(ARGUMENTS) <= inspect.signature(value).parameters.keys()


def builder_of(value: Builder | Attribution) -> Builder:
    """Return what builds an explainer: the value itself, or a `FunctionExplainer` of a function that explains."""
    return (
        partial(FunctionExplainer, function=cast(Attribution, value)) if is_attribution(value) else cast(Builder, value)
    )
