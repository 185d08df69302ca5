"""The one place that runs forward and backward passes of the classifier for explainers, and counts them."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from dre.models import Classifier
from dre.scoring import ScoreName, score


@dataclass(slots=True)
class Cost:
    """Passes of single images: what an explanation really costs, independent of the machine."""

    forwards: int = 0
    backwards: int = 0
    head_backwards: int = 0


@dataclass(slots=True)
class Probe:
    """Ask the classifier for the scores of a batch's targets and their gradients.

    Args:
        classifier: Frozen.
        targets: [B].
        score: What is differentiated.
        cost: Counter that the passes are added to.
    """

    classifier: Classifier
    targets: Tensor
    score: ScoreName
    cost: Cost = field(default_factory=Cost)

    def gradient(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Scores [B] and their gradient with respect to the pixels, [B, C, H, W]."""
        with torch.enable_grad():
            pixels = images.detach().requires_grad_()
            scores = score(self.classifier(pixels), self.targets, self.score)
            (gradient,) = torch.autograd.grad(scores.sum(), pixels)
        self.cost.forwards += len(images)
        self.cost.backwards += len(images)
        return scores.detach(), gradient

    def activation_gradient(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Last feature map [B, C, h, w] and the gradient of the scores with respect to it."""
        activations, logits = self.classifier.activations(images)
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(score(logits, self.targets, self.score).sum(), activations)
        self.cost.forwards += len(images)
        self.cost.head_backwards += len(images)
        return activations.detach(), gradient
