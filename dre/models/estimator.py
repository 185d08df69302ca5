"""Mask estimator: a learned explainer as one network, from a classifier's feature maps and a class to a mask."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from dre.images.maps import upsample
from dre.models.controller import SkewController
from dre.models.generator import Evidence, Filtered, MaskGenerator, SpatialFilter, UpsampleName
from dre.models.taps import Tap

Variant = Literal["dre", "mgnet", "fast_shap", "nn_explainer"]

SUPERPIXEL = 4
"""Side of a superpixel in raw scores, which lie at stride 4: 16 pixels."""


@dataclass(frozen=True, slots=True)
class EstimatorSettings:
    """Hold what is needed to build a `MaskEstimator` again; a checkpoint stores it.

    Example:
        >>> settings = EstimatorSettings(classes=10, tap_channels=(8, 8, 16, 16), widths=(4, 4, 8))
        >>> settings.to_dict()["widths"]
        [4, 4, 8]
    """

    classes: int
    tap_channels: tuple[int, ...]
    widths: tuple[int, ...]
    variant: Variant = "dre"
    eta: float = 1.5
    h: float = 2.5
    monotone: bool = True
    upsample: UpsampleName = "pixelshuffle"
    filter_gain: float = 0.0
    evidence: Evidence = False
    residual_weight: float | None = None

    def to_dict(self) -> dict[str, object]:
        """Return plain lists, numbers and strings, which a checkpoint can hold without code."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


class PairRatio(nn.Module):
    """Return the share of the first of two channels in the sum of their magnitudes: MGnet's head."""

    def forward(self, pair: Tensor) -> Tensor:
        """Reduce [B, 2, H, W] to [B, 1, H, W] in [0, 1]; 0 where both are zero."""
        magnitude = pair.abs()
        return magnitude[:, :1] / magnitude.sum(dim=1, keepdim=True).clamp_min(1e-8)


