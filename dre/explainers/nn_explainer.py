"""NN-Explainer: a trained network gives the mask of a class in one pass."""

from typing import ClassVar

from dre.explainers.learned import DRE
from dre.models.estimator import Variant


class NNExplainer(DRE):
    """Return the mask of a generator that was trained with NN-Explainer's loss; the same cost as DRE.

    The published network gives the masks of all classes at once; this one makes the mask of one class.

    Args:
        classifier: The classifier that the checkpoint was trained to explain.
        checkpoint: Written by train.py with `--model.variant nn_explainer`.
        score: Not used at explanation time.

    Raises:
        ValueError: No checkpoint is given, or one of another variant or of another classifier.
        FileNotFoundError: There is no checkpoint at the path.
        UnsupportedError: The classifier has no taps.

    Source: Stalder et al. 2022, with DRE's generator.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from dre.models import Classifier, EstimatorSettings, MaskEstimator
        >>> maps = [nn.Conv2d(3, 4, 4, stride=4), *(nn.Conv2d(4, 4, 2, stride=2) for _ in range(3))]
        >>> network = nn.Sequential(*maps, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> classifier = Classifier.wrap(network, size=(64, 64))
        >>> settings = EstimatorSettings(classes=2, tap_channels=(4, 4, 4, 4), widths=(4, 4, 4), variant="nn_explainer")
        >>> estimator = MaskEstimator(settings).eval()
        >>> explainer = NNExplainer.from_estimator(classifier, estimator)  # or NNExplainer(classifier, checkpoint)
        >>> explainer(torch.rand(1, 3, 64, 64), torch.tensor([1])).shape
        torch.Size([1, 1, 64, 64])
    """

    variant: ClassVar[Variant] = "nn_explainer"
