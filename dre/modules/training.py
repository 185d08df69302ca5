"""Mask training: train a learned explainer against a frozen classifier, class embeddings first, then the generator.

The module has more than 300 lines because one class holds both stages and documents every option of the command line.
"""

import hashlib
import math
import os
from dataclasses import fields
from typing import Any, Literal

import torch
from pytorch_lightning.strategies import ParallelStrategy
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor

from dre.checks import check_shares
from dre.engine.class_masks import ClassMaskTerms
from dre.engine.objectives import Constraints, ObjectiveName, embedding_bce, embedding_loss, fake_targets
from dre.engine.perturbation import SweepEngine
from dre.engine.shapley import ShapleySettings
from dre.images.fill import BLUR, TrainingFill
from dre.metrics import Explainability, Faithfulness, PearsonSkewness
from dre.models import Classifier, EstimatorSettings, MaskEstimator, cell_widths
from dre.models.checkpoints import plain_recipe
from dre.models.estimator import Variant
from dre.models.generator import Evidence, UpsampleName
from dre.modules.checkpointed import CheckpointedTraining
from dre.modules.compiling import compile_in_place
from dre.modules.loss_settings import LossSettings
from dre.modules.mask_losses import LOSSES, MaskStep
from dre.modules.mask_sampling import MaskSampling
from dre.modules.schedules import ScheduleName, StageSchedules, refuse_broken_loss, refuse_half_weights
from dre.renamed import accepts_old_options
from dre.types import Batch

OPTIONS_OF_LOSS = frozenset(LossSettings.__dataclass_fields__)
"""Options that `loss` holds, which a training names as well."""


