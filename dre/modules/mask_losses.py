"""Losses of mask training: what a step shows the classifier, one class for each variant."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor

from dre.engine.areas import mask_of_area, random_shares
from dre.engine.class_masks import ClassMaskTerms, class_mask_loss, other_classes
from dre.engine.objectives import (
    EQUATION_2,
    PUBLISHED_MGNET,
    Constraints,
    ObjectiveName,
    contrast_targets,
    fake_targets,
    objective,
    target_probability,
)
from dre.engine.perturbation import SweepEngine
from dre.engine.scoring import score
from dre.engine.shapley import ShapleySettings, any_classes, shapley_loss, shapley_subsets
from dre.images.fill import BLUR, TrainingFill, add_noise, blend, drawn_fills, mixture_fill
from dre.metrics.distribution import pearson_skewness
from dre.models import Classifier, MaskEstimator
from dre.models.estimator import Variant, show_superpixels
from dre.modules.loss_settings import LossSettings
from dre.modules.mask_sampling import tuned_mask
from dre.modules.surrogate import surrogate_file
from dre.types import Batch, Blur


@dataclass(frozen=True, slots=True)
class MaskStep:
    """Hold what a loss reads of one batch.

    Args:
        batch: Images [B, C, H, W] in [0, 1] and their keys.
        features: Maps of the classifier at strides 4, 8, 16 and 32.
        logits: Of the classifier, [B, K].
        draws: Source of randomness on the images' device.
    """

    batch: Batch
    features: list[Tensor]
    logits: Tensor
    draws: torch.Generator

    @property
    def images(self) -> Tensor:
        """Return the images [B, C, H, W]."""
        return self.batch["images"]

    @property
    def size(self) -> tuple[int, int]:
        """Return height and width of the images."""
        return self.images.shape[-2], self.images.shape[-1]


class MaskLoss(ABC):
    """Compute the loss of stage 2 for one variant; called with a `MaskStep`, it returns the loss and what is logged.

    Args:
        classifier: What is explained.
        estimator: What is trained.
        settings: Options; those of other variants must be at their defaults.
        engine: Forwards masked copies and counts them.

    Raises:
        ValueError: An option belongs to another variant.
    """

    variant: ClassVar[Variant]
    own: ClassVar[tuple[str, ...]]
    """Options of this variant that others refuse."""

    usual_fills: ClassVar[tuple[TrainingFill, ...]] = ()
    """Fills where none are named; without any, blur and coloured noise."""

    def __init__(
        self, classifier: Classifier, estimator: MaskEstimator, settings: LossSettings, engine: SweepEngine
    ) -> None:
        for field in fields(settings):
            value = getattr(settings, field.name)
            is_of_another = field.name not in self.own and any(field.name in kind.own for kind in LOSSES.values())
            if is_of_another and value != field.default:
                raise ValueError(
                    f"`{field.name}: {value}` is no option of the variant {self.variant}, whose own are "
                    f"{', '.join(self.own)}; leave it out"
                )
        self.classifier, self.estimator, self.settings, self.engine = classifier, estimator, settings, engine
        self.settled = self.settle()
        """Options whose defaults depend on the variant, as they are used."""

    @abstractmethod
    def __call__(self, step: MaskStep) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a batch, a scalar, and scalars to log by name."""

    @abstractmethod
    def settle(self) -> dict[str, Any]:
        """Read the variant's own options and return those whose defaults depend on the variant, as they are used."""

    def fill(self, step: MaskStep) -> Tensor:
        """Draw what is shown where an image is hidden, [B, C, H, W]."""
        fills = self.settings.fills or self.usual_fills
        if fills:
            return drawn_fills(step.images, fills, step.draws, self.classifier.mean)
        sigma = self.settings.blur_sigma
        blur = Blur(sigma, BLUR.radius if sigma == BLUR.sigma else None)
        return mixture_fill(step.images, self.settings.blur_share, step.draws, blur)

    def raw(self, features: list[Tensor], asked: Tensor) -> Tensor:
        """Return the raw scores for the classes that are asked for; stage 2 does not train the embeddings."""
        with torch.no_grad():
            filtered = self.estimator.filter(features[-1], asked)
        return self.estimator.raw(features, filtered)


