"""Class activation maps (CAM, Grad-CAM, Grad-CAM++): weighted sums of the channels of the last feature map."""

import torch.nn.functional as F
from torch import Tensor

from dre.explainers.base import Explainer
from dre.images.maps import upsample
from dre.models import Classifier
from dre.models.hooks import in_eval_mode
from dre.models.outputs import BATCH_TOLERANCE
from dre.models.taps import Tap
from dre.types import ScoreName

SMALLEST_DENOMINATOR = 1e-6
"""Smallest denominator of Grad-CAM++'s ratio, as in the widely used implementations."""

HEAD_TOLERANCE = 1e-3
"""Largest difference, relative to the largest logit, between the logits and a linear head on the averaged map; wider in
half precision."""


def feature_map(classifier: Classifier, method: str, layer: str | None = None) -> Tap:
    """Return the feature map that a method reads: at a layer that the user names, or the classifier's last one.

    Args:
        classifier: What is explained.
        method: Name of the method, for messages.
        layer: Such as `layer4.2`.

    Raises:
        ValueError: There is none.
    """
    if layer is not None:
        return classifier.tap(layer)
    if classifier.activation_tap is None:
        raise ValueError(
            f"{method} needs a feature map, and {classifier.name} has none: {classifier.no_activation_tap}"
        )
    return classifier.activation_tap


def pooled_head(classifier: Classifier, layer: str | None = None) -> tuple[Tap, Tensor]:
    """Return the last feature map and the weights [K, C] of the linear head that reads its average.

    Whether the last linear layer is that head is tested on a noise image, not read from names.

    Raises:
        ValueError: The head reads the map in another way, or there is no feature map.
    """
    tap = feature_map(classifier, "CAM", layer)
    weights, biases = classifier.linear_head()
    if weights is not None and weights.shape == (classifier.num_classes, tap.channels):
        activations, logits = classifier.activations(classifier.sample(), tap)
        pooled = tap.read(activations, classifier.preprocessing.size).mean(dim=(2, 3))
        tolerance = BATCH_TOLERANCE.get(logits.dtype, HEAD_TOLERANCE)
        if bool((pooled @ weights.T + biases - logits).abs().max() <= tolerance * logits.abs().max()):
            return tap, weights
    raise ValueError(
        f"CAM needs a linear head on the average of the last feature map, and the head of {classifier.name} reads "
        f"{tap.name!r} ({tap.channels} channels) in another way"
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
        layer: Name of the layer that is read, such as `layer4.2`; by default the last feature map.

    Raises:
        UnsupportedError: The head is not linear on the average of the last feature map.
        ValueError: There is no such layer, or the head does not read its average.

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

    def __init__(self, classifier: Classifier, *, score: ScoreName = "logit", layer: str | None = None) -> None:
        super().__init__(classifier, score=score, layer=layer)
        with in_eval_mode(classifier):
            self.tap, weights = pooled_head(classifier, layer)
        self.register_buffer("head", weights, persistent=False)

    @classmethod
    def require(cls, classifier: Classifier) -> None:
        """Refuse a classifier whose head is not linear on the average of its last feature map."""
        pooled_head(classifier)

    def explain(self, images: Tensor, targets: Tensor) -> Tensor:
        """See `Explainer.forward`."""
        size = (images.shape[-2], images.shape[-1])
        activations = self.tap.read(self.probe(targets).activations(images, self.tap), size)
        weighted = (self.head[targets][:, :, None, None] * activations).sum(1, keepdim=True)
        return upsample(F.relu(weighted), size)


class GradCAM(Explainer):
    """Weight the last feature map's channels by their mean gradient; the positive part.

    The cost is one forward pass and a backward pass through the head alone.

    Args:
        classifier: What is explained; its last feature map is used.
        score: Which output is differentiated.
        layer: Name of the layer that is read, such as `layer4.2`; by default the last feature map.

    Raises:
        UnsupportedError: The classifier has no feature map.
        ValueError: There is no such layer, or it gives no feature map.

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

    def __init__(self, classifier: Classifier, *, score: ScoreName = "logit", layer: str | None = None) -> None:
        super().__init__(classifier, score=score, layer=layer)
        with in_eval_mode(classifier):
            self.tap = feature_map(classifier, type(self).__name__, layer)

    @classmethod
    def require(cls, classifier: Classifier) -> None:
        """Refuse a classifier without a feature map."""
        feature_map(classifier, cls.__name__)

    def explain(self, images: Tensor, targets: Tensor) -> Tensor:
        """See `Explainer.forward`."""
        size = (images.shape[-2], images.shape[-1])
        activations, gradient = self.probe(targets).activation_gradient(images, self.tap)
        activations, gradient = self.tap.read(activations, size), self.tap.read(gradient, size)  # tokens become a grid
        weighted = (self.weights(activations, gradient) * activations).sum(1, keepdim=True)
        return upsample(F.relu(weighted), size)


class GradCAMPlusPlus(GradCAM):
    """Compute Grad-CAM with channel weights that favour places whose gradient matters; the cost is the same.

    Args:
        classifier: What is explained; its last feature map is used.
        score: Which output is differentiated.
        layer: Name of the layer that is read, such as `layer4.2`; by default the last feature map.

    Raises:
        UnsupportedError: The classifier has no feature map.
        ValueError: There is no such layer, or it gives no feature map.

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
