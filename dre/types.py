"""Types that the packages share: batches, preprocessing, perturbation sweeps, and paths and rules of attribution.

The module has more than 300 lines because what several packages read stands in one place.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NotRequired, Protocol, TypedDict, cast, get_args

import torch
from torch import Tensor

from dre import renamed
from dre.renamed import accepts_old_options

Kept = Literal["top", "rest", "level", "soft", "soft_rest"]

InformationName = Literal["webp", "png", "grey_entropy", "ms_ssim"]
ScoreName = Literal["probability", "logit", "log_probability"]
"""Which output of a class is its score."""

Readout = ScoreName | Literal["correct"] | InformationName
"""What is read of a masked image: a score of the target, whether it is the best class, or how much is still to see."""

SweepPrecision = Literal["float32", "bfloat16"]
"""Precision in which masked images are scored: that of the run, or bfloat16, which is faster and moves scores."""

Scorer = Literal["classifier", "transfer"]
"""Which classifier scores masked images: the one that is explained, or a second one, an evaluation's `transfer`."""


BlurBorder = Literal["reflect", "black", "dataset_mean"]
"""What a blur sees beyond the border: the image mirrored (edge pixel repeated), or one colour. Code that pads with
zeros sees black where its images are not normalised, and the classifier's mean colour where they are."""

Tails = Literal["cut", "folded"]
"""What becomes of a Gaussian beyond its kernel: cut off and made up for, or folded back at the ends of the kernel."""


@dataclass(frozen=True, slots=True)
class Blur:
    """A fill: the image under a Gaussian.

    Args:
        sigma: Standard deviation in pixels.
        radius: Half width of the kernel; four standard deviations when not given.
        border: What lies beyond the border.
        tails: `folded` is the kernel of the published code of Petsiuk et al. 2018 and Zhang et al. 2024, which blurs
            one point in a window of the kernel's size: 11 taps of sigma 5 are nearly a plain mean.

    Raises:
        ValueError: `sigma` is not positive, or `border` or `tails` is none of these.

    Example:
        >>> import torch
        >>> from dre.images.fill import fill_images
        >>> white = torch.ones(1, 1, 3, 3)
        >>> fill_images(white, Blur(1.0, 1, border="black", tails="folded"))[0, 0, 1]
        tensor([0.7039, 1.0000, 0.7039])
    """

    sigma: float
    radius: int | None = None
    border: BlurBorder = "reflect"
    tails: Tails = "cut"

    def __post_init__(self) -> None:
        """Refuse a blur that shows the image itself, and unknown choices."""
        if self.sigma <= 0:
            raise ValueError(f"`sigma` of a blur must be positive, got {self.sigma}")
        for name, value, known in (("border", self.border, BlurBorder), ("tails", self.tails, Tails)):
            if value not in get_args(known):
                raise ValueError(f"`{name}` of a blur must be {', '.join(get_args(known))}, got {value!r}")


@dataclass(frozen=True, slots=True)
class Interpolation:
    """A fill: linear interpolation, on a Delaunay triangulation, of all pixels that are kept.

    The four corners and a random share of the pixels are always kept, the same for every map of an image. To
    triangulate many pixels takes long and makes little difference: `mixed` does it where at most 25 % of the pixels are
    kept, and elsewhere makes each hidden pixel the mean of its neighbours (our choice), rounded to 8 bits alike.

    Args:
        share: Of the pixels that are kept at random.
        seed: Of these draws, one for each image by its key.
        by: `triangles` always, or `mixed`.

    Raises:
        ValueError: `share` is outside [0, 1], or `by` is another word.
    """

    share: float = 0.01
    seed: int = 0
    by: Literal["triangles", "mixed"] = "triangles"

    def __post_init__(self) -> None:
        """Refuse a share that is none and an unknown way."""
        if not 0 <= self.share <= 1:
            raise ValueError(f"`share` of an interpolation must lie in [0, 1], got {self.share}")
        if self.by not in ("triangles", "mixed"):
            raise ValueError(f"`by` of an interpolation must be triangles or mixed, got {self.by!r}")