class DRELoss(MaskLoss):
    """Keep the target's probability under the controller's mask, or under one of a random area."""

    variant: ClassVar[Variant] = "dre"
    own: ClassVar[tuple[str, ...]] = (
        *("mask_sampling", "contrast_share", "objective", "constraints", "image_noise"),
        "mgnet_fake_share",  # of the objective `published_mgnet`
    )
    usual_objective: ClassVar[ObjectiveName] = "cross_entropy"

    def settle(self) -> dict[str, Any]:
        """See `MaskLoss.settle`."""
        settings = self.settings
        self.objective: ObjectiveName = settings.objective or self.usual_objective
        usual = {"eq2": EQUATION_2, "published_mgnet": PUBLISHED_MGNET}
        self.constraints = settings.constraints or usual.get(self.objective, Constraints())
        self.fake_share = settings.mgnet_fake_share if self.objective == "published_mgnet" else 0.0
        return {"objective": self.objective, "constraints": self.constraints}

    def __call__(self, step: MaskStep) -> tuple[Tensor, dict[str, Tensor]]:
        """See `MaskLoss`."""
        images, targets = step.images, step.logits.argmax(dim=1)
        asked = fake_targets(targets, self.classifier.num_classes, self.fake_share, step.draws)
        if self.settings.contrast_share:
            asked = contrast_targets(step.logits, self.settings.contrast_share, step.draws)
        with torch.no_grad():
            background = self.fill(step)
        raw = self.raw(step.features, asked)
        scores = self.estimator.to_scores(raw)
        mask = self.estimator.enlarge(self._shown(raw, scores, step.draws), step.size)
        if self.settings.mask_sampling == "tuned":
            mask = tuned_mask(mask, step.batch, targets, self.engine)
        noisy = add_noise(images, self.settings.image_noise, step.draws)
        loss, shown = objective(
            self.objective, self.classifier, noisy, mask, background, targets, asked, self.constraints
        )
        return loss, self._logged(shown.detach(), scores.detach(), targets, asked)

    def _shown(self, raw: Tensor, scores: Tensor, draws: torch.Generator) -> Tensor:
        if self.settings.mask_sampling != "random_area":
            return scores
        return mask_of_area(raw, random_shares(raw, draws), self.settings.area_softness)

    @staticmethod
    def _logged(shown: Tensor, scores: Tensor, targets: Tensor, asked: Tensor) -> dict[str, Tensor]:
        logged = {"train/pearson_skewness": pearson_skewness(scores).mean(), "train/mask_mean": scores.mean()}
        kept = target_probability(shown, asked)[asked == targets]
        if len(kept):  # masks of other classes are not asked to keep the target
            logged["train/target_probability"] = kept.mean()
        return logged


class MGnetLoss(DRELoss):
    """Ask for the target or for a class that is not there, under the four terms of MGnet's published code."""

    variant: ClassVar[Variant] = "mgnet"
    own: ClassVar[tuple[str, ...]] = ("mgnet_fake_share", "objective", "constraints", "image_noise")
    usual_objective = "published_mgnet"


