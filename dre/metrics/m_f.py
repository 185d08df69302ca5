"""M_F: area under the score while pixels are kept in the order of their saliency."""

from collections.abc import Mapping

from torch import Tensor

from dre.metrics.base import ImageCurve
from dre.types import Sweep

STEPS = 32
"""Shares of the pixels that are kept, 1/32 to 32/32."""

SMOOTHING = 0.05
"""Weight of the smoothed map in the ranking; our choice for what Fu et al. 2021 call "a small weight"."""


def faithfulness(scores: Tensor) -> Tensor:
    """Return M_F, the area under the score as more of the best-ranked pixels are kept: [B], in the range of the scores.

    It is the right Riemann sum with Delta = 1 / R, the mean of Q_1..Q_R. Higher is better.

    Args:
        scores: [B, R], Q_1..Q_R, the score of the image of which the best i / R of the pixels are kept.

    Source: Fu et al. 2021, the definition of M_F; here before the factor 100 and before the min-max across explainers.

    Example:
        >>> import torch
        >>> faithfulness(torch.tensor([[0.25, 0.5, 0.75, 1.0]]))
        tensor([0.6250])
    """
    return scores.mean(dim=1)


class Faithfulness(ImageCurve):
    """Compute the mean over images of M_F: raw, in [0, 1] for probabilities, higher is better.

    Its curve is the mean score at each share of pixels.

    `sweep` names the masked images to score: 0/32..32/32 of the pixels kept over the blurred image. Q_0 is part of
    it, but not of the sum. The min-max across explainers that the paper reports needs every explainer's value of the
    same image: `dre.statistics.normalise_across_explainers`.

    Source: Fu et al. 2021.

    Example:
        >>> import torch
        >>> metric = Faithfulness()
        >>> metric.update(torch.arange(33)[None] / 32)
        >>> metric.compute()
        tensor(0.5156, dtype=torch.float64)
    """

    higher_is_better = True
    x_label = "share of pixels kept"
    sweep = Sweep(ratios=tuple(step / STEPS for step in range(STEPS + 1)), smoothing=SMOOTHING)
    sweeps: Mapping[str, Sweep] = {"scores": sweep}

    def __init__(self) -> None:
        super().__init__(len(self.sweep.ratios))

    def update(self, scores: Tensor) -> None:
        """Add a batch of sweep scores, [B, 33].

        Raises:
            ValueError: The shape differs.
        """
        points = len(self.sweep.ratios)
        if scores.ndim != 2 or scores.shape[1] != points:
            raise ValueError(
                f"`scores` must be [B, {points}], one column for each ratio of Faithfulness.sweep (Q_0 included), "
                f"got {list(scores.shape)}"
            )
        self.accumulate(faithfulness(scores[:, 1:]))
        self.accumulate_curves(scores)

    @property
    def curve_x(self) -> tuple[float, ...]:
        """Return the shares of the pixels that are kept."""
        return self.sweep.ratios
