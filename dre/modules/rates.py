"""Learning rates of the two training stages: one optimiser, a group for each, zero in the other's epochs."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from torch.nn import Parameter

ScheduleName = Literal["step", "cosine"]


@dataclass(frozen=True, slots=True)
class StageRates:
    """Rates, decays and schedule of embeddings (stage 1) and generator (stage 2), as `MaskTraining` takes them."""

    embedding_epochs: int
    embedding_rate: float
    embedding_decay: float
    rate: float
    weight_decay: float
    schedule: ScheduleName
    rate_epochs: int
    rate_factor: float

    def __post_init__(self) -> None:
        """Refuse what no optimiser could use."""
        for name in ("embedding_epochs", "embedding_rate", "embedding_decay", "rate", "weight_decay", "rate_factor"):
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` must not be negative, got {getattr(self, name)}")
        if self.rate_epochs < 1:
            raise ValueError(f"`rate_epochs` must be at least 1, got {self.rate_epochs}")

    def groups(self, embeddings: Iterable[Parameter], generator: Iterable[Parameter]) -> list[dict[str, Any]]:
        """Give the optimiser's two groups."""
        return [
            {"params": list(embeddings), "lr": self.embedding_rate, "weight_decay": self.embedding_decay},
            {"params": list(generator), "lr": self.rate, "weight_decay": self.weight_decay},
        ]

    def factors(self, max_epochs: int) -> list[Callable[[int], float]]:
        """Give what each group's rate is multiplied with, by epoch."""

        def of_embeddings(epoch: int) -> float:
            return float(epoch < self.embedding_epochs)

        def of_generator(epoch: int) -> float:
            done = epoch - self.embedding_epochs
            if done < 0:
                return 0.0
            if self.schedule == "step":
                return self.rate_factor ** (done // self.rate_epochs)
            return 0.5 * (1 + math.cos(math.pi * min(1.0, done / max(1, max_epochs - self.embedding_epochs))))

        return [of_embeddings, of_generator]

    def overrule(self, checkpoint: dict[str, Any], max_epochs: int) -> None:
        """Let these rates and decays count on resuming, not those that the checkpoint was trained with."""
        rates, decays = [self.embedding_rate, self.rate], [self.embedding_decay, self.weight_decay]
        pairs = zip(checkpoint.get("optimizer_states", []), checkpoint.get("lr_schedulers", []), strict=True)
        for optimizer, scheduler in pairs:
            scheduler["base_lrs"] = rates
            factors = self.factors(max_epochs)
            for group, rate, decay, factor in zip(optimizer["param_groups"], rates, decays, factors, strict=True):
                group.update(lr=rate * factor(scheduler["last_epoch"]), initial_lr=rate, weight_decay=decay)