@dataclass(frozen=True, slots=True)
class NoisyLinear:
    """A fill: each hidden pixel is the weighted mean of its neighbours, plus noise; the name `noisy_linear` of sweeps.

    What is shown depends on the mask: `dre.images.noisy_linear.linear_imputation` solves for all hidden pixels.

    Args:
        noise: Standard deviation of the Gaussian noise on hidden pixels, in units of images in [0, 1]; not clipped.
        seed: Of the noise, one draw for each image by its key.

    Raises:
        ValueError: `noise` is negative or infinite.

    Source: Rong et al. 2022; 0.01 and where it is added (images in [0, 1], before the classifier's normalisation) are
    those of the published code.
    """

    noise: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse a negative standard deviation."""
        if not 0 <= self.noise < math.inf:
            raise ValueError(f"`noise` of a linear imputation must not be negative, got {self.noise}; 0 adds none")


FillName = Literal["blur", "black", "white", "image_mean", "dataset_mean", "noise"]
"""What is shown where a pixel is hidden: the image under a blur (`dre.images.fill.BLUR` unless a class says otherwise),
black, white, the mean colour of the image, the colour that the classifier's normalisation maps to zero, or uniform
noise that the image's key decides."""

Fill = FillName | Literal["noisy_linear"] | Blur | Interpolation | NoisyLinear
"""A fill of a perturbation sweep: beside those by name and blurs, those that depend on the mask."""


class Batch(TypedDict):
    """Hold one batch as every loader yields it.

    `images` is float32 [B, C, H, W] in [0, 1]; `labels` int64 [B], -1 where the data name no class; `key` the B
    sample names. Evaluation adds `objects`, float32 [B, 1, H, W], 1 on the object that the segmentation mask of an
    image shows, or else inside its boxes, and all zero for an image without either; and `by_mask`, bool [B], True where
    it is a mask: a batch without it has boxes. Training adds `broken`, one line for each sample that could not be read
    since the batch before; `skipped`, key and reason of such a sample of an evaluation, does not leave the loader.
    """

    images: Tensor
    labels: Tensor
    key: list[str]
    objects: NotRequired[Tensor]
    by_mask: NotRequired[Tensor]
    broken: NotRequired[list[str]]
    skipped: NotRequired[list[tuple[str, str]]]


class Explained(TypedDict):
    """Hold what a test step passes to the callbacks: the batch, and for each explainer its maps and scores.

    `saliency` is [B, 1, H, W], zero where `broken`, bool [B], marks that the explainer's map was not finite; `scores`
    holds [B, columns] for each perturbation sweep that was asked for. The metrics' callback adds `values`: float64 [B]
    by explainer and metric, NaN where there is none. `finite`, bool [B], is False where the logits were not; then all
    maps are `broken`. A score of a masked copy may be NaN. Where metrics ask for them, `other_saliency` and
    `other_broken` are those of another class; where there is a second classifier, `known`, bool [B], is False where it
    does not know the target, whose scores by it are then NaN.

    `target_names` names the explained classes, `probability`, float64 [B], is theirs, and `correct`, int64 [B], is 1
    where the prediction is the label, 0 where it is not, -1 where the data name no class of the classifier; of an image
    whose logits were not finite they are empty, NaN and -1.
    """

    images: Tensor
    labels: Tensor
    targets: Tensor
    key: list[str]
    objects: NotRequired[Tensor]
    by_mask: NotRequired[Tensor]
    saliency: dict[str, Tensor]
    broken: dict[str, Tensor]
    scores: "dict[str, dict[Sweep, Tensor]]"
    values: NotRequired[dict[str, dict[str, Tensor]]]
    finite: NotRequired[Tensor]
    target_names: NotRequired[list[str]]
    probability: NotRequired[Tensor]
    correct: NotRequired[Tensor]
    other_saliency: NotRequired[dict[str, Tensor]]
    other_broken: NotRequired[dict[str, Tensor]]
    known: NotRequired[Tensor]


def rows_of(batch: Batch, places: Sequence[int]) -> Batch:
    """Return some images of a batch."""
    rows = torch.tensor(list(places), dtype=torch.int64, device=batch["images"].device)
    chosen: dict[str, Any] = {
        name: values[rows] if isinstance(values, Tensor) else [values[place] for place in places]  # type: ignore[index]
        for name, values in batch.items()
    }
    return cast(Batch, chosen)


def explained_rows(explained: Explained, places: Sequence[int]) -> Explained:
    """Return some images of what a test step explained."""

    def chosen(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: chosen(one) for name, one in value.items()}
        return value[list(places)] if isinstance(value, Tensor) else [value[place] for place in places]

    return cast(Explained, chosen(explained))


def joined(parts: Sequence[Explained | None]) -> Explained | None:
    """Join what was explained one by one; None where there is nothing."""
    found: list[Any] = [part for part in parts if part is not None]
    return _join(found) if found else None


