"""Learned explainers: a trained generator reads the classifier's features and gives the mask in one pass."""

from typing import ClassVar, Self

import torch
from torch import Tensor

from dre.explainers.base import Explainer
from dre.models import Classifier, MaskEstimator, load_estimator
from dre.models.estimator import Variant
from dre.models.folding import fold_batch_norm
from dre.scoring import ScoreName


def fold_estimator(estimator: MaskEstimator, classifier: Classifier) -> MaskEstimator:
    """Fold the batch norms of a trained estimator: the same masks, in less time."""
    size, channels = classifier.preprocessing.size, classifier.preprocessing.channels
    with torch.no_grad():
        sample = torch.rand(1, channels, *size, generator=torch.Generator().manual_seed(0))
        features, logits = classifier.features(sample.to(classifier.mean))
    folded = fold_batch_norm(estimator, lambda network: network(features, logits.argmax(dim=1)))
    return folded.to(memory_format=torch.channels_last)


class DRE(Explainer):
    """Mask of a trained differentiated relevance estimator; one forward pass, the generator's share included.

    Args:
        classifier: The classifier that the checkpoint was trained to explain.
        checkpoint: Written by train.py.
        score: Not used at explanation time; training fixed what the mask explains.

    Source: paper 003 (Fu et al., TPAMI).
    """

    variant: ClassVar[Variant] = "dre"

    def __init__(
        self, classifier: Classifier, checkpoint: str | None = None, *, score: ScoreName = "probability"
    ) -> None:
        super().__init__(classifier, score=score)
        if checkpoint is None:
            raise ValueError(f"{type(self).__name__} needs a `checkpoint`; `python train.py` makes one under runs/")
        estimator = load_estimator(checkpoint, classifier, self.variant).to(classifier.mean.device)
        self.estimator = fold_estimator(estimator, classifier)

    @classmethod
    def from_estimator(cls, classifier: Classifier, estimator: MaskEstimator) -> Self:
        """Explain with an estimator that is at hand, for instance while it trains."""
        self = cls.__new__(cls)
        Explainer.__init__(self, classifier)
        self.estimator = estimator
        return self

    def explain(self, images: Tensor, targets: Tensor) -> Tensor:
        """See `Explainer.forward`."""
        features, _ = self.classifier.features(images)
        self.cost.forwards += len(images)
        return self.estimator.mask(features, targets, (images.shape[-2], images.shape[-1]))


class MGnet(DRE):
    """Mask of a trained mask generator with four-term loss, without a controller; the same cost.

    Args:
        classifier: The classifier that the checkpoint was trained to explain.
        checkpoint: Written by train.py with `--model.variant mgnet`.
        score: Not used at explanation time.

    Source: Dabkowski and Gal 2017, as paper 003 compares with it.
    """

    variant: ClassVar[Variant] = "mgnet"
