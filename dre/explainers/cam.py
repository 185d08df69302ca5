"""Class activation maps (CAM, Grad-CAM, Grad-CAM++): weighted sums of the channels of the last feature map."""

import torch.nn.functional as F
from torch import Tensor, nn

from dre.explainers.base import Explainer
from dre.images.maps import upsample
from dre.models import Classifier
from dre.models.hooks import in_eval_mode
from dre.models.taps import Tap
from dre.types import ScoreName

SMALLEST_DENOMINATOR = 1e-6
"""Smallest denominator of Grad-CAM++'s ratio, as in the widely used implementations."""

HEAD_TOLERANCE = 1e-3
"""Largest difference, relative to the largest logit, between the logits and a linear head on the averaged map."""


def feature_map(classifier: Classifier, method: str) -> Tap:
    """Return the feature map that class activation methods read; raise ValueError for a classifier without one."""
    if classifier.activation_tap is None:
        raise ValueError(f"{method} needs a feature map, and {classifier.name} has none that could be found")
    return classifier.activation_tap


def pooled_head(classifier: Classifier) -> tuple[Tap, Tensor]:
    """Return the last feature map and the weights [K, C] of the linear head that reads its average.

    Whether the last linear layer is that head is tested on two noise images, not read from names.

    Raises:
        ValueError: The head reads the map in another way, or there is no feature map.
    """
    tap = feature_map(classifier, "CAM")
    linear = [module for module in classifier.network.modules() if isinstance(module, nn.Linear)]
    head = linear[-1] if linear else None
    if head is not None and head.weight.shape == (classifier.num_classes, tap.channels):
        activations, logits = classifier.activations(classifier.sample(2))
        pooled = tap.read(activations, classifier.preprocessing.size).mean(dim=(2, 3))
        if bool((head(pooled) - logits).abs().max() <= HEAD_TOLERANCE * logits.abs().max()):
            return tap, head.weight.detach()
    raise ValueError(
        f"CAM needs a linear head on the average of the last feature map, and the head of {classifier.name} reads "
        f"{tap.module!r} ({tap.channels} channels) in another way"
    )


def grad_cam_weights(activations: Tensor, gradient: Tensor) -> Tensor:
    """Return the channel weights [B, C, 1, 1]: the mean gradient (Selvaraju et al. 2017, Eq. 1)."""
    return gradient.mean(dim=(2, 3), keepdim=True)


def grad_cam_plus_plus_weights(activations: Tensor, gradient: Tensor) -> Tensor:
    """Return the channel weights [B, C, 1, 1]: weighted positive gradients (Chattopadhay et al. 2018, Eq. 19).

    The gradient of the logit stands for that of its exponential; their common factor cancels.
    """
    squared = gradient.square()
    total = activations.sum(dim=(2, 3), keepdim=True)
    ratio = squared / (2 * squared + total * squared * gradient + SMALLEST_DENOMINATOR)
    return (ratio.where(gradient != 0, 0.0) * F.relu(gradient)).sum(dim=(2, 3), keepdim=True)


class CAM(Explainer):
    """Weight the last feature map's channels by the target's row of a linear head; the positive part, one forward pass.

    The bias is left out. The map is that of Grad-CAM times the number of cells of the feature map.

    Args:
        classifier: What is explained; its head must be linear on the average of its last feature map.
        score: Not used: the weights are those of the logit.

    Source: Zhou et al. 2016.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from dre.models import Classifier
        >>> layers = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)]
        >>> classifier = Classifier.wrap(nn.Sequential(*layers), size=(16, 16))
        >>> images, targets = torch.rand(1, 3, 16, 16), torch.tensor([1])
        >>> CAM(classifier)(images, targets).shape
        torch.Size([1, 1, 16, 16])
    """

    head: Tensor

    def __init__(self, classifier: Classifier, *, score: ScoreName = "logit") -> None:
        super().__init__(classifier, score=score)
        with in_eval_mode(classifier):
            self.tap, weights = pooled_head(classifier)
        self.register_buffer("head", weights, persistent=False)

    @classmethod
    def require(cls, classifier: Classifier) -> None:
        """Refuse a classifier whose head is not linear on the average of its last feature map."""
        pooled_head(classifier)

    def explain(self, images: Tensor, targets: Tensor) -> Tensor:
        """See `Explainer.forward`."""
        size = (images.shape[-2], images.shape[-1])
        activations = self.tap.read(self.probe(targets).activations(images), size)
        weighted = (self.head[targets][:, :, None, None] * activations).sum(1, keepdim=True)
        return upsample(F.relu(weighted), size)


class GradCAM(Explainer):
    """Weight the last feature map's channels by their mean gradient; the positive part.

    The cost is one forward pass and a backward pass through the head alone.

    Args:
        classifier: What is explained; its last feature map is used.
        score: Which output is differentiated.

    Source: Selvaraju et al. 2017.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from dre.models import Classifier
        >>> layers = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)]
        >>> classifier = Classifier.wrap(nn.Sequential(*layers), size=(16, 16))
        >>> images, targets = torch.rand(1, 3, 16, 16), torch.tensor([1])
        >>> GradCAM(classifier)(images, targets).shape
        torch.Size([1, 1, 16, 16])
    """

    weights = staticmethod(grad_cam_weights)

    def __init__(self, classifier: Classifier, *, score: ScoreName = "logit") -> None:
        super().__init__(classifier, score=score)

    @classmethod
    def require(cls, classifier: Classifier) -> None:
        """Refuse a classifier without a feature map."""
        feature_map(classifier, cls.__name__)

    def explain(self, images: Tensor, targets: Tensor) -> Tensor:
        """See `Explainer.forward`."""
        size = (images.shape[-2], images.shape[-1])
        activations, gradient = self.probe(targets).activation_gradient(images)
        tap = feature_map(self.classifier, type(self).__name__)
        activations, gradient = tap.read(activations, size), tap.read(gradient, size)  # tokens become a grid
        weighted = (self.weights(activations, gradient) * activations).sum(1, keepdim=True)
        return upsample(F.relu(weighted), size)


class GradCAMPlusPlus(GradCAM):
    """Compute Grad-CAM with channel weights that favour places whose gradient matters; the cost is the same.

    Args:
        classifier: What is explained; its last feature map is used.
        score: Which output is differentiated.

    Source: Chattopadhay et al. 2018.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from dre.models import Classifier
        >>> layers = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)]
        >>> classifier = Classifier.wrap(nn.Sequential(*layers), size=(16, 16))
        >>> images, targets = torch.rand(1, 3, 16, 16), torch.tensor([1])
        >>> GradCAMPlusPlus(classifier)(images, targets).shape
        torch.Size([1, 1, 16, 16])
    """

    weights = staticmethod(grad_cam_plus_plus_weights)
