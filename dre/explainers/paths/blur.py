"""BlurIG: integrated gradients along a path from the blurred image to the image."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, get_args

import numpy as np
from torch import Tensor

from dre.checks import check_choice
from dre.explainers.gradient import Reduction
from dre.explainers.paths.bisection import Placing, Steps, is_auto, walk_to_tolerance
from dre.explainers.paths.integration import PathExplainer, riemann
from dre.explainers.paths.straight import Quadrature, quadrature, walk_nodes
from dre.images.blur import BlurSpectrum, Border, blur_with_slope
from dre.models import Classifier
from dre.types import IntegrationPath, IntegrationRule, Probe, ScoreName, Waypoint

Grid = Literal["linear", "sqrt"]


@dataclass(frozen=True, eq=False)
class BlurPath:
    """Walk from the blurred image to the image while the width of the Gaussian shrinks to zero.

    The tangent is the exact derivative of the blur in sigma. Published code takes a finite difference in float32, which
    loses most digits and is wrong in the first step. The kernel's radius is fixed at four times the largest sigma, so
    that the blur is smooth along the path.

    Args:
        steps: Number of gradient evaluations, ends included; `auto` takes as many as each image needs, and places them
            where the score bends, see `dre.explainers.paths.bisection.walk_to_tolerance`.
        max_sigma: Standard deviation of the start, in pixels.
        grid: `linear` in sigma, or in its square (`sqrt`). PAIR's square-root grid calls the largest *variance*
            max_sigma: its max_sigma=50 is 7.07 here. (PAIR is the saliency package of the authors' group.)
        border: What the blur sees beyond the border; PAIR's is `constant`, black.
        border_value: What a constant border shows: a level, or `dataset_mean`, the zero of normalised images.
        quadrature: As for the straight line; PAIR's is `right`, counted from the blurred end.
        grad_step: Width in pixels of a finite difference in place of the derivative, 0.01 in PAIR's code; for parity.
        from_sharp: Walk from the image to its blur, and negate the map. Only rules that treat the two ends of a step
            differently depend on it, such as IDGI, which the code of Singhi and Kumari 2024 takes this way round.
        tolerance: Of `steps: auto`: gap of completeness at which an image stops, as a share of the change in score.
        max_steps: Of `steps: auto`: most steps of an image, which then stops with a larger gap.

    Raises:
        ValueError: `max_sigma` or `grad_step` is not positive, `steps` are too few, or `grid`, `border` or `quadrature`
            is unknown.

    Source: Xu et al. 2020; Singhi and Kumari 2024, Eq. 2 and 3, which count in variance where the code counts in sigma.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from dre.models import Classifier
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
        >>> classifier = Classifier.wrap(network, size=(8, 8))
        >>> images, targets = torch.rand(1, 3, 8, 8), torch.tensor([1])
        >>> PathExplainer(classifier, BlurPath(steps=4, max_sigma=5))(images, targets).shape
        torch.Size([1, 1, 8, 8])
    """

    steps: Steps = 64
    max_sigma: float = 50.0
    grid: Grid = "linear"
    border: Border = "reflect"
    border_value: float | Literal["dataset_mean"] = 0.0
    quadrature: Quadrature = "trapezoid"
    grad_step: float | None = None
    from_sharp: bool = False
    tolerance: float = 0.01
    max_steps: int = 256

    def __post_init__(self) -> None:
        """Raise ValueError for settings that describe no path."""
        if not is_auto(self.steps, self.quadrature, self.tolerance, self.max_steps):
            quadrature(self.quadrature, self.steps)
        if self.max_sigma <= 0:
            raise ValueError(f"`max_sigma` must be positive, got {self.max_sigma}")
        check_choice("grid", self.grid, get_args(Grid))
        check_choice("border", self.border, get_args(Border))
        if isinstance(self.border_value, str):
            check_choice("border_value", self.border_value, ("dataset_mean",))
        if self.grad_step is not None and self.grad_step <= 0:
            raise ValueError(f"`grad_step` must be positive, got {self.grad_step}; null takes the derivative itself")

    @property
    def keeps_gradients(self) -> bool:
        """See `KeepsGradients`."""
        return self.steps == "auto"

    @property
    def radius(self) -> int:
        """Return the half width of the kernels, in pixels."""
        return int(4 * self.max_sigma + 0.5)

    def walks(self) -> Sequence[tuple[float, IntegrationPath]]:
        """Return one walk; away from the image it counts negative."""
        return [(-1.0 if self.from_sharp else 1.0, self)]

    def sigma(self, t: float) -> tuple[float, float]:
        """Return sigma at t in [0, 1] and its derivative in t, which is 0 at the sharp end, as the blur's is."""
        if self.grid == "linear":
            return self.max_sigma * (1 - t), -self.max_sigma
        root = float(np.sqrt(1 - t))
        return self.max_sigma * root, -self.max_sigma / (2 * root) if root > 0 else 0.0

    def walk(self, images: Tensor, probe: Probe) -> Iterator[Waypoint]:
        """Yield the waypoints of images [B, C, H, W] in [0, 1] from blurred to sharp, or the other way round."""
        if self.steps == "auto":
            places = [cache(self.placing(image, probe)) for image in images[:, None]]  # asked for twice
            return walk_to_tolerance(places, probe, self.tolerance, self.max_steps)
        return walk_nodes(self.placing(images, probe), *quadrature(self.quadrature, self.steps), probe)

    def placing(self, images: Tensor, probe: Probe) -> Placing:
        """Return the function from t to the blurred images and the tangent, [B, C, H, W] both."""
        is_weighed = self.border == "reflect" and self.grad_step is None
        spectrum = BlurSpectrum(images, self.radius) if is_weighed else None
        value = probe.dataset_mean.to(images) if self.border_value == "dataset_mean" else self.border_value

        def place(t: float) -> tuple[Tensor, Tensor]:
            sigma, pace = self.sigma(1 - t if self.from_sharp else t)
            blurred, slope = self.blur(images, sigma, value) if spectrum is None else spectrum.blur(sigma)
            return blurred, slope * (-pace if self.from_sharp else pace)

        return place

    def blur(self, images: Tensor, sigma: float, value: Tensor | float) -> tuple[Tensor, Tensor]:
        """Return the blurred images and their derivative in sigma, [B, C, H, W] each."""
        if self.grad_step is None:
            return blur_with_slope(images, sigma, self.radius, self.border, value)
        exact = images.double()  # in float32 so small a difference keeps hardly a digit
        sigmas = (sigma, sigma + self.grad_step)
        here, further = (blur_with_slope(exact, each, self.radius, self.border, value)[0] for each in sigmas)
        return here.to(images), ((further - here) / self.grad_step).to(images)


class BlurIG(PathExplainer):
    """Integrate gradients along a path that sharpens the image; `steps` passes, no baseline.

    Args:
        classifier: What is explained.
        steps: Number of gradient evaluations, ends included; `auto` takes as many as each image needs.
        max_sigma: Standard deviation of the start, in pixels.
        grid: `linear` in sigma, or in its square (`sqrt`).
        border: What the blur sees beyond the border.
        border_value: What a constant border shows: a level, or `dataset_mean`, the zero of normalised images.
        quadrature: Where the gradients are taken and what they weigh.
        grad_step: Width in pixels of a finite difference in place of the blur's derivative; for parity.
        from_sharp: Walk from the image to its blur, and negate the map.
        tolerance: Of `steps: auto`: gap of completeness at which an image stops, as a share of the change in score.
        max_steps: Of `steps: auto`: most steps of an image; a warning and `cost.json` count those that stop there.
        rule: `riemann`, `idgi` or `idgi_tmlr`.
        score: Which output is explained.
        reduce: How the channels become one value.
        chunk: Most images in one pass.

    Raises:
        ValueError: `max_sigma` or `grad_step` is not positive, `steps` are too few, or `grid`, `border` or `quadrature`
            is unknown.
        TypeError: `rule` is a class, or cannot be called.

    Source: Xu et al. 2020.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from dre.models import Classifier
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
        >>> classifier = Classifier.wrap(network, size=(8, 8))
        >>> images, targets = torch.rand(1, 3, 8, 8), torch.tensor([1])
        >>> BlurIG(classifier, steps=4)(images, targets).shape
        torch.Size([1, 1, 8, 8])
    """

    def __init__(
        self,
        classifier: Classifier,
        *,
        steps: Steps = 64,
        max_sigma: float = 50.0,
        grid: Grid = "linear",
        border: Border = "reflect",
        border_value: float | Literal["dataset_mean"] = 0.0,
        quadrature: Quadrature = "trapezoid",
        grad_step: float | None = None,
        from_sharp: bool = False,
        tolerance: float = 0.01,
        max_steps: int = 256,
        rule: IntegrationRule = riemann,
        score: ScoreName = "probability",
        reduce: Reduction = "sum",
        chunk: int | None = None,
    ) -> None:
        blur = (steps, max_sigma, grid, border, border_value, quadrature, grad_step, from_sharp)
        path = BlurPath(*blur, tolerance=tolerance, max_steps=max_steps)
        super().__init__(classifier, path, rule, score=score, reduce=reduce, chunk=chunk)