def _join(parts: list[Any]) -> Any:
    if isinstance(parts[0], dict):
        return {name: _join([part[name] for part in parts]) for name in parts[0]}
    return torch.cat(parts) if isinstance(parts[0], Tensor) else [one for part in parts for one in part]


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """Set how images are prepared for a classifier before its own normalisation; the classifier has it, not the data.

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
class MemoryEstimate:
    """Hold a memory estimate: bytes that a network needs for each pixel of an image in float32.

    Args:
        forward: Of a forward pass alone.
        backward: Of a forward and a backward pass, for which activations are kept.
    """

    forward: float
    backward: float


@accepts_old_options
@dataclass(frozen=True, slots=True)
class Sweep:
    """Which masked versions of an image a metric wants, and what it wants to know of them.

    Args:
        ratios: Shares of the pixels, ascending in [0, 1], one masked version each.
        fill: What is shown where a pixel is not kept.
        kept: `top` keeps the given share of highest-ranked pixels, `rest` keeps all but them; `level` keeps every
            pixel that reaches the quantile 1 - ratio of its map, ties included. `soft` weights pixels with the map,
            scaled to [0, 1] and times the ratio, `soft_rest` with 1 minus that.
        smoothing: Weight of the smoothed map that is added first; 0 takes the map itself.
        read: What is read of each version; the engine's own score when not given.
        draws: Random orders of the pixels, of each image by its key, that stand in for the order of the map; 0 takes
            the map's. The versions of the first draw come first.
        seed: Of these draws.
        by: Which classifier scores the versions.

    Raises:
        ValueError: `ratios` do not ascend within [0, 1], `smoothing` or `draws` is negative, or draws or the fill do
            not suit what is kept.
    """

    ratios: tuple[float, ...]
    fill: Fill = "blur"
    kept: Kept = "top"
    smoothing: float = 0.0
    read: Readout | None = None
    draws: int = 0
    seed: int = 0
    by: Scorer = "classifier"

    def __post_init__(self) -> None:
        """Refuse ratios that are not ascending shares, and random orders of what has no order."""
        if not self.ratios or self.ratios[0] < 0 or self.ratios[-1] > 1 or list(self.ratios) != sorted(self.ratios):
            raise ValueError(f"`ratios` must ascend within [0, 1], got {self.ratios}")
        if self.smoothing < 0:
            raise ValueError(f"`smoothing` must not be negative, got {self.smoothing}; 0 switches it off")
        if self.draws < 0 or (self.draws and self.kept not in ("top", "rest")):
            raise ValueError(f"`draws` are orders for `top` and `rest`, got {self.draws} of them for {self.kept!r}")
        if self.kept in ("soft", "soft_rest") and (self.fill == "noisy_linear" or isinstance(self.fill, NoisyLinear)):
            raise ValueError(
                f"the fill noisy_linear needs pixels that are shown or hidden, and {self.kept!r} weights them with the "
                "map; choose another fill"
            )

    @property
    def columns(self) -> int:
        """How many numbers there are for each image."""
        return len(self.ratios) * max(1, self.draws)


@dataclass(frozen=True, slots=True)
class Waypoint:
    """Hold one stop on a path.

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
    """Give a path what it needs of the classifier; `dre.engine.gradients.Probe` implements it."""

    @property
    def dataset_mean(self) -> Tensor:
        """Return the colour [1, C, 1, 1] that the classifier's normalisation maps to zero."""

    @property
    def unit(self) -> Tensor:
        """Return the difference in colour [1, C, 1, 1] that the classifier's normalisation maps to one."""

    def gradient(self, images: Tensor, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return scores [B] and gradient [B, C, H, W] at one stop; `rows` are the images' indices in the batch."""

    def gradients(self, stops: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield each stop [B, C, H, W] with its scores and gradient, in order, as many at once as fit."""

    def scores(self, images: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return scores [B] without gradient."""

    def generators(self, images: Tensor, seed: int) -> list[torch.Generator]:
        """Return a random generator for each image that depends on neither batch nor rank."""

    def settle(self, errors: Sequence[float], tolerance: float, bound: str, scale: str) -> None:
        """Count images that were explained to a tolerance, with the errors that were left as shares of `scale`."""


class IntegrationPath(Protocol):
    """Walk a batch of images through image space, with at least two stops."""

    def walk(self, images: Tensor, probe: Probe) -> Iterator[Waypoint]:
        """Yield the stops from the baseline to the image, both with score and gradient."""


IntegrationRule = Callable[[Waypoint, Waypoint], Tensor]
"""From two consecutive stops to what the step between them explains, [B, C, H, W]."""


__getattr__ = renamed.getter(__name__)


def in_float32(batch: Batch) -> Batch:
    """Return a batch whose pixels are float32 where a trainer of half precision rounded them."""
    wide = {
        name: value.float() if isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16) else value
        for name, value in batch.items()
    }
    return cast(Batch, wide)
