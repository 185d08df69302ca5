"""Class activation maps: weight the channels of the last feature map by what the score asks of them."""

import torch.nn.functional as F
from torch import Tensor

from dre.explainers.base import Explainer
from dre.imaging import upsample
from dre.models import Classifier
from dre.scoring import ScoreName

SMALLEST_DENOMINATOR = 1e-6
"""Of Grad-CAM++'s ratio, as in the widely used implementations."""


def grad_cam_weights(activations: Tensor, gradient: Tensor) -> Tensor:
    """Channel weights [B, C, 1, 1]: the mean gradient (Selvaraju et al. 2017, Eq. 1)."""
    return gradient.mean(dim=(2, 3), keepdim=True)


def grad_cam_plus_plus_weights(activations: Tensor, gradient: Tensor) -> Tensor:
    """Channel weights [B, C, 1, 1]: positive gradients, weighted by place (Chattopadhay et al. 2018, Eq. 19).

    The gradient of the logit stands for that of its exponential; their common factor cancels.
    """
    squared = gradient.square()
    total = activations.sum(dim=(2, 3), keepdim=True)
    ratio = squared / (2 * squared + total * squared * gradient + SMALLEST_DENOMINATOR)
    return (ratio.where(gradient != 0, 0.0) * F.relu(gradient)).sum(dim=(2, 3), keepdim=True)


class GradCAM(Explainer):
    """Positive part of the last feature map's channels, weighted by their mean gradient; one pass and one on the head.

    Args:
        classifier: What is explained; its last feature map is used.
        score: Which output is differentiated.

    Source: Selvaraju et al. 2017.
    """

    weights = staticmethod(grad_cam_weights)

    def __init__(self, classifier: Classifier, *, score: ScoreName = "logit") -> None:
        super().__init__(classifier, score=score)

    def explain(self, images: Tensor, targets: Tensor) -> Tensor:
        """See `Explainer.forward`."""
        activations, gradient = self.probe(targets).activation_gradient(images)
        weighted = (self.weights(activations, gradient) * activations).sum(1, keepdim=True)
        return upsample(F.relu(weighted), (images.shape[-2], images.shape[-1]))


class GradCAMPlusPlus(GradCAM):
    """Grad-CAM whose channel weights count places by how much their gradient matters; same cost.

    Args:
        classifier: What is explained; its last feature map is used.
        score: Which output is differentiated.

    Source: Chattopadhay et al. 2018.
    """

    weights = staticmethod(grad_cam_plus_plus_weights)
