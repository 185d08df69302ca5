"""Mask estimator: DRE or MGnet as one network, from a classifier's feature maps and a class to a mask."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from torch import Tensor, nn

from dre.images.maps import upsample
from dre.models.controller import SkewController
from dre.models.generator import Evidence, Filtered, MaskGenerator, SpatialFilter, UpsampleName
from dre.models.taps import Tap

Variant = Literal["dre", "mgnet"]


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


class MaskEstimator(nn.Module):
    """Estimate a mask from a classifier's feature maps and a class, in one pass.

    The attribute `taps` holds the layers of the classifier that a trained one reads; None stands for the classifier's
    own.

    Args:
        settings: Sizes, variant and controller.

    Source: Fu et al. 2021, Fig. 3; MGnet is the network of Dabkowski and Gal 2017 as Fu et al. describe it.

    Example:
        >>> import torch
        >>> settings = EstimatorSettings(classes=10, tap_channels=(4, 4, 4, 4), widths=(4, 4, 4))
        >>> features = [torch.rand(1, 4, side, side) for side in (16, 8, 4, 2)]
        >>> MaskEstimator(settings).eval().mask(features, torch.tensor([3]), (64, 64)).shape
        torch.Size([1, 1, 64, 64])
    """

    def __init__(self, settings: EstimatorSettings) -> None:
        super().__init__()
        is_dre = settings.variant == "dre"
        self.settings = settings
        self.taps: list[Tap] | None = None
        self.filter = SpatialFilter(settings.classes, settings.tap_channels[-1], settings.filter_gain)
        self.generator = MaskGenerator(
            settings.tap_channels,
            settings.widths,
            1 if is_dre else 2,
            settings.upsample,
            settings.evidence,
            settings.residual_weight,
        )
        self.to_scores = SkewController(settings.eta, settings.h, settings.monotone) if is_dre else PairRatio()

    def forward(self, features: Sequence[Tensor], targets: Tensor) -> Tensor:
        """Return relevance scores [B, 1, H / 4, W / 4] in [0, 1]."""
        scores: Tensor = self.to_scores(self.raw(features, self.filter(features[-1], targets)))
        return scores

    def raw(self, features: Sequence[Tensor], filtered: Filtered) -> Tensor:
        """Return the scores before the controller (MGnet: before the ratio), [B, 1 or 2, H / 4, W / 4]."""
        raw: Tensor = self.generator(features, filtered)
        return raw.float()  # the controller's power needs more than bfloat16's eight bits

    def mask(self, features: Sequence[Tensor], targets: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the mask [B, 1, H, W] in [0, 1] for images of `size`."""
        return upsample(self(features, targets), size)
