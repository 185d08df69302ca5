"""Mask generator of DRE: a class-wise spatial filter and three upsampling cells over the classifier's feature maps."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

UpsampleName = Literal["pixelshuffle", "transposed"]
Evidence = bool | Literal["balanced"]
"""Whether the class evidence is part of the raw scores: not, added to them, or balanced with them."""

PRINTED_WIDTHS = {
    "resnet50": (64, 128, 256),
    "vgg19": (64, 128, 256),
    "googlenet": (96, 240, 416),
}
"""Cell widths at strides 4, 8 and 16 as printed in Fu et al. 2021 for three classifiers."""

EVIDENCE_HEAD_START = 0.1
"""Share of its usual start that the head begins with beside added evidence, which then decides the first masks."""

RESIDUAL_START = 0.12
"""Weight of the residual beside balanced evidence that training starts from, where it is learnt."""


def cell_widths(classifier_name: str, tap_channels: Sequence[int]) -> tuple[int, int, int]:
    """Return the cells' widths at strides 4, 8, 16: the paper's, else half of each tap's channels, at least 16.

    Example:
        >>> cell_widths("resnet50", (256, 512, 1024, 2048)), cell_widths("mobilenetv2_100", (24, 32, 96, 1280))
        ((64, 128, 256), (16, 16, 48))
    """
    printed = PRINTED_WIDTHS.get(classifier_name.removeprefix("torchvision/").split(".")[0])
    fine, middle, coarse = printed or [max(16, channels // 2) for channels in tap_channels[:3]]
    return fine, middle, coarse


class Filtered(NamedTuple):
    """Hold what the spatial filter hands to the generator.

    Args:
        features: Last feature map with the places that do not resemble the class attenuated, [B, C, h, w].
        evidence: Resemblance of each place to the class, standardised over each image, [B, 1, h, w].
    """

    features: Tensor
    evidence: Tensor


class SpatialFilter(nn.Module):
    """Attenuate the places of the last feature map that do not resemble the target class.

    Args:
        classes: Number of classes, one embedding vector each.
        channels: Channels of the last feature map.
        gain: 0 takes the sigmoid of the resemblance itself, as the paper does. Where the resemblance is large at most
            places, as with embeddings from a classifier's head, that sigmoid is 1 nearly everywhere and filters
            nothing; a positive gain takes the sigmoid of gain x the resemblance standardised over the image.

    Raises:
        ValueError: `gain` is negative.

    Source: Fu et al. 2021, Eq. 3; the gain is our choice. Embeddings start normal with standard deviation
    channels ** -0.5, as in the published code.

    Example:
        >>> import torch
        >>> filtered = SpatialFilter(classes=10, channels=4)(torch.rand(1, 4, 7, 7), torch.tensor([3]))
        >>> filtered.features.shape, filtered.evidence.shape
        (torch.Size([1, 4, 7, 7]), torch.Size([1, 1, 7, 7]))
    """

    def __init__(self, classes: int, channels: int, gain: float = 0.0) -> None:
        super().__init__()
        if gain < 0:
            raise ValueError(f"`filter_gain` must not be negative, got {gain}; 0 is the paper's filter")
        self.gain = gain
        self.embedding = nn.Embedding(classes, channels)
        nn.init.normal_(self.embedding.weight, std=channels**-0.5)

    def resemblance(self, features: Tensor, targets: Tensor) -> Tensor:
        """Return the inner product of each place of [B, C, h, w] with its class's embedding: [B, 1, h, w]."""
        return torch.einsum("bchw,bc->bhw", features, self.embedding(targets))[:, None]

    def forward(self, features: Tensor, targets: Tensor) -> Filtered:
        """Scale each place of [B, C, h, w] by the sigmoid of its resemblance to the target class."""
        resemblance = self.resemblance(features, targets)
        evidence = standardise(resemblance)
        return Filtered(features * (self.gain * evidence if self.gain else resemblance).sigmoid(), evidence)


def standardise(maps: Tensor) -> Tensor:
    """Shift and scale each map [B, 1, h, w] to mean 0 and variance 1; a constant map becomes zero."""
    centred = maps - maps.mean(dim=(2, 3), keepdim=True)
    return centred * (centred.square().mean(dim=(2, 3), keepdim=True) + 1e-5).rsqrt()


class Bottleneck(nn.Module):
    """Apply a residual bottleneck with ratio 4 and a biased 1 x 1 convolution on the skip."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        inner = outputs // 4
        self.branch = nn.Sequential(
            nn.Conv2d(inputs, inner, 1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(inplace=True),
            nn.Conv2d(inner, inner, 3, padding=1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(inplace=True),
            nn.Conv2d(inner, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.skip = nn.Conv2d(inputs, outputs, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Map [B, inputs, h, w] to [B, outputs, h, w]."""
        return F.relu(self.branch(features) + self.skip(features))


