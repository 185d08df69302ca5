"""Classifiers whose gradients can be worked out by hand."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from dre.models import Classifier


class Formula(nn.Module):
    """Logits (f(images), 0)."""

    def __init__(self, formula: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.formula = formula

    def forward(self, images: Tensor) -> Tensor:
        value = self.formula(images)
        return torch.stack([value, torch.zeros_like(value)], dim=1)


def formula_classifier(
    formula: Callable[[Tensor], Tensor], size: tuple[int, int] = (4, 6), channels: int = 1
) -> Classifier:
    return Classifier.wrap(Formula(formula), size=size, channels=channels, fold=False)


def linear_classifier(weight: Tensor) -> Classifier:
    """Logit (weight * image).sum() + 1."""
    height, width = weight.shape[-2:]

    def formula(images: Tensor) -> Tensor:
        return (images[..., :height, :width] * weight).flatten(1).sum(1) + 1  # wrapping tries a square

    return formula_classifier(formula, size=(height, width), channels=weight.shape[0])


def random_image(channels: int = 1, height: int = 4, width: int = 6, batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.rand(batch, channels, height, width, dtype=torch.float64, generator=generator)


ZERO = torch.tensor([0, 0])
"""Targets of a batch of two."""
