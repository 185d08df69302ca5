"""Explainer base class: from images and targets to saliency maps, with arguments and result checked once."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from dre import renamed
from dre.checks import (
    NonFiniteSaliencyError,
    check_constructor,
    check_images,
    check_saliency,
    check_targets,
    class_indices,
)
from dre.engine.chunks import Chunk
from dre.engine.convergence import Convergence
from dre.engine.gradients import Cost, Probe, Vanished, image_generators
from dre.models import Classifier
from dre.models.copies import BlackBox
from dre.models.hooks import in_eval_mode, outside_inference_mode, without_inference
from dre.types import ScoreName


class UnsupportedError(ValueError):
    """Say that a method does not work for a network.

    Args:
        reason: A sentence that names the method and what the network lacks.
        classifier: The network.
    """

    def __init__(self, reason: str, classifier: Classifier) -> None:
        super().__init__(reason)
        self.classifier = classifier


class Explainer(nn.Module, ABC):
    """Explain the scores of a frozen classifier: the base class of all explainers.

    A subclass implements `explain`, and `require` where it does not work for every classifier.

    Args:
        classifier: What is explained; never changed.
        score: Which output of the target class is explained.
        chunk: Most images in one pass; by default planned from the free memory and halved when that runs out.
        layer: Of methods that read a feature map: its name, in place of the map that `require` looks for.

    Raises:
        UnsupportedError: The method does not work for the classifier; a ValueError.
        ValueError: An option that is a number is NaN, infinite, enormous or out of its range.
        TypeError: An option that is a number is given as something else.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from dre.models import Classifier
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
        >>> classifier = Classifier.wrap(network, size=(8, 8))
        >>> images, targets = torch.rand(1, 3, 8, 8), torch.tensor([1])
        >>> class Brightness(Explainer):
        ...     def explain(self, images, targets):
        ...         return images.mean(dim=1, keepdim=True)
        >>> Brightness(classifier)(images, targets).shape
        torch.Size([1, 1, 8, 8])
    """

    asks_outputs_alone: ClassVar[bool] = False
    """Whether it reads nothing of the network but its outputs, so that a TorchScript module can be explained."""

    def __new__(cls, *arguments: object, **options: object) -> Self:
        """Check the numbers among the options before the constructor sees them."""
        check_constructor(cls, arguments, options)
        return super().__new__(cls)

    def __init__(
        self,
        classifier: Classifier,
        *,
        score: ScoreName = "probability",
        chunk: int | None = None,
        layer: str | None = None,
    ) -> None:
        super().__init__()
        self.classifier = classifier
        self.score: ScoreName = score
        self.cost = Cost()
        self.chunk = Chunk(chunk)
        self.vanished, self.convergence = Vanished(), Convergence()
        self.keys: list[str] | None = None
        self.layer = layer
        if layer is None and (reason := self.unsupported(classifier)):
            raise UnsupportedError(reason, classifier)

    @classmethod
    def require(cls, classifier: Classifier) -> None:
        """Raise a ValueError that names the method and what it needs, where a classifier lacks it."""

    @classmethod
    def unsupported(cls, classifier: Classifier) -> str:
        """Return the reason why the method does not work for a classifier, in a sentence; empty where it does."""
        if isinstance(classifier.network, BlackBox) and not cls.asks_outputs_alone:
            return (
                f"{cls.__name__} reads gradients or feature maps, and {classifier.name} is a TorchScript module, of "
                "which only the outputs can be read; explain the module that it was made from"
            )
        try:
            with outside_inference_mode(classifier), in_eval_mode(classifier):
                cls.require(classifier)
        except ValueError as error:
            return str(error)
        return ""

    def forward(self, images: Tensor, targets: Tensor, keys: Sequence[str] | None = None) -> Tensor:
        """Compute saliency maps, float32 [B, 1, H, W]; higher is more relevant.

        Args:
            images: [B, C, H, W] in [0, 1].
            targets: [B], classes to explain.
            keys: Sample names that seed random draws; without them, a hash of the pixels does.

        Raises:
            ValueError: Images or targets of a wrong shape or range.
            NonFiniteSaliencyError: The map has NaN or infinity in it; the error holds the maps.
        """
        with outside_inference_mode(self), in_eval_mode(self.classifier):
            images, targets = self.checked(images, targets)
            self.keys = list(keys) if keys is not None else None
            version = images._version
            saliency = self.explain(images, targets).detach().float()
        if images._version != version:
            raise ValueError(
                f"{type(self).__name__} wrote to the images that it explains, which others read after it; let "
                "`explain` work on a copy, images.clone()"
            )
        self.vanished.report(self.score)
        self.convergence.report()
        check_saliency(saliency, images)
        return saliency

    def checked(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Check images [B, C, H, W] and targets, plan the chunk, and return both, the targets as int64 [B].

        Images come back in float32, or float64 for such a network. What a half-precision network is given is rounded
        where it enters the network, and nowhere else.

        Raises:
            ValueError: Images or targets of a wrong shape or range.
            TypeError: The images are not floating point.
        """
        check_images(images, self.classifier.preprocessing.channels)
        targets = class_indices(targets, len(images), images.device)
        check_targets(targets, len(images), self.classifier.num_classes)
        own = next(self.classifier.network.parameters(), images).dtype
        images = without_inference(images.to(torch.float64 if own == images.dtype == torch.float64 else torch.float32))
        self.chunk.plan(images, self.classifier.memory_estimate)
        if self.classifier.one_by_one:
            self.chunk.size = 1
        return images, targets

    @abstractmethod
    def explain(self, images: Tensor, targets: Tensor) -> Tensor:
        """Compute the saliency [B, 1, H, W] of checked images; what a new explainer implements."""

    def probe(self, targets: Tensor) -> Probe:
        """Return the probe through which passes for a batch with these targets, [B], are run and counted."""
        counters = self.vanished, self.convergence
        return Probe(self.classifier, targets, self.score, self.cost, self.chunk, self.keys, *counters)

    def generators(self, images: Tensor, seed: int) -> list[torch.Generator]:
        """Return a CPU generator for each of B images, seeded by its key: draws depend on neither batch nor rank."""
        return image_generators(images, self.keys, seed)


def maps_below(explainer: Explainer, images: Tensor, targets: Tensor, keys: Sequence[str] | None) -> Tensor:
    """Return the maps [B, 1, H, W] of an explainer that another one builds on, also where they are not finite."""
    try:
        saliency: Tensor = explainer(images, targets, keys)
    except NonFiniteSaliencyError as failure:
        return failure.saliency
    return saliency


__getattr__ = renamed.getter(__name__)
