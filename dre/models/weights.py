"""Classifier weights: load them from a file, and hash them."""

import hashlib
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dre.models.trained import TRAINED_KEY, TrainedNetwork, trained_state

CHECKSUM_KEY = "checksum"
"""Of a file's other entries, in checkpoints and progress files."""

KNOWN_LOGITS = 8
"""Logits of one image of noise that a checkpoint stores of its classifier."""


def load_weights(path: Path) -> tuple[dict[str, Tensor], TrainedNetwork | None]:
    """Load a state dict and, from a checkpoint of classifier training, what it says about its network.

    No code of the file is run.

    Args:
        path: A .safetensors or torch file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged, or holds no weights or such that are not finite.
    """
    content = _read(path)
    if TRAINED_KEY in content:
        check_content(content, path)
        state = trained_state(content["state_dict"])
        check_finite_weights(state, path)
        try:
            return state, TrainedNetwork.from_dict(content[TRAINED_KEY])
        except (LookupError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{path} does not say what network it holds ({reason_of(error)}): damaged, or of another version; "
                "take another checkpoint"
            ) from None
    for wrapper in ("state_dict", "model"):
        if isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not content or not all(isinstance(name, str) and isinstance(one, Tensor) for name, one in content.items()):
        raise ValueError(f"{path} holds no state dict of tensors; save it with torch.save(model.state_dict(), path)")
    return {name.removeprefix("module."): value for name, value in content.items()}, None


def check_finite_weights(state: Mapping[str, Tensor], path: str | Path) -> None:
    """Check that weights are finite.

    Raises:
        ValueError: One is NaN or infinite.
    """
    broken = [name for name, value in state.items() if not value.isfinite().all()]
    if broken:
        raise ValueError(f"{path} has weights that are not finite, as {broken[0]}; take an earlier checkpoint")


def check_content(content: Mapping[str, Any], path: str | Path) -> None:
    """Check the fields of a training's checkpoint, and its checksum; warn where it has none.

    Raises:
        ValueError: The file is damaged.
    """
    state = content.get("state_dict")
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} has no `state_dict` of tensors: it is damaged; take another checkpoint")
    if CHECKSUM_KEY not in content:
        warnings.warn(f"{path} has no checksum, as files of 0.1: whether it is damaged is not known", stacklevel=2)
    elif content[CHECKSUM_KEY] != checksum(content):
        raise ValueError(f"{path} is damaged: it does not hold what was written; take another checkpoint")
    for field in ("epoch", "global_step"):
        if field in content and type(content[field]) is not int:
            raise ValueError(f"{path} has no number under `{field}`, but {content[field]!r}; take another checkpoint")


def checksum(content: Mapping[str, Any]) -> str:
    """Hash plain values and tensors, in dicts and lists of any depth, but for the checksum itself."""
    digest = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, Tensor):
            digest.update(f"{value.dtype} {list(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        elif isinstance(value, Mapping):
            for name, one in value.items():
                digest.update(f"{name!r}:".encode())
                add(one)
        elif isinstance(value, list | tuple):
            digest.update(f"{len(value)} entries".encode())
            for one in value:
                add(one)
        else:
            digest.update(f"{type(value).__name__} {value!r};".encode())

    add({name: value for name, value in content.items() if name != CHECKSUM_KEY})
    return digest.hexdigest()[:32]


def reason_of(error: Exception) -> str:
    """Return the first line of what an error says, or its name."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(
            f"no weights at {path}; `weights` is a .pth or .safetensors file, 'pretrained', 'package' or null"
        )
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        try:
            tensors: dict[str, Any] = load_file(path)
        except Exception as error:  # its own kind, or whatever a damaged header leads to
            raise ValueError(f"{path} is truncated or no safetensors file ({reason_of(error)}); copy it anew") from None
        return tensors
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a file that is no pickle fails in any way
        raise ValueError(
            f"{path} is not a plain state dict (truncated, or it carries code to run): {reason_of(error)}; copy it anew"
        ) from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no state dict of tensors; save it with torch.save(model.state_dict(), path)")
    return content


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its kind where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def normalisation(mean: Tensor, std: Tensor, channels: int) -> dict[str, list[float]]:
    """Return mean and standard deviation of a normalisation as plain numbers, one for each channel."""
    lists = {"mean": mean, "std": std}
    each = {key: value.float().expand(1, channels, 1, 1).flatten().tolist() for key, value in lists.items()}
    return {key: [round(one, 6) for one in values] for key, values in each.items()}


def fingerprint(state: dict[str, Tensor]) -> str:
    """Hash the names and values of a state dict: 16 hexadecimal digits that tell one set of weights from another."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode())
        digest.update(state[name].detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
