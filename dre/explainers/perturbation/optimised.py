"""Base class of explainers that find a mask for each image by gradient descent, and the loop that they share."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from dre.checks import check_count
from dre.engine.chunks import chunk_slices
from dre.explainers.base import Explainer
from dre.models import Classifier
from dre.types import ScoreName

Game = Literal["deletion", "preservation"]
"""What a mask looks for: the smallest region whose loss lowers the score, or that is enough to keep it."""

Bounds = tuple[float | None, float | None]
"""Least and greatest value of a parameter."""


class _Attached(torch.autograd.Function):
    """Hold values whose gradient with respect to the images is known already."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, values: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return values.to(torch.promote_types(values.dtype, images.dtype))

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream[0].to(gradient.dtype)[:, None, None, None], None, None


def descend(
    parameters: Tensor,
    optimiser: Optimizer,
    losses: Callable[[int], Tensor],
    iterations: int,
    bounds: Bounds = (0.0, 1.0),
    scheduler: LRScheduler | None = None,
) -> Tensor:
    """Lower `losses` step by step, clip the parameters after each, and return the first and the last losses, [2, N].

    Losses are summed over the rows, and both Adam and SGD work value by value, so a row depends on no other.

    Args:
        parameters: Leaf [N, ...] that the optimiser holds; changed in place.
        optimiser: Of these parameters alone.
        losses: From the number of the step to one loss per row, [N], that depends on that row of the parameters alone.
        iterations: Steps to take.
        bounds: Where the parameters are kept.
        scheduler: Changes the step size after each step.
    """
    ends: list[Tensor] = []
    for step in range(iterations):
        with torch.enable_grad():
            each = losses(step)
            total = each.sum()
        ends[1:] = [each.detach()]
        with torch.autocast(parameters.device.type, enabled=False):
            (parameters.grad,) = torch.autograd.grad(total, parameters)
        optimiser.step()
        with torch.no_grad():
            parameters.clamp_(*bounds)
        if scheduler is not None:
            scheduler.step()
    return torch.stack([ends[0], ends[-1]])


class OptimisedExplainer(Explainer):
    """Search a mask for each image by gradient descent; the base class of these explainers.

    Images are processed in groups of at most a chunk; within a group they share passes and nothing else. After each
    call `objective` [2, B] holds what was minimised, before the first step and before the last (lower is better).

    Args:
        classifier: What is explained; never changed.
        iterations: Steps of the descent.
        lr: Step size of the optimiser.
        score: Which output is explained.
        seed: Of all random draws, which depend on it and on the image's key alone.
        chunk: Most images in one pass, and most masks that are optimised at once.

    Raises:
        ValueError: `iterations` is below 1, or `lr` is not positive.
    """

    objective: Tensor

    def __init__(
        self,
        classifier: Classifier,
        *,
        iterations: int,
        lr: float,
        score: ScoreName,
        seed: int = 0,
        chunk: int | None = None,
        layer: str | None = None,
    ) -> None:
        super().__init__(classifier, score=score, chunk=chunk, layer=layer)
        check_count("iterations", iterations)
        if lr <= 0:
            raise ValueError(f"`lr` must be positive, got {lr}: the mask would stay where it starts")
        self.iterations, self.lr, self.seed = iterations, lr, seed
        self.masks_each = 1

    def explain(self, images: Tensor, targets: Tensor) -> Tensor:
        """See `Explainer.forward`."""
        images = images.detach()
        total = torch.zeros_like(images[:, :1])
        self.objective = torch.zeros(2, len(images), dtype=images.dtype, device=images.device)
        generators = self.generators(images, self.seed)
        for rows, columns in chunk_slices(len(images), self.masks_each, self.chunk, images.device):
            masks, objective = self.search(images[rows], targets[rows], columns, generators[rows])
            total[rows] += masks.to(total.dtype)
            self.objective[:, rows] += objective.to(total.dtype)
        return total

    @abstractmethod
    def search(
        self, images: Tensor, targets: Tensor, columns: slice, generators: Sequence[torch.Generator]
    ) -> tuple[Tensor, Tensor]:
        """Search some of the masks of some images.

        Args:
            images: [N, C, H, W].
            targets: [N].
            columns: Which of the masks of each image.
            generators: One for each image.

        Returns:
            The sum of these masks of each image, [N, 1, H, W], and of their objectives before and after, [2, N].
        """

    @staticmethod
    def attach(shown: Tensor, values: Tensor, gradient: Tensor) -> Tensor:
        """Return `values` with the gradient that a probe found, so that it reaches what the images were made from.

        Args:
            shown: [N, C, H, W], with the graph that leads to them.
            values: One for each image.
            gradient: Of each value with respect to its image.
        """
        attached: Tensor = _Attached.apply(shown, values, gradient)
        return attached