class SuperpixelValues(nn.Module):
    """Return what each superpixel adds to the score, signed: the mean of its raw scores over the number of superpixels.

    Where 16 divides the image's sides, the sum over superpixels is the mean of the raw scores. At other sizes there are
    so many superpixels more that none is larger than 16 pixels a side, and they are as equal as rounding lets them be.

    Source: Jethani et al. 2022 have 14 x 14 superpixels at 224 pixels; the division is our choice.

    Example:
        >>> import torch
        >>> SuperpixelValues()(torch.ones(1, 1, 8, 16)).shape, SuperpixelValues()(torch.ones(1, 1, 8, 16)).sum()
        (torch.Size([1, 1, 2, 4]), tensor(1.))
    """

    def forward(self, raw: Tensor) -> Tensor:
        """Reduce [B, 1, h, w] to [B, 1, ceil(h / 4), ceil(w / 4)]."""
        rows, columns = (-(-side // SUPERPIXEL) for side in raw.shape[-2:])
        return F.adaptive_avg_pool2d(raw, (rows, columns)) / (rows * columns)


def superpixel_grid(size: tuple[int, int]) -> tuple[int, int]:
    """Return how many superpixels an image of a size has, in rows and columns: 14 x 14 at 224 pixels.

    Example:
        >>> superpixel_grid((224, 100))
        (14, 7)
    """
    rows, columns = (-(-side // (4 * SUPERPIXEL)) for side in size)
    return rows, columns


def show_superpixels(values: Tensor, size: tuple[int, int]) -> Tensor:
    """Enlarge one value for each superpixel to an image: [B, 1, H, W], each superpixel in its own value.

    Example:
        >>> import torch
        >>> show_superpixels(torch.tensor([[[[1.0, 2.0]]]]), (1, 4))
        tensor([[[[1., 1., 2., 2.]]]])
    """
    return F.interpolate(values, size=tuple(size), mode="nearest")


@dataclass(frozen=True, slots=True)
class Head:
    """Hold how a variant makes its map of the generator's raw scores.

    Args:
        scores: Build the module from raw scores [B, outputs, h, w] to scores [B, 1, h', w'].
        outputs: Maps of raw scores.
        enlarge: Scores to a map of the image's size.
        start: What the last convolution's weights are multiplied with before training; below 1 its bias starts at 0.
        evidence: What class evidence can do: `balanced` leaves no area to learn, which a controller sets anyway.
    """

    scores: Callable[["EstimatorSettings"], nn.Module]
    outputs: int = 1
    enlarge: Callable[[Tensor, tuple[int, int]], Tensor] = upsample
    start: float = 1.0
    evidence: tuple[Evidence, ...] = (False,)


HEADS: dict[Variant, Head] = {
    "dre": Head(
        lambda settings: SkewController(settings.eta, settings.h, settings.monotone), evidence=(False, True, "balanced")
    ),
    "mgnet": Head(lambda settings: PairRatio(), outputs=2),
    "fast_shap": Head(lambda settings: SuperpixelValues(), enlarge=show_superpixels),
    "nn_explainer": Head(lambda settings: nn.Sigmoid(), start=0.1, evidence=(False, True)),
}
"""How each variant reads the generator: DRE by its controller, MGnet by its pair, NN-Explainer by a sigmoid.

NN-Explainer's masks start near one half: a sigmoid that starts near 1 has no gradient to leave it."""


def _refuse_options_of_others(settings: EstimatorSettings) -> None:
    taken: dict[str, tuple[object, ...]] = {
        "evidence": HEADS[settings.variant].evidence,
        "monotone": (True, False) if settings.variant == "dre" else (True,),
    }
    for name, values in taken.items():
        value = getattr(settings, name)
        if value not in values:
            raise ValueError(
                f"`{name}: {str(value).lower()}` is about DRE's scores, which the variant {settings.variant} does not "
                "have; leave it out"
            )


class MaskEstimator(nn.Module):
    """Estimate a mask from a classifier's feature maps and a class, in one pass.

    The attribute `taps` holds the layers of the classifier that a trained one reads; None stands for the classifier's
    own.

    Args:
        settings: Sizes, variant and controller.

    Raises:
        ValueError: An option of DRE's scores is set for another variant.

    Source: Fu et al. 2021, Fig. 3; MGnet is the network of Dabkowski and Gal 2017 as Fu et al. describe it. FastSHAP
    (Jethani et al. 2022) and NN-Explainer (Stalder et al. 2022) have one output for each class of a network of their
    own; that they share this one, where the spatial filter knows the class, is our choice.

    Example:
        >>> import torch
        >>> settings = EstimatorSettings(classes=10, tap_channels=(4, 4, 4, 4), widths=(4, 4, 4))
        >>> features = [torch.rand(1, 4, side, side) for side in (16, 8, 4, 2)]
        >>> MaskEstimator(settings).eval().mask(features, torch.tensor([3]), (64, 64)).shape
        torch.Size([1, 1, 64, 64])
    """

    def __init__(self, settings: EstimatorSettings) -> None:
        super().__init__()
        _refuse_options_of_others(settings)
        head = HEADS[settings.variant]
        self.settings = settings
        self.taps: list[Tap] | None = None
        self.filter = SpatialFilter(settings.classes, settings.tap_channels[-1], settings.filter_gain)
        self.generator = MaskGenerator(
            settings.tap_channels,
            settings.widths,
            head.outputs,
            settings.upsample,
            settings.evidence,
            settings.residual_weight,
        )
        if head.start != 1:
            self.generator.head.weight.data.mul_(head.start)
            self.generator.head.bias.data.zero_()  # type: ignore[union-attr]  # the head has a bias
        self.to_scores = head.scores(settings)

    def forward(self, features: Sequence[Tensor], targets: Tensor) -> Tensor:
        """Return relevance scores [B, 1, H / 4, W / 4] in [0, 1]; of FastSHAP [B, 1, H / 16, W / 16], signed."""
        scores: Tensor = self.to_scores(self.raw(features, self.filter(features[-1], targets)))
        return scores

    def raw(self, features: Sequence[Tensor], filtered: Filtered) -> Tensor:
        """Return the scores before the head, as DRE's controller, [B, 1 (MGnet: 2), H / 4, W / 4]."""
        raw: Tensor = self.generator(features, filtered)
        return raw.float()  # the controller's power needs more than bfloat16's eight bits

    def mask(self, features: Sequence[Tensor], targets: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the mask [B, 1, H, W] in [0, 1] for images of `size`; of FastSHAP it is signed."""
        return self.enlarge(self(features, targets), size)

    def enlarge(self, scores: Tensor, size: tuple[int, int]) -> Tensor:
        """Return scores as a map [B, 1, H, W]: bilinearly, those of superpixels as they are."""
        return HEADS[self.settings.variant].enlarge(scores, size)
