"""Average drop, increase in confidence and average drop in deletion: the score of images weighted with their maps."""

from typing import Literal

from torch import Tensor

from dre.metrics.base import ImageMean
from dre.renamed import accepts_old_options
from dre.types import Fill, ScoreName, Sweep


def relative_drop(full: Tensor, masked: Tensor, clamp: bool = True) -> Tensor:
    """Return the share of the score that masking takes away: [B]; NaN where the image's own score is not positive.

    In [0, 1] for probabilities that are clamped; without clamping a score that rises counts as a negative drop.

    Args:
        full: [B], score of the image.
        masked: [B], score of the masked image.
        clamp: Count a score that rises as no drop.

    Source: Chattopadhyay et al. 2018 (Grad-CAM++), (Y - O) / Y.

    Example:
        >>> import torch
        >>> relative_drop(torch.tensor([0.8, 0.5]), torch.tensor([0.6, 0.7]))
        tensor([0.2500, 0.0000])
    """
    drop = (full - masked) / full.where(full > 0, float("nan"))
    return drop.clamp_min(0) if clamp else drop


class _MaskedScore(ImageMean):
    """Read the score of the image and of one soft-masked version of it, for the confidence metrics."""

    def __init__(self, kept: Literal["soft", "soft_rest"], fill: Fill, read: ScoreName) -> None:
        super().__init__()
        self.sweeps = {
            "full": Sweep((1.0,), read=read),
            "masked": Sweep((1.0,), fill, kept, read=read),
        }

    def _columns(self, full: Tensor, masked: Tensor) -> tuple[Tensor, Tensor]:
        for name, scores in (("full", full), ("masked", masked)):
            if scores.shape != (len(full), 1):
                raise ValueError(f"`{name}` must be [B, 1], one score for each image, got {list(scores.shape)}")
        return full[:, 0].double(), masked[:, 0].double()


@accepts_old_options
class AverageDrop(_MaskedScore):
    """Compute the mean over images of the share of the score that is lost when pixels are weighted with the map.

    The map is scaled to [0, 1] per image; a constant map keeps nothing. Images whose own score is not positive are left
    out and counted in `dropped`. In [0, 1] when clamped; lower is better.

    Args:
        clamp: Count a score that rises as no drop, as published; for Rhodes et al. 2024 `clamp=False, read="logit"`.
        fill: What shines through where the map is low.
        read: Score of the target.

    Raises:
        ValueError: `fill` is `noisy_linear`, which cannot be mixed with the image by weights.

    Source: Chattopadhyay et al. 2018; AD in Rhodes et al. 2024.

    Example:
        >>> import torch
        >>> metric = AverageDrop()
        >>> metric.update(full=torch.tensor([[0.8], [0.5]]), masked=torch.tensor([[0.6], [0.7]]))
        >>> metric.compute()
        tensor(0.1250, dtype=torch.float64)
    """

    higher_is_better = False

    def __init__(self, clamp: bool = True, fill: Fill = "black", read: ScoreName = "probability") -> None:
        super().__init__("soft", fill, read)
        self.clamp = clamp

    def update(self, full: Tensor, masked: Tensor) -> None:
        """Add a batch of scores [B, 1]: of the images, and weighted with their maps.

        Raises:
            ValueError: The scores are not [B, 1].
        """
        whole, rest = self._columns(full, masked)
        self.accumulate(relative_drop(whole, rest, self.clamp), keep=whole > 0)


@accepts_old_options
class IncreaseInConfidence(_MaskedScore):
    """Compute the share of the images whose score rises when pixels are weighted with the map: in [0, 1].

    The map is scaled to [0, 1] per image; a constant map keeps nothing. An equal score is no increase.
    Higher is better.

    Args:
        fill: What shines through where the map is low.
        read: Score of the target.

    Raises:
        ValueError: `fill` is `noisy_linear`, which cannot be mixed with the image by weights.

    Source: Chattopadhyay et al. 2018; IIC in Rhodes et al. 2024.

    Example:
        >>> import torch
        >>> metric = IncreaseInConfidence()
        >>> metric.update(full=torch.tensor([[0.8], [0.5]]), masked=torch.tensor([[0.6], [0.7]]))
        >>> metric.compute()
        tensor(0.5000, dtype=torch.float64)
    """

    higher_is_better = True

    def __init__(self, fill: Fill = "black", read: ScoreName = "probability") -> None:
        super().__init__("soft", fill, read)

    def update(self, full: Tensor, masked: Tensor) -> None:
        """Add a batch of scores [B, 1]: of the images, and weighted with their maps.

        Raises:
            ValueError: The scores are not [B, 1].
        """
        whole, rest = self._columns(full, masked)
        self.accumulate((rest - whole > 0).where((rest - whole).isfinite(), float("nan")))


@accepts_old_options
class AverageDropInDeletion(_MaskedScore):
    """Compute the mean over images of the share of the score that is lost when pixels are weighted with 1 - the map.

    The map is scaled to [0, 1] per image; a constant map takes nothing away. Images whose own score is not positive
    are left out and counted in `dropped`. In [0, 1] when clamped; higher is better.

    Args:
        clamp: Count a score that rises as no drop; for Rhodes et al. 2024 `clamp=False, read="logit"`.
        fill: What shines through where the map is high.
        read: Score of the target.

    Raises:
        ValueError: `fill` is `noisy_linear`, which cannot be mixed with the image by weights.

    Source: Jung and Oh 2021; ADD in Rhodes et al. 2024.

    Example:
        >>> import torch
        >>> metric = AverageDropInDeletion()
        >>> metric.update(full=torch.tensor([[0.8]]), masked=torch.tensor([[0.2]]))
        >>> metric.compute()
        tensor(0.7500, dtype=torch.float64)
    """

    higher_is_better = True

    def __init__(self, clamp: bool = True, fill: Fill = "black", read: ScoreName = "probability") -> None:
        super().__init__("soft_rest", fill, read)
        self.clamp = clamp

    def update(self, full: Tensor, masked: Tensor) -> None:
        """Add a batch of scores [B, 1]: of the images, and weighted with 1 minus their maps.

        Raises:
            ValueError: The scores are not [B, 1].
        """
        whole, rest = self._columns(full, masked)
        self.accumulate(relative_drop(whole, rest, self.clamp), keep=whole > 0)
