"""Learning-rate schedules: of the two stages of mask training, in one optimiser, and of classifier training."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import pytorch_lightning as pl
from torch import Tensor
from torch.nn import Parameter

ScheduleName = Literal["step", "cosine", "constant"]


def half_cosine(done: int, total: int) -> float:
    """Return a factor that falls from 1 to 0 along half a cosine over `total` steps, and stays there."""
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done / max(1, total))))


def warmed_up(step: int, warm_up: int) -> float:
    """Return a factor that rises in equal parts to 1, which it reaches in the step after the `warm_up` first ones."""
    return min(1.0, (step + 1) / (warm_up + 1))


@dataclass(frozen=True, slots=True)
class StageSchedules:
    """Hold learning rates, decays and schedule of embeddings (stage 1) and generator (stage 2).

    Raises:
        ValueError: A rate, a decay, a factor or a number of epochs is negative, or `lr_epochs` is below 1.
    """

    embedding_epochs: int
    embedding_lr: float
    embedding_decay: float
    lr: float
    weight_decay: float
    schedule: ScheduleName
    lr_epochs: int
    lr_factor: float

    def __post_init__(self) -> None:
        """Raise ValueError for settings that no optimiser could use."""
        for name in ("embedding_epochs", "embedding_lr", "embedding_decay", "lr", "weight_decay", "lr_factor"):
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` must not be negative, got {getattr(self, name)}")
        if self.lr_epochs < 1:
            raise ValueError(f"`lr_epochs` must be at least 1, got {self.lr_epochs}")

    def groups(self, embeddings: Iterable[Parameter], generator: Iterable[Parameter]) -> list[dict[str, Any]]:
        """Return the optimiser's two groups."""
        return [
            {"params": list(embeddings), "lr": self.embedding_lr, "weight_decay": self.embedding_decay},
            {"params": list(generator), "lr": self.lr, "weight_decay": self.weight_decay},
        ]

    def factors(self, max_epochs: int) -> list[Callable[[int], float]]:
        """Return what each group's learning rate is multiplied with, by epoch."""

        def of_embeddings(epoch: int) -> float:
            return float(epoch < self.embedding_epochs)

        def of_generator(epoch: int) -> float:
            done = epoch - self.embedding_epochs
            if done < 0:
                return 0.0
            if self.schedule == "constant":
                return 1.0
            if self.schedule == "step":
                return self.lr_factor ** (done // self.lr_epochs)
            return half_cosine(done, max_epochs - self.embedding_epochs)

        return [of_embeddings, of_generator]

    def overrule(self, checkpoint: dict[str, Any], max_epochs: int) -> None:
        """Write these learning rates and decays into a checkpoint that is resumed, in place of its own."""
        lrs, decays = [self.embedding_lr, self.lr], [self.embedding_decay, self.weight_decay]
        pairs = zip(checkpoint.get("optimizer_states", []), checkpoint.get("lr_schedulers", []), strict=True)
        for optimizer, scheduler in pairs:
            scheduler["base_lrs"] = lrs
            factors = self.factors(max_epochs)
            for group, lr, decay, factor in zip(optimizer["param_groups"], lrs, decays, factors, strict=True):
                group.update(lr=lr * factor(scheduler["last_epoch"]), initial_lr=lr, weight_decay=decay)


def refuse_broken_loss(loss: Tensor, module: pl.LightningModule, group: int, option: str) -> None:
    """Stop a training whose loss is not finite, before that reaches the weights.

    Args:
        loss: Of this step.
        module: Which is trained.
        group: Group of the optimiser whose learning rate is reported.
        option: Name of that learning rate as an option.

    Raises:
        FloatingPointError: The loss is NaN or infinite.
    """
    if loss.isfinite():
        return
    lr = module.trainer.optimizers[0].param_groups[group]["lr"]
    raise FloatingPointError(
        f"the loss is {loss.item()} at step {module.global_step} (epoch {module.current_epoch}) with rate {lr:.3g}; "
        f"the last checkpoint is from before it: go on from there with a lower --model.{option}"
    )


def refuse_half_weights(trainer: pl.Trainer) -> None:
    """Refuse a trainer that would keep the weights themselves in half precision.

    Raises:
        ValueError: Its precision is `16-true` or `bf16-true`.
    """
    precision = str(trainer.precision)
    if precision in ("16-true", "bf16-true"):
        raise ValueError(
            f"--trainer.precision {precision} keeps the weights in half precision, which loses steps that are smaller "
            f"than its rounding; train with {precision.replace('true', 'mixed')}"
        )
