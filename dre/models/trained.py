"""Trained network: what a checkpoint of classifier training says about it, enough to build it again."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from torch import Tensor

from dre.types import Preprocessing

TRAINED_KEY = "network"
TRAINED_PREFIX = "network."
AVERAGE_PREFIX = "average.module."


@dataclass(frozen=True, slots=True)
class TrainedNetwork:
    """Hold the description of a checkpoint's network, without its weights.

    Args:
        name: What `Classifier` calls it.
        num_classes: Size of its head.
        class_names: Name of each class by index, empty where the data name none; `None` where they name no class.
        preprocessing: How it wants its images.
        mean: One value, or one per channel.
        std: One value, or one per channel.
        options: Further arguments of `timm.create_model`, where any were given.

    Example:
        >>> images = Preprocessing(size=(28, 28), resize=28, channels=1)
        >>> network = TrainedNetwork("dre/mnist_cnn", 10, None, images, mean=(0.1307,), std=(0.3081,))
        >>> TrainedNetwork.from_dict(network.to_dict()) == network
        True
    """

    name: str
    num_classes: int
    class_names: tuple[str, ...] | None
    preprocessing: Preprocessing
    mean: tuple[float, ...]
    std: tuple[float, ...]
    options: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, which a checkpoint may hold."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read what `to_dict` gave."""
        return cls(**{**values, "preprocessing": Preprocessing(**values["preprocessing"])})


def trained_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the network's weights out of the training module's: their moving average, where one was kept."""
    prefix = AVERAGE_PREFIX if any(name.startswith(AVERAGE_PREFIX) for name in state) else TRAINED_PREFIX
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def check_trained_alike(theirs: TrainedNetwork, ours: TrainedNetwork) -> None:
    """Raise ValueError when the weights are those of another network, or of other classes."""
    for setting in ("name", "options", "num_classes", "preprocessing"):
        if getattr(theirs, setting) != getattr(ours, setting):
            raise ValueError(
                f"the checkpoint was trained with {setting} = {getattr(theirs, setting)}, this run has {setting} = "
                f"{getattr(ours, setting)}; resume with the configuration that is saved beside the checkpoint"
            )
    pairs = enumerate(zip(theirs.class_names or (), ours.class_names or (), strict=False))
    differing = next(((index, before, now) for index, (before, now) in pairs if before != now), None)
    if differing is not None:
        index, before, now = differing
        raise ValueError(
            f"class {index} is {before!r} in the checkpoint and {now!r} in the data; go on with the data that it was "
            "trained on, or start anew from its weights with --model.weights"
        )
