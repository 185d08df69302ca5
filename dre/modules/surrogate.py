"""Surrogate of a classifier: it predicts from some superpixels what the classifier predicts of the whole image."""

import copy
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor, nn

from dre.engine.shapley import uniform_subsets
from dre.images.randomness import named_generator
from dre.models.checkpoint_files import files_within, read_plain
from dre.models.estimator import show_superpixels, superpixel_grid

SETTINGS_KEY = "classifier_training"
"""Where a checkpoint of classifier training keeps its settings; `surrogate` is one of them."""


class SurrogateTask:
    """Hold the network that a surrogate starts from, and hide superpixels.

    The network is copied and stays as it is; it is no part of the training's parameters or checkpoints.

    Args:
        network: Gives logits of normalised images, in which the dataset mean is zero.

    Source: Jethani et al. 2022; Frye et al. 2021.

    Example:
        >>> task = SurrogateTask(nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 2)))
        >>> hidden = task.hide(torch.ones(1, 3, 32, 32), [torch.Generator().manual_seed(0)])
        >>> hidden.mean(), task.predict(hidden).shape  # four superpixels, of which a uniform number is shown
        (tensor(1.), torch.Size([1, 2]))
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """Return the logits [B, K] of whole images [B, C, H, W], normalised."""
        self.network.to(images.device)  # nothing moves it along with the training
        logits: Tensor = self.network(images)
        return logits.float()

    def hide(self, images: Tensor, draws: Sequence[torch.Generator]) -> Tensor:
        """Return normalised images of which each shows a random subset of its superpixels, and zero elsewhere.

        Args:
            images: [B, C, H, W].
            draws: A generator on the CPU for each image.
        """
        rows, columns = superpixel_grid((images.shape[-2], images.shape[-1]))
        subsets = torch.cat([uniform_subsets(1, rows * columns, one) for one in draws]).to(images)
        return images * show_superpixels(subsets.view(-1, 1, rows, columns), (images.shape[-2], images.shape[-1]))


def check_origin(weights: str | None, num_classes: int | None) -> None:
    """Refuse a head that may be new beside trained weights, and warn where nothing is trained.

    Raises:
        ValueError: Weights and a number of classes are given.
    """
    if weights is None:
        rank_zero_warn("the surrogate learns what random weights predict; name trained ones with --model.weights")
    elif num_classes is not None:
        raise ValueError(
            f"`num_classes: {num_classes}` may put a new head on the weights whose predictions `surrogate` learns; "
            "leave it out"
        )


def surrogate_file(place: str) -> Path:
    """Return the checkpoint of a surrogate that is given by its path or by the directory of its run.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It was trained on labels.
    """
    path = next(iter(files_within(Path(place))), Path(place))
    if not read_plain(path).get(SETTINGS_KEY, {}).get("surrogate", False):
        raise ValueError(
            f"{path} was trained on labels and whole images, so it is no surrogate; train one with "
            "--config configs/train/surrogate.yaml, or leave `surrogate` out"
        )
    return path


def divergence_from(logits: Tensor, wanted: Tensor) -> Tensor:
    """Return the divergence of Kullback and Leibler of predictions from those that are wanted: nats [B], at least 0.

    Args:
        logits: [B, K].
        wanted: Logits of the distribution that should be predicted, [B, K].

    Example:
        >>> divergence_from(torch.zeros(1, 2), torch.zeros(1, 2))
        tensor([0.])
    """
    return F.kl_div(logits.log_softmax(dim=1), wanted.log_softmax(dim=1), reduction="none", log_target=True).sum(dim=1)


def draws_of(keys: Sequence[str], place: str) -> list[torch.Generator]:
    """Return a generator for each image, which its key and a place in the training decide."""
    return [named_generator(0, f"superpixels of {key} at {place}".encode()) for key in keys]
