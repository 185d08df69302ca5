"""FastSHAP: a trained network gives the Shapley values of superpixels in one pass."""

from typing import ClassVar

from dre.explainers.learned import DRE
from dre.models.estimator import Variant


class FastSHAP(DRE):
    """Return Shapley values of superpixels, estimated by a network that was trained for it; the same cost as DRE.

    Superpixels are squares of 16 pixels, a little smaller where 16 does not divide the image; all pixels of one have
    its value. Values are signed. Over superpixels they add up to about the change of the score from the fill of
    training to the image: training sees to it, and nothing corrects the sum here, as that would take another pass.

    Args:
        classifier: The classifier that the checkpoint was trained to explain.
        checkpoint: Written by train.py with `--model.variant fast_shap`.
        score: Not used at explanation time.

    Raises:
        ValueError: No checkpoint is given, or one of another variant or of another classifier.
        FileNotFoundError: There is no checkpoint at the path.
        UnsupportedError: The classifier has no taps.

    Source: Jethani et al. 2022, with DRE's generator; whether a surrogate scored is said by the checkpoint's recipe.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from dre.models import Classifier, EstimatorSettings, MaskEstimator
        >>> maps = [nn.Conv2d(3, 4, 4, stride=4), *(nn.Conv2d(4, 4, 2, stride=2) for _ in range(3))]
        >>> network = nn.Sequential(*maps, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> classifier = Classifier.wrap(network, size=(64, 64))
        >>> settings = EstimatorSettings(classes=2, tap_channels=(4, 4, 4, 4), widths=(4, 4, 4), variant="fast_shap")
        >>> estimator = MaskEstimator(settings).eval()
        >>> explainer = FastSHAP.from_estimator(classifier, estimator)  # or FastSHAP(classifier, checkpoint)
        >>> explainer(torch.rand(1, 3, 64, 64), torch.tensor([1])).unique().numel()
        16
    """

    variant: ClassVar[Variant] = "fast_shap"