class Cell(nn.Module):
    """Double the resolution, join the classifier's map of that resolution, and mix both."""

    def __init__(self, inputs: int, tap: int, outputs: int, upsample: UpsampleName) -> None:
        super().__init__()
        if upsample == "pixelshuffle":
            self.enlarge = nn.Sequential(
                nn.Conv2d(inputs, 4 * outputs, 3, padding=1, bias=False),
                nn.BatchNorm2d(4 * outputs),
                nn.ReLU(inplace=True),
                nn.PixelShuffle(2),
            )
        else:
            self.enlarge = nn.Sequential(
                nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(inplace=True),
            )
        self.mix = Bottleneck(outputs + tap, outputs)

    def forward(self, coarse: Tensor, tap: Tensor) -> Tensor:
        """Map [B, inputs, h, w] and [B, tap, 2h, 2w] to [B, outputs, 2h, 2w]."""
        enlarged = self.enlarge(coarse)
        if enlarged.shape[-2:] != tap.shape[-2:]:  # odd sizes, as Inception's 35 -> 17 -> 8
            enlarged = F.interpolate(enlarged, size=tap.shape[-2:], mode="bilinear", align_corners=False)
        mixed: Tensor = self.mix(torch.cat([enlarged, tap], dim=1))
        return mixed


class MaskGenerator(nn.Module):
    """Turn filtered features into raw scores at stride 4: three cells and one convolution.

    Args:
        tap_channels: Channels of the classifier's maps at strides 4, 8, 16, 32.
        widths: Channels of the cells at strides 4, 8, 16.
        outputs: 1 for DRE's scores, 2 for MGnet's pair.
        upsample: Pixel shuffle as in the published code, or the transposed convolution of the paper's text.
        evidence: Add the enlarged class evidence, times a learnt weight, to the one output, so that training starts
            from the activation map of the class and learns what is missing. With `balanced` both parts, the evidence
            and the residual that is learnt, are standardised over each image before they are added, so that the
            residual cannot outgrow the evidence.
        residual_weight: Of the residual beside `balanced` evidence, in [0, 1]; learnt, from 0.12, when not given.

    Raises:
        ValueError: There are not four taps and three widths of at least 4, `evidence` is asked for with two outputs, or
            `residual_weight` without `balanced` evidence or outside [0, 1].

    Source: Fu et al. 2021, section 3.2.2 and the published code; the evidence is our choice.

    Example:
        >>> import torch
        >>> features = [torch.rand(1, 4, side, side) for side in (16, 8, 4, 2)]
        >>> filtered = SpatialFilter(classes=10, channels=4)(features[-1], torch.tensor([3]))
        >>> MaskGenerator(tap_channels=(4, 4, 4, 4), widths=(4, 4, 4))(features, filtered).shape
        torch.Size([1, 1, 16, 16])
    """

    def __init__(
        self,
        tap_channels: Sequence[int],
        widths: Sequence[int],
        outputs: int = 1,
        upsample: UpsampleName = "pixelshuffle",
        evidence: Evidence = False,
        residual_weight: float | None = None,
    ) -> None:
        super().__init__()
        if residual_weight is not None and (evidence != "balanced" or not 0 <= residual_weight <= 1):
            raise ValueError(
                "`residual_weight` is the weight in [0, 1] of the residual beside `evidence: balanced`, got "
                f"{residual_weight} with `evidence: {str(evidence).lower()}`"
            )
        if evidence and outputs != 1:
            raise ValueError("`evidence` is added to the one score map of the variant dre; mgnet has a pair of maps")
        if len(tap_channels) != 4 or len(widths) != 3 or min(widths) < 4:
            raise ValueError(
                f"needs four taps and three cell widths of at least 4, got {list(tap_channels)} and {list(widths)}"
            )
        fine, middle, coarse = widths
        self.cells = nn.ModuleList(
            [
                Cell(tap_channels[3], tap_channels[2], coarse, upsample),
                Cell(coarse, tap_channels[1], middle, upsample),
                Cell(middle, tap_channels[0], fine, upsample),
            ]
        )
        kernel = 3 if outputs == 1 else 1
        self.head = nn.Conv2d(fine, outputs, kernel, padding=kernel // 2)
        self.evidence = nn.Parameter(torch.ones(())) if evidence is True else None
        self.is_balanced, self.fixed_weight = evidence == "balanced", residual_weight
        if self.is_balanced and residual_weight is None:
            self.residual = nn.Parameter(torch.tensor(RESIDUAL_START).logit())
        if evidence is True:
            self.head.weight.data.mul_(EVIDENCE_HEAD_START)
            self.head.bias.data.zero_()  # type: ignore[union-attr]  # the head has a bias

    @property
    def residual_weight(self) -> Tensor | float:
        """Return the weight of the residual beside balanced evidence, in [0, 1]."""
        return self.residual.sigmoid() if self.fixed_weight is None else self.fixed_weight

    def forward(self, features: Sequence[Tensor], filtered: Filtered) -> Tensor:
        """Return raw scores [B, outputs, H / 4, W / 4] from the taps (finest first) and the filtered last tap."""
        scores = filtered.features
        for cell, tap in zip(self.cells, reversed(features[:3]), strict=True):
            scores = cell(scores, tap)
        raw: Tensor = self.head(scores)
        size = (raw.shape[-2], raw.shape[-1])
        evidence = F.interpolate(filtered.evidence, size, mode="bilinear", align_corners=False)
        if self.is_balanced:
            return standardise(evidence.float()) + self.residual_weight * standardise(raw.float())
        return raw if self.evidence is None else raw + self.evidence * evidence
