"""SmoothGrad: the mean gradient of noisy copies of the image."""

from typing import Literal, get_args

import torch
from torch import Tensor

from dre.checks import check_choice, check_count
from dre.engine.chunks import chunk_slices
from dre.explainers.base import Explainer
from dre.explainers.gradient import Reduction, reduce_channels
from dre.models import Classifier
from dre.types import ScoreName

SmoothKind = Literal["signed", "magnitude", "squared"]


class SmoothGrad(Explainer):
    """Average the gradient over noisy copies of the image; `samples` forward and backward passes.

    Args:
        classifier: What is explained.
        score: Which output is differentiated.
        reduce: How the channels of the mean become one value.
        kind: What is averaged: the `signed` gradient, its `magnitude`, or its square (`squared`, SmoothGrad-Squared).
        samples: Noisy copies of each image.
        noise: Standard deviation of the noise as a share of the image's own range, max - min; copies are not clipped.
        seed: Of the noise, which depends on it, on the key of the image and on the kind of device alone.
        antithetic: Add each draw of the noise once and subtract it once, which needs an even number of samples. The
            mean is the same, and linear parts of the gradient's change cancel; published is a draw for each sample.
        chunk: Most noisy copies in one pass; chosen by device when not given.

    Raises:
        ValueError: `samples` is below 1, or odd where draws are antithetic, `noise` negative, or `kind` none of these.

    Source: Smilkov et al. 2017; the number of samples is that of Fu et al. 2021.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from dre.models import Classifier
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
        >>> classifier = Classifier.wrap(network, size=(8, 8))
        >>> images, targets = torch.rand(1, 3, 8, 8), torch.tensor([1])
        >>> SmoothGrad(classifier, samples=4)(images, targets).shape
        torch.Size([1, 1, 8, 8])
    """

    def __init__(
        self,
        classifier: Classifier,
        *,
        score: ScoreName = "probability",
        reduce: Reduction = "max_abs",
        kind: SmoothKind = "magnitude",
        samples: int = 50,
        noise: float = 0.15,
        seed: int = 0,
        antithetic: bool = False,
        chunk: int | None = None,
    ) -> None:
        super().__init__(classifier, score=score, chunk=chunk)
        check_count("samples", samples)
        if antithetic and samples % 2:
            raise ValueError(f"`samples` must be even, as antithetic draws are pairs, got {samples}")
        if noise < 0:
            raise ValueError(f"`noise` must not be negative, got {noise}; 0 gives the gradient itself")
        check_choice("kind", kind, get_args(SmoothKind))
        self.reduce: Reduction = reduce
        self.kind: SmoothKind = kind
        self.samples, self.noise, self.seed, self.antithetic = samples, noise, seed, antithetic

    def explain(self, images: Tensor, targets: Tensor) -> Tensor:
        """See `Explainer.forward`."""
        width = self.noise * (images.amax(dim=(1, 2, 3)) - images.amin(dim=(1, 2, 3)))
        device = images.device  # noise is drawn where the images are, so that a GPU does not wait for the CPU
        seeds = [generator.initial_seed() for generator in self.generators(images, self.seed)]
        generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]
        total = torch.zeros_like(images, dtype=torch.promote_types(images.dtype, torch.float32))
        held: dict[int, Tensor] = {}
        for rows, columns in chunk_slices(len(images), self.samples, self.chunk, device):
            copies = columns.stop - columns.start
            drawn = [
                self._draw(generators[row], row, copy, images[row], held)
                for row in range(rows.start, rows.stop)
                for copy in range(columns.start, columns.stop)
            ]
            noise = torch.stack(drawn).to(images) * width[rows].repeat_interleave(copies)[:, None, None, None]
            noisy = images[rows].repeat_interleave(copies, dim=0) + noise
            _, gradient = self.probe(targets[rows].repeat_interleave(copies)).gradient(noisy)
            total[rows] += self._term(gradient).view(-1, copies, *images.shape[1:]).sum(dim=1)
        return reduce_channels(total / self.samples, self.reduce)

    def _draw(self, generator: torch.Generator, row: int, copy: int, like: Tensor, held: dict[int, Tensor]) -> Tensor:
        """Draw the noise of a copy of the image `like`, [C, H, W]; of antithetic draws each second one is negated."""
        if self.antithetic and copy % 2:
            return -held.pop(row)
        noise = torch.randn(like.shape, generator=generator, device=like.device)
        if self.antithetic:
            held[row] = noise
        return noise

    def _term(self, gradient: Tensor) -> Tensor:
        if self.kind == "signed":
            return gradient
        return gradient.abs() if self.kind == "magnitude" else gradient.square()
