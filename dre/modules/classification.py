"""Classifier training: fine-tune a network whose checkpoint `dre.models.Classifier` reads as it is.

The module has more than 300 lines because one class documents every option of the command line.
"""

import os
from collections.abc import Sequence
from typing import Any, Literal, Self

import pytorch_lightning as pl
import torch
import torch.distributed as dist
import torch.nn.functional as F
from pytorch_lightning.utilities import rank_zero_warn
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from dre.checks import check_labels, check_not_negative, check_shares
from dre.models.heads import find_head, freeze, head_size, load_for_training
from dre.models.timm_library import timm_library
from dre.models.trained import TRAINED_KEY, TrainedNetwork, check_trained_alike
from dre.modules.schedules import half_cosine, refuse_broken_loss, refuse_half_weights, warmed_up
from dre.modules.surrogate import SETTINGS_KEY, SurrogateTask, check_origin, divergence_from, draws_of
from dre.renamed import accepts_old_options
from dre.types import Batch, Preprocessing


@accepts_old_options
class ClassifierTraining(pl.LightningModule):
    """Train a classifier on labelled images, from known weights or from scratch.

    What is validated, and what `dre.models.Classifier(weights=CHECKPOINT)` reads, is the moving average of the weights.

    Args:
        name: A timm model name, `torchvision/NAME`, or `dre/mnist_cnn`.
        num_classes: Size of the head; a head of another size is replaced. Null keeps the network's own.
        weights: To start from: a path, "pretrained", "package", or null for random weights, as for `Classifier`.
        preprocessing: Size, resize and filter of the images, where they are not to be the network's own.
        frozen: Modules that stay as they are, batch norms and dropout included, such as `[conv_stem, blocks.0]`;
            `[backbone]` trains the head alone.
        optimizer: `sgd` with `momentum`, or `adamw`.
        lr: Learning rate.
        head_lr: Learning rate of the head; `lr` when not given.
        momentum: Of SGD.
        weight_decay: Of weights; biases and what normalisations learn are spared.
        schedule: The learning rate falls along a half `cosine` to zero, or stays `constant`.
        warm_up: Share of all steps in which the learning rate rises to its full value.
        label_smoothing: Share of the target that is spread over all classes.
        average_decay: Of the moving average of the weights; smaller in the first steps. 0 keeps no average.
        surrogate: Learn no labels, but to predict from a random subset of an image's superpixels what `weights` predict
            of the whole image (see `dre.modules.surrogate`); accuracies are agreement with that prediction.
        options: Further arguments of `timm.create_model`, as for `Classifier`.

    Raises:
        ValueError: A share is outside [0, 1], a rate or decay is negative, or network, weights and `frozen` do not fit
            each other.
        FileNotFoundError: There is no file of weights at the path.

    Example:
        >>> import torch
        >>> ClassifierTraining("dre/mnist_cnn", average_decay=0.0)(torch.rand(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """

    average: Any
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        name: str,
        num_classes: int | None = None,
        weights: str | None = None,
        preprocessing: Preprocessing | None = None,
        frozen: list[str] | None = None,
        optimizer: Literal["sgd", "adamw"] = "sgd",
        lr: float = 1e-2,
        head_lr: float | None = None,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
        schedule: Literal["cosine", "constant"] = "cosine",
        warm_up: float = 0.05,
        label_smoothing: float = 0.1,
        average_decay: float = 0.999,
        surrogate: bool = False,
        options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        check_shares(momentum=momentum, warm_up=warm_up, label_smoothing=label_smoothing, average_decay=average_decay)
        check_not_negative(lr=lr, head_lr=head_lr or 0.0, weight_decay=weight_decay)
        if surrogate:
            check_origin(weights, num_classes)
        named = load_for_training(name, weights, num_classes, preprocessing, options)
        self.options = dict(named.options) if named.options else None
        self.name, self.preprocessing, self.class_names = name, named.preprocessing, named.class_names
        self.network = named.module
        self.task = SurrogateTask(self.network) if surrogate else None
        self.num_classes = head_size(self.network)
        self.register_buffer("mean", torch.tensor(named.mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(named.std).view(1, -1, 1, 1), persistent=False)
        self.frozen = sorted(frozen or [])
        self._resting = freeze(self.network, self.frozen)
        self.average = _average(self.network, average_decay) if average_decay else None
        self.optimizer, self.momentum, self.weight_decay = optimizer, momentum, weight_decay
        self.lr, self.head_lr = lr, lr if head_lr is None else head_lr
        self.schedule, self.warm_up, self.label_smoothing = schedule, warm_up, label_smoothing
        self.train_accuracies, self.val_accuracies = _accuracies(self.num_classes), _accuracies(self.num_classes)
        self.val_loss = MeanMetric(nan_strategy="disable")  # NaN is shown, not left out
        self.train()

    def train(self, mode: bool = True) -> Self:
        """Keep the average, and what is frozen, in eval mode."""
        super().train(mode)
        for module in self._resting:
            module.eval()
        if self.average is not None:
            self.average.eval()
        return self

    def setup(self, stage: str) -> None:
        """Take over the names of the data's classes.

        Raises:
            ValueError: The data have more classes than the network, or weights would be kept in half precision.
        """
        refuse_half_weights(self.trainer)
        data = getattr(self.trainer, "datamodule", None)
        names: Sequence[str] | None = data.class_names() if data is not None else None
        if names is None:
            return
        if len(names) > self.num_classes:
            raise ValueError(
                f"the data name {len(names)} classes, {self.name} has {self.num_classes} outputs; "
                f"set --model.num_classes {len(names)}"
            )
        if len(names) < self.num_classes:
            rank_zero_warn(
                f"the data name {len(names)} classes, {self.name} has {self.num_classes} outputs: the others are never "
                f"right; --model.num_classes {len(names)} leaves them out"
            )
        self.class_names = (*names, *[""] * (self.num_classes - len(names)))

    @property
    def evaluated(self) -> nn.Module:
        """Return the network whose weights count: the moving average, where one is kept."""
        return self.network if self.average is None else self.average.module

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits [B, K] of images [B, C, H, W] in [0, 1], from the weights that count."""
        logits: Tensor = self.evaluated(self._normalise(images))
        return logits

    def _normalise(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the smoothed cross-entropy of one batch, a scalar; of a surrogate the divergence.

        Raises:
            FloatingPointError: The loss is NaN or infinite.
            ValueError: An image has no class, or one that the network does not know.
        """
        images = self._normalise(batch["images"])
        if self.task is None:
            labels = self._labels(batch)
            logits = self.network(images).float()
            loss = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        else:
            wanted = self.task.predict(images)
            place = f"epoch {self.current_epoch} of run {os.environ.get('PL_GLOBAL_SEED', '0')}"
            logits = self.network(self.task.hide(images, draws_of(batch["key"], place))).float()
            labels, loss = wanted.argmax(dim=1), divergence_from(logits, wanted).mean()
        refuse_broken_loss(loss, self, 0, "lr")
        self.train_accuracies.update(logits.detach(), labels)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def optimizer_step(self, *arguments: Any, **options: Any) -> None:
        """Step, and let the average follow before anything can save a checkpoint."""
        super().optimizer_step(*arguments, **options)
        if self.average is not None:
            self.average.update(self.network, step=self.trainer.global_step + 1)

    def on_train_epoch_end(self) -> None:
        """Log the accuracy on the training crops of the epoch, of the weights as they changed."""
        self._log_and_reset("train", self.train_accuracies)

    def on_validation_epoch_start(self) -> None:
        """Take the first rank's batch-norm statistics on all ranks: they are the ones that are saved."""
        if dist.is_initialized():
            for buffer in self.evaluated.buffers():
                dist.broadcast(buffer, src=0)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add a batch to accuracy and loss, the latter without smoothing."""
        images = self._normalise(batch["images"])
        if self.task is None:
            labels, logits = self._labels(batch), self.evaluated(images).float()
            losses = F.cross_entropy(logits, labels, reduction="none")
        else:
            wanted = self.task.predict(images)
            logits = self.evaluated(self.task.hide(images, draws_of(batch["key"], "validation"))).float()
            labels, losses = wanted.argmax(dim=1), divergence_from(logits, wanted)
        self.val_accuracies.update(logits, labels)
        self.val_loss.update(losses)

    def on_validation_epoch_end(self) -> None:
        """Log the values, which every rank computes from the merged sums."""
        self.log("val/loss", float(self.val_loss.compute()))
        self.val_loss.reset()
        self._log_and_reset("val", self.val_accuracies)

    def _log_and_reset(self, stage: str, accuracies: MetricCollection) -> None:
        for name, value in accuracies.compute().items():
            self.log(f"{stage}/{name}", float(value), prog_bar=name == "top1")
        accuracies.reset()

    def _labels(self, batch: Batch) -> Tensor:
        check_labels(batch["labels"], self.num_classes, batch["key"], needed=True)
        return batch["labels"]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Build the optimiser with up to four groups: backbone and head, each with and without weight decay."""
        optimizer: Optimizer
        if self.optimizer == "sgd":
            optimizer = SGD(self._groups(), lr=self.lr, momentum=self.momentum)
        else:
            optimizer = AdamW(self._groups(), lr=self.lr)
        scheduler = LambdaLR(optimizer, self._factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _groups(self) -> list[dict[str, Any]]:
        head = set(self.network.get_submodule(find_head(self.network)).parameters())
        groups = []
        for lr, is_head in ((self.lr, False), (self.head_lr, True)):
            for decay, decays in ((self.weight_decay, True), (0.0, False)):
                mine = [
                    parameter
                    for parameter in self.network.parameters()
                    if parameter.requires_grad and (parameter in head) == is_head and (parameter.ndim > 1) == decays
                ]
                groups.append({"params": mine, "lr": lr, "weight_decay": decay})
        return [group for group in groups if group["params"]]

    def _factor(self, step: int) -> float:
        """Return what all learning rates are multiplied with at a step."""
        total = self.trainer.estimated_stepping_batches
        if total == float("inf"):
            raise ValueError("training has no end that the rate could fall towards; set --trainer.max_epochs")
        warm_up = round(self.warm_up * total)
        if step < warm_up or self.schedule == "constant":
            return warmed_up(step, warm_up)
        return half_cosine(step - warm_up, int(total) - warm_up)

    def on_train_start(self) -> None:
        """Set the learning rates and decays of this run in place of those that a checkpoint was trained with."""
        (optimizer,), (setting,) = self.trainer.optimizers, self.trainer.lr_scheduler_configs
        scheduler = setting.scheduler
        factor = self._factor(scheduler.last_epoch)
        for group, wanted in zip(optimizer.param_groups, self._groups(), strict=True):
            group["lr"], group["initial_lr"] = wanted["lr"] * factor, wanted["lr"]
            group["weight_decay"] = wanted["weight_decay"]
            if self.optimizer == "sgd":
                group["momentum"] = self.momentum
        scheduler.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]

    def describe(self) -> TrainedNetwork:
        """Return what a checkpoint says about the network."""
        mean, std = (tuple(values.flatten().tolist()) for values in (self.mean, self.std))
        return TrainedNetwork(
            self.name, self.num_classes, self.class_names, self.preprocessing, mean, std, self.options
        )

    def _settings(self) -> dict[str, Any]:
        """Return the settings that decide what is in a checkpoint."""
        return {
            "optimizer": self.optimizer,
            "frozen": self.frozen,
            "averaged": self.average is not None,
            "surrogate": self.task is not None,
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Describe the network, so that it can be built again from the file alone."""
        checkpoint[TRAINED_KEY], checkpoint[SETTINGS_KEY] = self.describe().to_dict(), self._settings()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint that this training cannot go on from.

        Raises:
            ValueError: It is one of another network, of other classes or of other settings.
        """
        check_trained_alike(TrainedNetwork.from_dict(checkpoint[TRAINED_KEY]), self.describe())
        for setting, ours in self._settings().items():
            theirs = checkpoint[SETTINGS_KEY].get(setting, False)  # those of 0.1 are no surrogates
            if theirs != ours:
                raise ValueError(
                    f"the checkpoint was trained with {setting} = {theirs}, this run has {setting} = {ours}; resume "
                    "with the configuration that is saved beside it, or start anew from its weights (--model.weights)"
                )


def _average(network: nn.Module, decay: float) -> nn.Module:
    """Return timm's moving average of a network."""
    average: nn.Module = timm_library().utils.ModelEmaV3(network, decay, use_warmup=True)
    return average.requires_grad_(False)


def _accuracies(classes: int) -> MetricCollection:
    """Build the top-1 accuracy, and the top-5 accuracy where there are more than five classes."""
    kinds = {f"top{k}": MulticlassAccuracy(classes, top_k=k, average="micro") for k in (1, 5) if k == 1 or classes > k}
    return MetricCollection(dict(kinds), compute_groups=False)
