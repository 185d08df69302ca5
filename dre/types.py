"""The contracts that rooms share: what a batch holds, how a classifier wants its images, what a sweep asks."""

from dataclasses import dataclass
from typing import Literal, NotRequired, TypedDict

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
