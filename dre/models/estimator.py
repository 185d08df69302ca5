"""DRE and MGnet as one network: spatial filter, generator, and what turns raw scores into a mask."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from torch import Tensor, nn

from dre.images.maps import upsample
from dre.models.controller import SkewController
from dre.models.generator import Filtered, MaskGenerator, SpatialFilter, UpsampleName

Variant = Literal["dre", "mgnet"]


@dataclass(frozen=True, slots=True)
class EstimatorSettings:
    """Everything that is needed to build a `MaskEstimator` again; it travels in the checkpoint."""

    classes: int
    tap_channels: tuple[int, ...]
    widths: tuple[int, ...]
    variant: Variant = "dre"
    eta: float = 1.5
    h: float = 2.5
    monotone: bool = True
    upsample: UpsampleName = "pixelshuffle"
    filter_gain: float = 0.0
    evidence: bool = False

    def to_dict(self) -> dict[str, object]:
        """Give plain lists, numbers and strings, which a checkpoint can hold without code."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


class PairRatio(nn.Module):
    """MGnet's head: the share of the first of two channels in the sum of their magnitudes."""

    def forward(self, pair: Tensor) -> Tensor:
        """[B, 2, H, W] -> [B, 1, H, W] in [0, 1]; 0 where both are zero."""
        magnitude = pair.abs()
        return magnitude[:, :1] / magnitude.sum(dim=1, keepdim=True).clamp_min(1e-8)


class MaskEstimator(nn.Module):
    """Estimate a mask from a classifier's feature maps and a class, in one pass.

    Args:
        settings: Sizes, variant and controller.

    Source: paper 003, Fig. 3; MGnet is Dabkowski and Gal's network as that paper describes it.
    """

    def __init__(self, settings: EstimatorSettings) -> None:
        super().__init__()
        is_dre = settings.variant == "dre"
        self.settings = settings
        self.filter = SpatialFilter(settings.classes, settings.tap_channels[-1], settings.filter_gain)
        self.generator = MaskGenerator(
            settings.tap_channels, settings.widths, 1 if is_dre else 2, settings.upsample, settings.evidence
        )
        self.to_scores = SkewController(settings.eta, settings.h, settings.monotone) if is_dre else PairRatio()

    def forward(self, features: Sequence[Tensor], targets: Tensor) -> Tensor:
        """Relevance scores [B, 1, H / 4, W / 4] in [0, 1]."""
        scores: Tensor = self.to_scores(self.raw(features, self.filter(features[-1], targets)))
        return scores

    def raw(self, features: Sequence[Tensor], filtered: Filtered) -> Tensor:
        """Scores before the controller (MGnet: before the ratio), [B, 1 or 2, H / 4, W / 4]."""
        raw: Tensor = self.generator(features, filtered)
        return raw.float()  # the controller's power needs more than bfloat16's eight bits

    def mask(self, features: Sequence[Tensor], targets: Tensor, size: tuple[int, int]) -> Tensor:
        """Mask [B, 1, H, W] in [0, 1] for images of `size`."""
        return upsample(self(features, targets), size)