@accepts_old_options
class MaskTraining(CheckpointedTraining):
    """Train a mask generator to explain one classifier; no label is read, the target is the classifier's own argmax.

    Args:
        classifier: What is explained; frozen, and never part of a checkpoint.
        variant: `dre` has the skew controller, `mgnet` MGnet's head, `fast_shap` a value for each superpixel,
            `nn_explainer` a sigmoid; each has its own loss, and some have options of their own.
        eta: Slope of the controller.
        h: Exponent of the controller.
        monotone: Off, the controller squares the standardised scores: the ablation of the paper's figure 4.
        widths: Channels of the cells at strides 4, 8 and 16; the paper's for its classifiers, else half of the taps'.
        upsample: Pixel shuffle (published code) or transposed convolution (the paper's text).
        filter_gain: 0 is the paper's spatial filter; above, the filter reads the standardised resemblance times this.
        evidence: Add the class's own activation map to the raw scores, so that training starts from it; `balanced`
            standardises both parts over each image first, so that the map cannot be outgrown.
        residual_weight: Of the trained part beside `balanced` evidence, in [0, 1]; learnt when not given.
        mask_sampling: Which masks training shows: those of the `controller`, as in the paper; of a `random_area`,
            which trains the ranking at every share of kept pixels; or `tuned`, weighted as by DRE+ (nine more passes
            an image, an experiment of the paper's appendix C). Explanations always come from the controller.
        area_softness: Edge of masks of a random area, in standard deviations of the raw scores.
        embedding_start: `random`, or `head`: each class starts with the classifier's own weights for it, which needs
            a linear head on the last tap.
        embedding_epochs: Epochs of stage 1, which trains class embeddings alone; `Trainer.max_epochs` counts both.
        embedding_loss: `eq4` of the paper, or the binary cross-entropy of MGnet's code.
        embedding_lr: Learning rate of stage 1.
        embedding_decay: Weight decay of stage 1.
        fake_share: Share of stage-1 images that are shown another class than their target.
        lr: Learning rate of stage 2, for Adam.
        schedule: `step` multiplies the learning rate by `lr_factor` every `lr_epochs`, `cosine` lowers it to zero,
            `constant` leaves it.
        lr_epochs: Epochs of stage 2 between steps.
        lr_factor: What a step multiplies the learning rate with.
        weight_decay: Of the generator.
        blur_share: Share of images blended with their blurred copy; the others get coloured noise.
        fills: What images are blended with instead, drawn for each image from these names; `dataset_mean` alone for
            `fast_shap` and `nn_explainer`, as published, unless others are named.
        contrast_share: Share of images for which DRE is asked for another class, the runner-up or any, and must keep
            what speaks for it against the predicted one.
        blur_sigma: Standard deviation of that blur in pixels: 10 as the published code reads the paper's "variance of
            10"; to the letter it is 3.16.
        image_noise: Standard deviation of the noise that is added to an image before it is masked; 0.015 in the
            published code, whose 0.03 is in [-1, 1] units.
        objective: Loss of stage 2; by default `cross_entropy` for DRE and `published_mgnet` for MGnet.
        constraints: Weights of the terms of the loss; by default those that belong to the objective.
        mgnet_fake_share: Share of stage-2 images for which `published_mgnet` asks for a class that is not there.
        fast_shap: Subsets, classes and penalty of the variant `fast_shap`.
        nn_explainer: Terms of the loss of the variant `nn_explainer`.
        sync_batch_norm: On several GPUs, share the statistics of the generator's batch norms between them.
        compiled: Let torch.compile build the generator; the classifier, whose maps are read by hooks, runs as it is.

    Raises:
        ValueError: The classifier has one class or no taps, or an option is out of its range or of another variant.

    Source: Fu et al. 2021, section 3 and implementation details.

    Example:
        >>> from torch import nn
        >>> from dre.models import Classifier
        >>> maps = [nn.Conv2d(3, 4, 4, stride=4), *(nn.Conv2d(4, 4, 2, stride=2) for _ in range(3))]
        >>> network = nn.Sequential(*maps, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> classifier = Classifier.wrap(network, size=(64, 64))
        >>> training = MaskTraining(classifier, widths=[4, 4, 4])  # then Trainer().fit(training, data)
        >>> training.estimator.settings.variant
        'dre'
    """

    def __init__(
        self,
        classifier: Classifier,
        variant: Variant = "dre",
        eta: float = 1.5,
        h: float = 2.5,
        monotone: bool = True,
        widths: list[int] | None = None,
        upsample: UpsampleName = "pixelshuffle",
        filter_gain: float = 0.0,
        evidence: Evidence = False,
        residual_weight: float | None = None,
        mask_sampling: MaskSampling = "controller",
        area_softness: float = 0.2,
        embedding_start: Literal["random", "head"] = "random",
        embedding_epochs: int = 2,
        embedding_loss: Literal["eq4", "bce"] = "eq4",
        embedding_lr: float = 1e-2,
        embedding_decay: float = 0.0,
        fake_share: float = 0.5,
        lr: float = 1e-2,
        schedule: ScheduleName = "step",
        lr_epochs: int = 3,
        lr_factor: float = 0.5,
        weight_decay: float = 0.0,
        blur_share: float = 0.5,
        fills: list[TrainingFill] | None = None,
        contrast_share: float = 0.0,
        blur_sigma: float = BLUR.sigma,
        image_noise: float = 0.0,
        objective: ObjectiveName | None = None,
        constraints: Constraints | None = None,
        mgnet_fake_share: float = 0.3,
        fast_shap: ShapleySettings | None = None,
        nn_explainer: ClassMaskTerms | None = None,
        sync_batch_norm: bool = True,
        compiled: bool = False,
    ) -> None:
        options = {name: value for name, value in locals().items() if name not in ("self", "classifier", "__class__")}
        super().__init__()
        check_shares(fake_share=fake_share)
        shown = LossSettings(**{field.name: options[field.name] for field in fields(LossSettings)})
        if classifier.num_classes < 2:
            raise ValueError(f"{classifier.name} has one class, and masks are trained against others; it needs two")
        if not classifier.taps:
            raise ValueError(f"{classifier.name} has no maps at strides 4, 8, 16 and 32: name four modules with `taps`")
        channels = tuple(tap.channels for tap in classifier.taps)
        settings = EstimatorSettings(
            classes=classifier.num_classes,
            tap_channels=channels,
            widths=tuple(widths) if widths else cell_widths(classifier.name, channels),
            variant=variant,
            eta=eta,
            h=h,
            monotone=monotone,
            upsample=upsample,
            filter_gain=filter_gain,
            evidence=evidence,
            residual_weight=residual_weight,
        )
        self.classifier = classifier
        self.estimator = MaskEstimator(settings).to(memory_format=torch.channels_last)
        if embedding_start == "head":
            self.estimator.filter.embedding.weight.data.copy_(classifier.head_weights())
        self.rates = StageSchedules(
            embedding_epochs, embedding_lr, embedding_decay, lr, weight_decay, schedule, lr_epochs, lr_factor
        )
        self.embedding_epochs, self.embedding_loss, self.fake_share = embedding_epochs, embedding_loss, fake_share
        self.sync_batch_norm, self.compiled = sync_batch_norm, compiled
        self.sweeps = SweepEngine(classifier)
        self.loss = LOSSES[variant](classifier, self.estimator, shown, self.sweeps)
        self.recipe = plain_recipe(options | {"widths": settings.widths} | self.loss.settled)
        self.faithfulness, self.explainability = Faithfulness(), Explainability()
        self.skewness = PearsonSkewness()
        self.strict_loading = False  # the classifier is not in the checkpoint; on_load_checkpoint checks the rest

    def __getattr__(self, name: str) -> Any:
        """Return an option of the loss by the name that it had as an attribute until 0.3."""
        loss = self.__dict__.get("loss")
        if loss is None or name not in OPTIONS_OF_LOSS:
            return super().__getattr__(name)
        return getattr(loss, name) if hasattr(loss, name) else getattr(loss.settings, name)

    @property
    def trains_embeddings(self) -> bool:
        """Return whether the present epoch belongs to stage 1."""
        return self.current_epoch < self.embedding_epochs

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of one batch, a scalar: of the embeddings in stage 1, of the generator in stage 2.

        Raises:
            FloatingPointError: The loss is NaN or infinite.
        """
        with torch.no_grad():
            features, logits = self.classifier.features(batch["images"])
        step = self._embedding_step if self.trains_embeddings else self._mask_step
        loss = step(batch, features, logits, self._draws(batch_idx))
        group, option = (0, "embedding_lr") if self.trains_embeddings else (1, "lr")
        refuse_broken_loss(loss, self, group, option)
        return loss + self._touch_idle_parameters()

    def _embedding_step(self, batch: Batch, features: list[Tensor], logits: Tensor, draws: torch.Generator) -> Tensor:
        targets = logits.argmax(dim=1)
        asked = fake_targets(targets, self.classifier.num_classes, self.fake_share, draws)
        resemblance = self.estimator.filter.resemblance(features[-1], asked)
        criterion = embedding_loss if self.embedding_loss == "eq4" else embedding_bce
        loss = criterion(resemblance, asked == targets)
        self.log("train/embedding_loss", loss, prog_bar=True)
        return loss

    def _mask_step(self, batch: Batch, features: list[Tensor], logits: Tensor, draws: torch.Generator) -> Tensor:
        loss, logged = self.loss(MaskStep(batch, features, logits, draws))
        self.log("train/loss", loss, prog_bar=True)
        for name, value in logged.items():
            self.log(name, value)
        return loss

    def _draws(self, batch_idx: int) -> torch.Generator:
        """Seed this batch's draws by run, place and rank, so that a resumed run draws what the unbroken one would."""
        run = int(os.environ.get("PL_GLOBAL_SEED", "0"))
        place = f"{run} {self.current_epoch} {batch_idx} {self.global_rank}"
        seed = hashlib.sha256(place.encode()).digest()[:7]
        return torch.Generator(self.device).manual_seed(int.from_bytes(seed, "little"))

    def _touch_idle_parameters(self) -> Tensor | float:
        """Give every trainable parameter a gradient, as DDP expects; it is zero for the stage that does not train."""
        if not isinstance(self.trainer.strategy, ParallelStrategy):
            return 0.0
        idle = self.estimator.generator if self.trains_embeddings else self.estimator.filter
        total = torch.stack([parameter.sum() for parameter in idle.parameters()]).sum()
        return 0.0 * total

    def on_fit_start(self) -> None:
        """Check that the generator will train, and compile it if that is asked for.

        Raises:
            ValueError: All epochs are of stage 1, or the precision keeps the weights themselves in half.
        """
        refuse_half_weights(self.trainer)
        epochs = self.trainer.max_epochs
        if epochs is not None and 0 <= epochs <= self.embedding_epochs:
            raise ValueError(
                f"{epochs} epochs are all of stage 1 ({self.embedding_epochs} embedding epochs): the generator would "
                "not train; raise --trainer.max_epochs or lower --model.embedding_epochs"
            )
        if self.compiled:
            compile_in_place(self.estimator.generator, self.device)

    def configure_model(self) -> None:
        """Share the statistics of the generator's batch norms over GPUs; the classifier is left alone."""
        if self.sync_batch_norm and self.trainer.world_size > 1 and self.trainer.strategy.root_device.type == "cuda":
            convert = torch.nn.SyncBatchNorm.convert_sync_batchnorm
            self.estimator = convert(self.estimator)  # type: ignore[no-untyped-call]

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Clear the optimiser's state of stage 1 when stage 2 starts."""
        if batch_idx == 0 and self.current_epoch == self.embedding_epochs:
            for optimizer in self.trainer.optimizers:
                optimizer.state.clear()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Build Adam with one group for each stage; a group's learning rate is zero in the other's epochs."""
        groups = self.rates.groups(self.estimator.filter.parameters(), self.estimator.generator.parameters())
        optimizer = torch.optim.Adam(groups)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self.rates.factors(self.trainer.max_epochs or 0))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "epoch"}}

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add a batch's masks to the raw M_F, M_E and skewness of validation."""
        images = batch["images"]
        features, logits = self.classifier.features(images)
        targets = logits.argmax(dim=1)
        mask = self.estimator.mask(features, targets, (images.shape[-2], images.shape[-1]))
        (scores,) = self.sweeps.run(images, targets, mask, [Faithfulness.sweep])
        self.faithfulness.update(scores)
        self.skewness.update(mask)
        if "objects" in batch:
            self.explainability.update(mask, batch["objects"])

    def on_validation_epoch_end(self) -> None:
        """Log the values, which every rank computes from the merged sums; a metric without images is not logged."""
        metrics = {
            "faithfulness": self.faithfulness,
            "explainability": self.explainability,
            "pearson_skewness": self.skewness,
        }
        for name, metric in metrics.items():
            value = float(metric.compute())
            metric.reset()
            if math.isfinite(value):
                self.log(f"val/{name}", value, prog_bar=name == "faithfulness")
