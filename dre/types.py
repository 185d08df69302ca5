"""The contracts that rooms share: batches, preprocessing, sweeps, and the paths and rules of path attribution."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, NotRequired, Protocol, TypedDict

import torch
from torch import Tensor

Substrate = Literal["blur", "black"]
Kept = Literal["top", "rest"]


class Batch(TypedDict):
    """One batch as every loader yields it.

    `images` is float32 [B, C, H, W] in [0, 1]; `labels` int64 [B], -1 where the data name no class; `key` the B
    sample names. Evaluation adds `objects`, float32 [B, 1, H, W], 1 inside a box and all zero for an image without
    boxes. Training adds `broken`, one line for each sample that could not be read since the batch before.
    """

    images: Tensor
    labels: Tensor
    key: list[str]
    objects: NotRequired[Tensor]
    broken: NotRequired[list[str]]


class Explained(TypedDict):
    """What a test step hands to the callbacks: the batch that was kept, and per explainer its maps and scores.

    `saliency` is [B, 1, H, W] and `scores` holds [B, R] for each sweep that was asked for.
    """

    images: Tensor
    labels: Tensor
    targets: Tensor
    key: list[str]
    objects: NotRequired[Tensor]
    saliency: dict[str, Tensor]
    scores: "dict[str, dict[Sweep, Tensor]]"


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How a classifier wants its images before its own normalisation; it belongs to the classifier, not to the data.

    Args:
        size: (height, width) of the crop that the network sees.
        resize: Length of the shorter side before the crop, in pixels.
        interpolation: Filter of the resize.
        channels: 3 for RGB, 1 for grey.
    """

    size: tuple[int, int] = (224, 224)
    resize: int = 256
    interpolation: Literal["bilinear", "bicubic", "lanczos", "nearest"] = "bicubic"
    channels: int = 3


@dataclass(frozen=True, slots=True)
class Sweep:
    """Which masked versions of an image a metric wants scored.

    Args:
        ratios: Shares of the pixels, ascending in [0, 1], one masked version each.
        substrate: What is shown where a pixel is not kept: the blurred image, or black.
        kept: `"top"` keeps the given share of highest-ranked pixels, `"rest"` keeps all but them.
        smoothing: Weight of the smoothed map that is added before ranking; 0 ranks the map itself.
    """

    ratios: tuple[float, ...]
    substrate: Substrate = "blur"
    kept: Kept = "top"
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        """Refuse ratios that are not ascending shares."""
        if not self.ratios or self.ratios[0] < 0 or self.ratios[-1] > 1 or list(self.ratios) != sorted(self.ratios):
            raise ValueError(f"`ratios` must ascend within [0, 1], got {self.ratios}")
        if self.smoothing < 0:
            raise ValueError(f"`smoothing` must not be negative, got {self.smoothing}; 0 switches it off")


@dataclass(frozen=True, slots=True)
class Waypoint:
    """One stop on a path.

    Args:
        image: [B, C, H, W].
        score: [B].
        grad: Gradient used at this stop, [B, C, H, W]; SAMP++ may average it.
        step: Displacement that `grad` stands for, quadrature weight times tangent; zero where only the score is wanted.
    """

    image: Tensor
    score: Tensor
    grad: Tensor
    step: Tensor


class Probe(Protocol):
    """What a path may ask of the classifier; `dre.probes.Probe` answers."""

    @property
    def neutral(self) -> Tensor:
        """Colour [1, C, 1, 1] that the classifier's normalisation maps to zero."""

    @property
    def unit(self) -> Tensor:
        """Difference in colour [1, C, 1, 1] that the classifier's normalisation maps to one."""

    def gradient(self, images: Tensor, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Scores [B] and gradient [B, C, H, W] at one stop; `rows` says which images of the batch these are."""

    def gradients(self, stops: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Each stop [B, C, H, W] with its scores and gradient, in order, as many at once as fit."""

    def scores(self, images: Tensor, rows: Tensor | None = None) -> Tensor:
        """Scores [B] without gradient."""

    def generators(self, images: Tensor, seed: int) -> list[torch.Generator]:
        """One source of randomness per image that depends on neither batch nor rank."""


class IntegrationPath(Protocol):
    """A way through image space that can be walked for a batch; at least two stops."""

    def walk(self, images: Tensor, probe: Probe) -> Iterator[Waypoint]:
        """Give the stops from the path's start to its end, both probed."""


IntegrationRule = Callable[[Waypoint, Waypoint], Tensor]
"""From two consecutive stops to what the step between them explains, [B, C, H, W]."""
