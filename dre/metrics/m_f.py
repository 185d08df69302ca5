"""M_F: area under the score while pixels are kept in the order of their saliency."""

from collections.abc import Mapping
from typing import get_args

import torch
from torch import Tensor

from dre.checks import check_choice, check_count
from dre.metrics.base import ImageCurve, ImageMean
from dre.types import Blur, Fill, Scorer, Sweep

STEPS = 32
"""Shares of the pixels that are kept, 1/32 to 32/32."""

SMOOTHING = 0.05
"""Weight of the smoothed map in the ranking; our choice for what Fu et al. 2021 call "a small weight"."""

FEWER_STEPS = 11
"""Shares of the pixels under each other fill, our choice: 1/11 to 11/11."""

OTHER_FILLS: Mapping[str, Fill] = {
    "blur25": Blur(25.0),
    "image_mean": "image_mean",
    "black": "black",
    "noise": "noise",
}
"""Fills beside the blur of M_F under which maps are scored."""


def area_sweep(steps: int, fill: Fill = "blur", by: Scorer = "classifier") -> Sweep:
    """Return the perturbation sweep of M_F: 0/R..R/R of the best-ranked pixels over a fill.

    Args:
        steps: R.
        fill: What is shown where a pixel is not kept.
        by: Which classifier scores.

    Example:
        >>> area_sweep(2, "black").ratios
        (0.0, 0.5, 1.0)
    """
    ratios = tuple(step / steps for step in range(steps + 1))
    return Sweep(ratios, fill, smoothing=SMOOTHING, by=by)


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

    `sweep` names the masked images to score: 0/R..R/R of the pixels kept over the fill. Q_0 is part of it, but not of
    the sum. The min-max across explainers that the paper reports needs every explainer's value of the same image:
    `dre.statistics.normalise_across_explainers`.

    With fewer steps the value is higher, by about (Q_R - Q_0) / 2R: that is the same for all explainers of an image,
    so their differences can be compared with those of other steps, and their values cannot.

    Args:
        steps: Areas that are scored, R; there is one masked image more.
        fill: What is shown where a pixel is not kept.
        by: Which classifier scores: the one that is explained, or by `transfer` a second one that the evaluation is
            given. Images whose target the second one does not know are left out.

    Raises:
        ValueError: There is no step.

    Source: Fu et al. 2021 (32 steps over the blurred image); other fills and the second classifier are our choice.

    Example:
        >>> import torch
        >>> metric = Faithfulness()
        >>> metric.update(torch.arange(33)[None] / 32)
        >>> metric.compute()
        tensor(0.5156, dtype=torch.float64)
    """

    higher_is_better = True
    x_label = "share of pixels kept"
    sweep = area_sweep(STEPS)
    sweeps: Mapping[str, Sweep] = {"scores": sweep}

    def __init__(self, steps: int = STEPS, fill: Fill = "blur", by: Scorer = "classifier") -> None:
        check_count("steps", steps)
        check_choice("by", by, get_args(Scorer))
        super().__init__(steps + 1)
        self.sweep = area_sweep(steps, fill, by)
        self.sweeps = {"scores": self.sweep}

    def update(self, scores: Tensor) -> None:
        """Add a batch of sweep scores, [B, R + 1].

        Raises:
            ValueError: The shape differs.
        """
        _check_scores("scores", scores, self.sweep)
        self.accumulate(faithfulness(scores[:, 1:]))
        self.accumulate_curves(scores)

    @property
    def curve_x(self) -> tuple[float, ...]:
        """Return the shares of the pixels that are kept."""
        return self.sweep.ratios


class FaithfulnessFills(ImageMean):
    """Compute the mean over images of M_F's mean under five fills: in [0, 1] for probabilities, higher is better.

    The fills are the blur of M_F (its own 32 steps), a blur of 25 pixels, the mean colour of the image, black, and
    noise. The masked images are those of `Faithfulness` with the same fills and steps, and are scored once for both.

    Args:
        steps: Areas of the four other fills.

    Raises:
        ValueError: There is no step.

    Source: our choice. A map that is best under one fill alone may follow what that fill does to the classifier.

    Example:
        >>> import torch
        >>> metric = FaithfulnessFills(steps=1)
        >>> half = torch.tensor([[0.0, 0.5]])
        >>> metric.update(torch.ones(1, 33), blur25=half, image_mean=half, black=half, noise=half)
        >>> metric.compute()
        tensor(0.6000, dtype=torch.float64)
    """

    higher_is_better = True

    def __init__(self, steps: int = FEWER_STEPS) -> None:
        check_count("steps", steps)
        super().__init__()
        others = {name: area_sweep(steps, fill) for name, fill in OTHER_FILLS.items()}
        self.sweeps = {"blur": Faithfulness.sweep, **others}

    def update(self, blur: Tensor, blur25: Tensor, image_mean: Tensor, black: Tensor, noise: Tensor) -> None:
        """Add a batch of sweep scores, [B, 33] over the blur and [B, R + 1] over each other fill.

        Raises:
            ValueError: A shape differs.
        """
        scores = {"blur": blur, "blur25": blur25, "image_mean": image_mean, "black": black, "noise": noise}
        for name, read in scores.items():
            _check_scores(name, read, self.sweeps[name])
        values = [faithfulness(read[:, 1:].double()) for read in scores.values()]
        self.accumulate(torch.stack(values).mean(dim=0))


def _check_scores(name: str, scores: Tensor, sweep: Sweep) -> None:
    points = sweep.columns
    if scores.ndim != 2 or scores.shape[1] != points:
        raise ValueError(
            f"`{name}` must be [B, {points}], one column for each ratio of its sweep (Q_0 included), "
            f"got {list(scores.shape)}"
        )