class FastSHAPLoss(MaskLoss):
    """Predict the score of images of which only a random subset of superpixels is shown.

    A surrogate scores them, or the classifier in its place, over a fill; it runs on all copies without gradients. A
    step shows each image `subsets` + 1 times, the last with everything hidden, and to a surrogate whole as well.

    Source: Jethani et al. 2022; without a surrogate, our choice.
    """

    variant: ClassVar[Variant] = "fast_shap"
    own: ClassVar[tuple[str, ...]] = ("fast_shap",)
    usual_fills = ("dataset_mean",)

    def settle(self) -> dict[str, Any]:
        """See `MaskLoss.settle`."""
        self.options = self.settings.fast_shap or ShapleySettings()
        self.surrogate = None if self.options.surrogate is None else self._surrogate(self.options.surrogate)
        return {"fast_shap": self.options}

    def _surrogate(self, path: str) -> Classifier:
        if self.settings.fills and tuple(self.settings.fills) != self.usual_fills:
            raise ValueError(
                f"a surrogate knows hidden superpixels as the dataset mean, `fills` are "
                f"{', '.join(self.settings.fills)}; leave them out, or the surrogate"
            )
        surrogate = Classifier(weights=str(surrogate_file(path)))
        if surrogate.num_classes != self.classifier.num_classes:
            raise ValueError(
                f"the surrogate {path} has {surrogate.num_classes} classes, {self.classifier.name} has "
                f"{self.classifier.num_classes}; train one with the weights of this classifier"
            )
        return surrogate

    def __call__(self, step: MaskStep) -> tuple[Tensor, dict[str, Tensor]]:
        """See `MaskLoss`."""
        targets = step.logits.argmax(dim=1)
        asked = any_classes(targets, self.classifier.num_classes, self.options.uniform_share, step.draws)
        values = self.estimator.to_scores(self.raw(step.features, asked))
        subsets = shapley_subsets(len(values), self.options.subsets, values[0].numel(), step.draws, values.device)
        with torch.no_grad():
            scores = self._scores(step, subsets, asked, values.shape[-2:])
            whole = score(step.logits, asked, self.options.score) if self.surrogate is None else scores[:, -2]
        flat, empty = values.flatten(1), scores[:, -1]
        hidden = scores[:, : subsets.shape[1]]
        loss = shapley_loss(flat, subsets, hidden, whole, empty, self.options.efficiency)
        gap = whole - empty - flat.detach().sum(dim=1)
        return loss, {"train/efficiency_gap": gap.abs().mean(), "train/score_change": (whole - empty).abs().mean()}

    def _scores(self, step: MaskStep, subsets: Tensor, asked: Tensor, grid: torch.Size) -> Tensor:
        """Return the score of each image's class under its subsets, and last under none: [B, n + 1].

        A surrogate scores the whole images too, before the last: [B, n + 2].
        """
        whole = [] if self.surrogate is None else [torch.ones_like(subsets[:, :1])]
        shown = torch.cat([subsets, *whole, torch.zeros_like(subsets[:, :1])], dim=1)
        copies = shown.shape[1]
        masks = show_superpixels(shown.view(-1, 1, *grid), step.size)
        images, fill = (one.repeat_interleave(copies, dim=0) for one in (step.images, self.fill(step)))
        scorer = self.classifier if self.surrogate is None else self.surrogate.to(images.device)
        logits = scorer(blend(images, masks, fill))
        return score(logits, asked.repeat_interleave(copies), self.options.score).view(-1, copies)


class NNExplainerLoss(MaskLoss):
    """Keep the target under its mask and nothing under the complement, with bounded areas and smooth edges.

    A mask is made for one class at a time, so the non-target mask is the highest of a few other classes, not of all.

    Source: Stalder et al. 2022; the few classes are our choice.
    """

    variant: ClassVar[Variant] = "nn_explainer"
    own: ClassVar[tuple[str, ...]] = ("nn_explainer", "image_noise")
    usual_fills = ("dataset_mean",)

    def settle(self) -> dict[str, Any]:
        """See `MaskLoss.settle`."""
        self.terms = self.settings.nn_explainer or ClassMaskTerms()
        return {"nn_explainer": self.terms}

    def __call__(self, step: MaskStep) -> tuple[Tensor, dict[str, Tensor]]:
        """See `MaskLoss`."""
        targets = step.logits.argmax(dim=1)
        others = min(self.terms.others, step.logits.shape[1] - 1)
        asked = torch.cat([targets[None], other_classes(step.logits, others, step.draws)])
        repeated = [one.repeat(len(asked), 1, 1, 1) for one in step.features]
        scores = self.estimator.to_scores(self.raw(repeated, asked.flatten()))
        masks = self.estimator.enlarge(scores, step.size).view(*asked.shape, 1, *step.size)
        mask, other = masks[0], masks[1:].amax(dim=0)
        noisy, fill = add_noise(step.images, self.settings.image_noise, step.draws), self.fill(step)
        kept = self.classifier(blend(noisy, mask, fill))
        hidden = self.classifier(blend(noisy, 1 - mask, fill))
        loss = class_mask_loss(kept, hidden, targets, mask, other, self.terms)
        return loss, {
            "train/target_probability": target_probability(kept.detach(), targets).mean(),
            "train/pearson_skewness": pearson_skewness(mask.detach()).mean(),
            "train/mask_mean": mask.detach().mean(),
            "train/other_mask_mean": other.detach().mean(),
        }


LOSSES: dict[Variant, type[MaskLoss]] = {
    kind.variant: kind for kind in (DRELoss, MGnetLoss, FastSHAPLoss, NNExplainerLoss)
}
