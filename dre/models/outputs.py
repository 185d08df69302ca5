"""Outputs of any network as logits: find them, convert probabilities and single logits, and test how they behave."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

OutputsName = Literal["logits", "probabilities"]

BATCH_TOLERANCE = {torch.float16: 3e-2, torch.bfloat16: 1e-1}
"""Largest difference, relative to the largest logit, between an image alone and in a batch; 1e-3 in other types."""

SUM_TOLERANCE = 1e-4
"""Largest distance from 1 of a sum of probabilities."""


class Logits(nn.Module):
    """Return the logits [B, K] of a network that gives them as an attribute, as probabilities, or as one number.

    Args:
        network: Maps normalised images to its outputs.
        outputs: What they are. The logarithm of a probability is a logit: its softmax is the probability.

    Source: our choice. One logit z becomes [-z / 2, z / 2], whose softmax is the sigmoid of z.

    Example:
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 1))
        >>> Logits(network)(torch.rand(4, 3, 8, 8)).shape
        torch.Size([4, 2])
    """

    def __init__(self, network: nn.Module, outputs: OutputsName = "logits") -> None:
        super().__init__()
        self.network, self.outputs = network, outputs

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [B, K] of normalised images [B, C, H, W].

        Raises:
            ValueError: The network gives no logits.
        """
        values = found(self.network(images))
        if values is None:
            raise ValueError("the network gives no logits")
        return self.convert(values)

    def convert(self, values: Tensor) -> Tensor:
        """Return logits [B, K] for what the network gives, [B, K], [B, 1] or [B]."""
        values = values[:, None] if values.ndim == 1 else values
        if values.shape[1] > 1:
            return values if self.outputs == "logits" else _logarithm(values)
        if self.outputs == "logits":
            return torch.cat([-values / 2, values / 2], dim=1)
        return torch.cat([_logarithm(1 - values), _logarithm(values)], dim=1)


def _logarithm(probabilities: Tensor) -> Tensor:
    return probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()


def found(output: object) -> Tensor | None:
    """Return the logits in what a network returns: a tensor, an attribute or a key `logits`; None where there are none.

    Example:
        >>> found({"logits": torch.zeros(1, 3)}).shape
        torch.Size([1, 3])
    """
    if isinstance(output, Tensor):
        return output
    value = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    return value if isinstance(value, Tensor) else None


def as_logits(network: nn.Module, sample: Tensor, outputs: OutputsName, name: str) -> tuple[nn.Module, Tensor]:
    """Return the network, or one that turns its outputs into logits [B, K], and the logits of the sample.

    Args:
        network: In eval mode.
        sample: One image [1, C, H, W] in its own units.
        outputs: What its user says that they are.
        name: Of the network, for messages.

    Raises:
        ValueError: It fails on the image, it is no classifier, or its outputs are no probabilities but should be.
    """
    output = guarded(network, sample, name)
    values = found(output)
    if values is None or values.ndim not in (1, 2) or len(values) != 1 or values.shape[-1] < 1:
        raise ValueError(f"{name} must map images to logits [B, at least 2 classes], got {describe(output)}")
    if outputs == "probabilities" and (bool((values < 0).any()) or bool((values > 1 + SUM_TOLERANCE).any())):
        low, high = float(values.min()), float(values.max())
        raise ValueError(
            f"{name} gives values from {low:.3g} to {high:.3g}, which are no probabilities; use outputs='logits'"
        )
    is_plain = isinstance(output, Tensor) and values.ndim == 2 and values.shape[1] > 1
    if is_plain and outputs == "logits" and not (bool((values < 0).any()) or bool((values > 1).any())):
        _warn_of_probabilities(network, sample, values, name)
    if is_plain and outputs == "logits":
        return network, values
    converted = Logits(network, outputs)
    return converted, converted.convert(values)


def _warn_of_probabilities(network: nn.Module, sample: Tensor, values: Tensor, name: str) -> None:
    """Warn where logits look like the probabilities of classes, or come from a sigmoid, as those of several labels."""
    if bool((values.sum(dim=1) - 1).abs().max() <= SUM_TOLERANCE):
        warnings.warn(
            f"the outputs of {name} are not negative and sum to 1, as probabilities do, and are taken as logits; "
            "say outputs='probabilities' if that is what they are",
            stacklevel=2,
        )
        return
    with torch.enable_grad():
        values = network(sample.clone().requires_grad_())
    if "Sigmoid" in type(values.grad_fn).__name__:
        warnings.warn(
            f"the outputs of {name} come from a sigmoid each, as those of a multi-label network; a softmax over them "
            "is explained: use score='logit' to explain one output alone",
            stacklevel=2,
        )


def describe(output: object) -> str:
    """Return what a network gave, and what kind of network gives that."""
    value = found(output)
    if value is not None and value.ndim == 4:
        return (
            f"{list(value.shape)}, a value for each place, as segmentation does; wrap it so that it gives one a class"
        )
    if value is not None:
        return str(list(value.shape))
    if isinstance(output, Mapping):
        keys = ", ".join(str(key) for key in output)
        return f"a dictionary of {keys}, as detection and segmentation do; wrap it so that it gives one score a class"
    if isinstance(output, list | tuple):
        kinds = ", ".join(sorted({type(one).__name__ for one in output})) or "nothing"
        return f"a {type(output).__name__} of {kinds}; wrap it so that it returns the logits alone"
    return type(output).__name__


def mixes_images(run: Callable[[Tensor], Tensor], sample: Tensor, logits: Tensor, name: str) -> bool:
    """Return whether an image's logits depend on the images beside it; warn of that, and of logits that are random.

    Args:
        run: Maps images to logits.
        sample: One image [1, C, H, W].
        logits: Its logits, [1, K].
        name: Of the network, for messages.
    """
    pair = torch.cat([sample.flip(3), sample])
    tolerance = BATCH_TOLERANCE.get(logits.dtype, 1e-3) * float(logits.abs().max())
    try:
        among = run(pair)
    except Exception:  # some take one image alone, as where a reshape names the batch
        among = logits[:0]
    if len(among) == len(pair) and _near(among[1:], logits, tolerance):
        return False
    if not _near(run(sample), logits, tolerance):
        warnings.warn(f"{name} is random: the same image gives other logits each time; so will its maps", stacklevel=2)
        return False
    warnings.warn(f"{name} mixes the images of a batch; they are explained one at a time, which is slow", stacklevel=2)
    return True


def _near(ours: Tensor, theirs: Tensor, tolerance: float) -> bool:
    return bool(((ours - theirs).abs() <= tolerance).logical_or(ours.isnan() & theirs.isnan()).all())


def guarded(network: nn.Module, images: Tensor, name: str) -> Any:
    """Run a network. Running out of memory is left as it is.

    Raises:
        ValueError: The network fails; the message says what its own error was.
    """
    try:
        return network(images)
    except Exception as error:  # whatever a network of the user's own raises
        if isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error):
            raise
        raise ValueError(f"{name} fails on images {list(images.shape)}: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    """Return the kind and the first line of an error.

    Example:
        >>> first_line(ValueError("too small"))
        'ValueError: too small'
    """
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
