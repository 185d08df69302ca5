"""Learned explainers DRE, MGnet and DRE+: a trained generator gives the mask in one forward pass.

DRE+ refines the mask of DRE.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal, Self, get_args

import torch
from torch import Tensor

from dre.checks import check_choice
from dre.engine.chunks import Chunk
from dre.engine.perturbation import SweepEngine, rank
from dre.engine.scoring import score
from dre.explainers.base import Explainer
from dre.explainers.controlled import ControlledExplainer  # noqa: F401  # its path until 0.3
from dre.images.maps import scale_in_order
from dre.models import Classifier, MaskEstimator, load_estimator
from dre.models.estimator import Variant
from dre.models.folding import fold_batch_norm
from dre.models.hooks import in_eval_mode
from dre.models.packed import shipped
from dre.models.survey import STRIDES
from dre.types import ScoreName, Sweep

Refinement = Literal["self", "mgnet"]

REFINEMENT_STEPS = 32
"""Masked copies of the image that DRE+ scores: Delta = 1/32, as in M_F."""

LEAST_GAIN = 2.0**-12
"""Least weight of DRE+, where the published code adds 1e-15, which float16 maps of the saliency cache round to ties."""


def fold_estimator(estimator: MaskEstimator, classifier: Classifier) -> MaskEstimator:
    """Fold the batch norms of a trained estimator: the same masks, in less time."""
    with torch.no_grad(), in_eval_mode(classifier):
        features, logits = classifier.features(classifier.sample(), estimator.taps)
    folded = fold_batch_norm(estimator, lambda network: network(features, logits.argmax(dim=1)))
    return folded.to(memory_format=torch.channels_last)


def masks(
    classifier: Classifier, estimators: Sequence[MaskEstimator], images: Tensor, targets: Tensor
) -> tuple[list[Tensor], Tensor]:
    """Return the mask [B, 1, H, W] of each estimator, each from its own taps, and the logits, from one pass.

    Raises:
        ValueError: The images are so small that the finest map is a single place.
    """
    taps = [estimator.taps or classifier.taps for estimator in estimators]
    features, logits = classifier.features(images, [tap for own in taps for tap in own])
    size, found = (images.shape[-2], images.shape[-1]), []
    if max(size) <= STRIDES[0]:
        raise ValueError(
            f"a trained generator reads images of more than {STRIDES[0]} pixels a side, got {size[0]} x {size[1]}; "
            "enlarge them"
        )
    for place, estimator in enumerate(estimators):
        found.append(estimator.mask(features[len(STRIDES) * place :][: len(STRIDES)], targets, size))
    return found, logits


class DRE(Explainer):
    """Return the mask of a trained differentiated relevance estimator; one forward pass of classifier and generator.

    Args:
        classifier: The classifier that the checkpoint was trained to explain.
        checkpoint: Written by train.py, a file or the directory of a run. "package" is the one that ships with `dre`,
            for EfficientNet-Lite0 with the weights of its package, and is taken for that network where none is given.
        score: Not used at explanation time; training fixed what the mask explains.

    Raises:
        ValueError: No checkpoint is given and none ships, or one that explains another classifier.
        FileNotFoundError: There is no checkpoint at the path.
        UnsupportedError: The classifier has no taps.

    Source: Fu et al. 2021, section 3.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from dre.models import Classifier, EstimatorSettings, MaskEstimator
        >>> maps = [nn.Conv2d(3, 4, 4, stride=4), *(nn.Conv2d(4, 4, 2, stride=2) for _ in range(3))]
        >>> network = nn.Sequential(*maps, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> classifier = Classifier.wrap(network, size=(64, 64))
        >>> settings = EstimatorSettings(classes=2, tap_channels=(4, 4, 4, 4), widths=(4, 4, 4))
        >>> estimator = MaskEstimator(settings).eval()
        >>> explainer = DRE.from_estimator(classifier, estimator)  # or DRE(classifier, checkpoint)
        >>> explainer(torch.rand(1, 3, 64, 64), torch.tensor([1])).shape
        torch.Size([1, 1, 64, 64])
    """

    variant: ClassVar[Variant] = "dre"

    def __init__(
        self, classifier: Classifier, checkpoint: str | None = None, *, score: ScoreName = "probability"
    ) -> None:
        super().__init__(classifier, score=score)
        is_left_out = checkpoint is None and self.variant == "dre"
        given = shipped(classifier) if is_left_out else checkpoint
        if given is None:
            raise ValueError(f"{type(self).__name__} needs a `checkpoint`; `python train.py` makes one under runs/")
        estimator = load_estimator(given, classifier, self.variant).to(classifier.mean.device)
        self.estimator = fold_estimator(estimator, classifier)

    @classmethod
    def from_estimator(cls, classifier: Classifier, estimator: MaskEstimator) -> Self:
        """Build the explainer from an estimator in memory, for instance while it trains."""
        self = cls.__new__(cls)
        Explainer.__init__(self, classifier)
        self.estimator = estimator
        return self

    @classmethod
    def require(cls, classifier: Classifier) -> None:
        """Refuse a classifier whose features cannot be read.

        Raises:
            ValueError: No feature maps at strides 4, 8, 16 and 32 are known.
        """
        if not classifier.taps:
            raise ValueError(
                f"{cls.__name__} reads feature maps at strides 4, 8, 16 and 32, and {classifier.name} has none that "
                "could be found; name four modules with `taps`"
            )

    def explain(self, images: Tensor, targets: Tensor) -> Tensor:
        """See `Explainer.forward`."""
        mask, _ = self.chunk.map(self._look, images, targets, backward=False)
        return mask

    def _look(self, images: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
        """Return masks and logits of one chunk of images."""
        (mask,), logits = masks(self.classifier, [self.estimator], images, targets)
        self.cost.forwards += len(images)
        return mask, logits


class MGnet(DRE):
    """Return the mask of a generator that was trained with MGnet's four-term loss; the same cost as DRE.

    Args:
        classifier: The classifier that the checkpoint was trained to explain.
        checkpoint: Written by train.py with `--model.variant mgnet`.
        score: Not used at explanation time.

    Raises:
        ValueError: No checkpoint is given, or one of another variant or of another classifier.
        FileNotFoundError: There is no checkpoint at the path.
        UnsupportedError: The classifier has no taps.

    Source: Dabkowski and Gal 2017, in the form in which Fu et al. 2021 compare with it.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from dre.models import Classifier, EstimatorSettings, MaskEstimator
        >>> maps = [nn.Conv2d(3, 4, 4, stride=4), *(nn.Conv2d(4, 4, 2, stride=2) for _ in range(3))]
        >>> network = nn.Sequential(*maps, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> classifier = Classifier.wrap(network, size=(64, 64))
        >>> settings = EstimatorSettings(classes=2, tap_channels=(4, 4, 4, 4), widths=(4, 4, 4), variant="mgnet")
        >>> estimator = MaskEstimator(settings).eval()
        >>> explainer = MGnet.from_estimator(classifier, estimator)  # or MGnet(classifier, checkpoint)
        >>> explainer(torch.rand(1, 3, 64, 64), torch.tensor([1])).shape
        torch.Size([1, 1, 64, 64])
    """

    variant: ClassVar[Variant] = "mgnet"


def remaining_gain(scores: Tensor, ranks: Tensor) -> Tensor:
    """Return how much the score still grows once all pixels before this one are shown: [B, H*W], from 1 to 2^-12.

    Scores are made monotone by their running maximum and interpolated linearly between the copies. An image whose
    score never grows has weight 1 everywhere. At zero the last pixels of the ranking would tie: see `LEAST_GAIN`.

    Args:
        scores: [B, R + 1] of the copies that show the first 0, 1/R, ..., 1 of the pixels.
        ranks: [B, H*W], 0 for the first pixel shown.

    Source: Fu et al. 2021, W = Q_max - Q; divided by its largest value, as in the published code.
    """
    best = scores.cummax(dim=1).values
    gain = best[:, -1:] - best[:, :1]
    place = ranks / ranks.shape[1] * (scores.shape[1] - 1)
    before = place.long().clamp_max(scores.shape[1] - 2)
    reached = torch.lerp(best.gather(1, before), best.gather(1, before + 1), (place - before).to(best))
    return torch.where(gain > 0, (best[:, -1:] - reached) / gain.where(gain > 0, 1.0), 1.0).clamp_min(LEAST_GAIN)


class DREPlus(DRE):
    """Refine DRE's mask by what its own ranking does to the score, or by MGnet's mask.

    `self` weights each pixel by the score that is still to be gained when the pixels before it are shown on the blurred
    image: 33 forward passes. The weights fall along DRE's ranking, so the ranking stays and M_E with it; M_F changes by
    its smoothing alone. `mgnet` multiplies both masks: one forward pass for both.

    Args:
        classifier: The classifier that the checkpoint was trained to explain.
        checkpoint: Of DRE, written by train.py.
        by: What refines the mask.
        mgnet_checkpoint: Of MGnet, for `by="mgnet"` alone.
        score: Which output is swept, for `by="self"` alone.
        chunk: Most masked images in one pass; chosen by device when not given.

    Raises:
        ValueError: No checkpoint is given and none ships, one explains another classifier, or `mgnet_checkpoint` is
            given or left out against `by`.
        FileNotFoundError: There is no checkpoint at the path.
        UnsupportedError: The classifier has no taps.

    Source: Fu et al. 2021, DRE+.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from dre.models import Classifier, EstimatorSettings, MaskEstimator
        >>> maps = [nn.Conv2d(3, 4, 4, stride=4), *(nn.Conv2d(4, 4, 2, stride=2) for _ in range(3))]
        >>> network = nn.Sequential(*maps, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> classifier = Classifier.wrap(network, size=(64, 64))
        >>> settings = EstimatorSettings(classes=2, tap_channels=(4, 4, 4, 4), widths=(4, 4, 4))
        >>> estimator = MaskEstimator(settings).eval()
        >>> explainer = DREPlus.from_estimator(classifier, estimator)  # or DREPlus(classifier, checkpoint)
        >>> explainer(torch.rand(1, 3, 64, 64), torch.tensor([1])).shape
        torch.Size([1, 1, 64, 64])
    """

    def __init__(
        self,
        classifier: Classifier,
        checkpoint: str | None = None,
        *,
        by: Refinement = "self",
        mgnet_checkpoint: str | None = None,
        score: ScoreName = "probability",
        chunk: int | None = None,
    ) -> None:
        shared = Chunk(chunk)  # checked first, because a checkpoint takes long to load
        check_choice("by", by, get_args(Refinement))
        if (by == "mgnet") != (mgnet_checkpoint is not None):
            raise ValueError(f"`mgnet_checkpoint` belongs to by='mgnet' alone, got {mgnet_checkpoint!r} with by={by!r}")
        super().__init__(classifier, checkpoint, score=score)
        self.chunk = shared
        partner = None if mgnet_checkpoint is None else MGnet(classifier, mgnet_checkpoint).estimator
        self._refine_by(partner)

    @classmethod
    def from_estimator(
        cls, classifier: Classifier, estimator: MaskEstimator, partner: MaskEstimator | None = None
    ) -> Self:
        """Build the explainer from estimators in memory: refined by MGnet's when that is given, by itself otherwise."""
        self = super().from_estimator(classifier, estimator)
        self._refine_by(partner)
        return self

    def _refine_by(self, partner: MaskEstimator | None) -> None:
        self.partner = partner
        self.engine = SweepEngine(self.classifier, score=self.score, chunk=self.chunk)

    def explain(self, images: Tensor, targets: Tensor) -> Tensor:
        """See `Explainer.forward`."""
        mask, logits = self.chunk.map(self._look, images, targets, backward=False)
        if self.partner is not None:
            return mask
        fixed = mask.detach().float()
        ranks = rank(fixed)
        return scale_in_order(fixed, self._gain(images, targets, fixed, ranks, logits.detach()), ranks)

    def _look(self, images: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
        """Return masks, times those of the partner if there is one, and logits; both read the same pass."""
        estimators = [self.estimator] if self.partner is None else [self.estimator, self.partner]
        (mask, *others), logits = masks(self.classifier, estimators, images, targets)
        self.cost.forwards += len(images)
        for other in others:
            mask = mask * other
        return mask, logits

    def _gain(self, images: Tensor, targets: Tensor, mask: Tensor, ranks: Tensor, logits: Tensor) -> Tensor:
        """Return the weights of the pixels; the copy that shows everything is the image, whose logits are known."""
        before = self.engine.forwards
        partly = Sweep(tuple(step / REFINEMENT_STEPS for step in range(REFINEMENT_STEPS)))
        (scores,) = self.engine.run(images, targets, mask, [partly])
        self.cost.forwards += self.engine.forwards - before
        whole = score(logits, targets, self.score)[:, None]
        return remaining_gain(torch.cat([scores, whole], dim=1), ranks)
