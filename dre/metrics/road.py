"""ROAD: scores after the most and the least relevant pixels are removed and imputed from their neighbours."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from dre.metrics.base import ImageCurve
from dre.types import Fill, ScoreName, Sweep

SHARES = (0.2, 0.4, 0.6, 0.8)
"""Of the pixels that are removed."""


def removal_gain(most: Tensor, least: Tensor) -> Tensor:
    """Return half of how much higher the score is without the least than without the most relevant pixels.

    The result has the shape of the scores; in [-0.5, 0.5] for probabilities, 0 where the order of the pixels makes no
    difference.

    Args:
        most: Scores after the most relevant pixels were removed, any shape.
        least: Scores after as many of the least relevant were, the same shape.

    Source: pytorch-grad-cam, `ROADCombined`, for Rong et al. 2022.

    Example:
        >>> import torch
        >>> removal_gain(most=torch.tensor([0.25]), least=torch.tensor([0.75]))
        tensor([0.2500])
    """
    return (least - most) / 2


class Road(ImageCurve):
    """Compute the mean over images and shares of half the difference of two scores: higher is better.

    The scores are those of the image without its least relevant pixels and without its most relevant ones; what is
    removed is imputed linearly from its neighbours, with a little noise, so that it does not show where it was. In
    [-0.5, 0.5] for probabilities, and 0 for an order that says nothing. Its curve is the half difference at each share.

    Exactly a share of the pixels is removed, to the nearest pixel. Equal values of a map are ranked in row-major order,
    the first as the most relevant, in both directions: a constant map is compared with its upside down, and its value
    says nothing. An image whose map or scores are not finite has no value. Rong et al. 2022 report each direction by
    itself: `Deletion` and `Insertion` over the same fill follow them.

    Args:
        shares: Of the pixels that are removed, ascending, above 0 and below 1.
        fill: What a removed pixel shows.
        read: Score of the target.

    Raises:
        ValueError: A share is not between 0 and 1, or they do not ascend.

    Source: Rong et al. 2022, combined and at the shares of pytorch-grad-cam, whose tutorial scores 20, 40, 60 and 80 %
    (`ROADCombined` without options has 10 to 90 %). The probability is our choice: Rong et al. report accuracy.

    Example:
        >>> import torch
        >>> metric = Road()
        >>> metric.update(most=torch.full((1, 4), 0.2), least=torch.tensor([[0.5, 0.6, 0.7, 0.8]]))
        >>> metric.compute()
        tensor(0.2250, dtype=torch.float64)
    """

    higher_is_better = True
    x_label = "share of pixels removed"
    y_label = "half the difference of target scores"

    def __init__(
        self, shares: Sequence[float] = SHARES, fill: Fill = "noisy_linear", read: ScoreName = "probability"
    ) -> None:
        given = list(shares) if isinstance(shares, Sequence) and not isinstance(shares, str) else []
        are_shares = bool(given) and all(isinstance(one, float) and 0 < one < 1 for one in given)
        if not are_shares or given != sorted(set(given)):
            raise ValueError(f"`shares` of Road must ascend between 0 and 1, got {shares!r}")
        super().__init__(len(shares))
        self.shares = tuple(shares)
        kept = tuple(round(1 - share, 12) for share in reversed(self.shares))
        self.sweeps: Mapping[str, Sweep] = {
            "most": Sweep(self.shares, fill, "rest", read=read),
            "least": Sweep(kept, fill, "top", read=read),
        }
        self.is_share = read == "probability"

    def update(self, most: Tensor, least: Tensor) -> None:
        """Add a batch of sweep scores [B, shares]: without the most relevant pixels, and with only those left.

        Args:
            most: Column by column less of the image is left.
            least: Column by column more is.

        Raises:
            ValueError: A shape differs.
        """
        for name, scores in (("most", most), ("least", least)):
            if scores.ndim != 2 or scores.shape[1] != len(self.shares):
                raise ValueError(
                    f"`{name}` must be [B, {len(self.shares)}], one column for each share, got {list(scores.shape)}"
                )
        gains = removal_gain(most.double(), least.double().flip(dims=(1,)))
        self.accumulate(gains.mean(dim=1))
        self.accumulate_curves(gains)

    @property
    def curve_x(self) -> tuple[float, ...]:
        """Return the shares of the pixels that are removed."""
        return self.shares
