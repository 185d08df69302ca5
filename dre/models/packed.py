"""Packed checkpoints: a trained mask generator as a small safetensors file, one of which ships with `dre`.

Weights are in half precision, the largest convolutions as products of two thin matrices, and what the classifier's own
head holds is left out.
"""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from dre.checks import check_count
from dre.models.classifiers import Classifier
from dre.models.weights import CHECKSUM_KEY, checksum, fingerprint, reason_of

SUFFIX = ".safetensors"
HEADER = "dre"
"""Entry of the file's metadata that holds everything but tensors, as JSON."""

EMBEDDING = "estimator.filter.embedding.weight"
HEAD_KEY = "embedding_of_head"
"""Hash of the class embeddings that are left out because they are the weights of the classifier's head."""

SHAPES_KEY = "factored"
LEFT, RIGHT = ".left", ".right"
LARGEST = 1 << 28
"""Values that a product of a file has at most."""

KEPT = ("estimator", "classifier", "taps", "recipe")

SHIPPED = Path(__file__).parent.parent / "assets" / "dre_lite0.safetensors"
"""DRE of `python train.py` for EfficientNet-Lite0 with its package's weights."""

PACKAGE = "package"
"""Written in place of the path of a checkpoint: the one that ships with `dre`."""


def write_packed(content: Mapping[str, Any], path: Path, classifier: Classifier, rank: int = 32) -> None:
    """Write what a checkpoint of mask training needs to explain; `read_packed` reads it.

    Args:
        content: Of `read_checkpoint`.
        path: A .safetensors file.
        classifier: The one that the checkpoint explains; embeddings that are its head's weights are left out.
        rank: Of the products that stand for large convolutions.

    Raises:
        ValueError: The name of the file ends otherwise, a weight does not fit half precision, or `rank` is below 1.
        FileNotFoundError: There is no such folder.
    """
    check_count("rank", rank)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.parent} for {path.name}; make it first")
    if path.suffix != SUFFIX:
        raise ValueError(f"a packed checkpoint is a {SUFFIX} file, got {path}")
    header = {key: content[key] for key in KEPT if key in content}
    state: dict[str, Tensor] = {}
    shapes: dict[str, list[int]] = {}
    for name, value in content["state_dict"].items():
        if name == EMBEDDING and _is_head(value, classifier):
            header[HEAD_KEY] = fingerprint({EMBEDDING: value})
            continue
        parts = _factors(value, rank)
        if len(parts) == 2:
            shapes[name] = list(value.shape)
            state |= {name + end: part for end, part in zip((LEFT, RIGHT), parts, strict=True)}
        else:
            state[name] = parts[0]
    broken = [name for name, value in state.items() if not value.isfinite().all()]
    if broken:
        raise ValueError(f"{broken[0]} has weights that half precision does not hold; this checkpoint cannot be packed")
    header = json.loads(json.dumps(header | {SHAPES_KEY: shapes}))
    header[CHECKSUM_KEY] = _checksum(header, state)
    save_file(state, path, {HEADER: json.dumps(header)})


def read_packed(path: str | Path) -> dict[str, Any]:
    """Read a packed checkpoint as `read_checkpoint` gives others: plain data, weights in full precision.

    Embeddings that were left out come with `with_head`.

    Raises:
        ValueError: The file is damaged, or no packed checkpoint.
    """
    try:
        with safe_open(path, "pt") as file:
            header = json.loads((file.metadata() or {}).get(HEADER, "null"))
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no mapping
    except Exception as error:  # its own kind, or whatever a damaged header leads to
        raise ValueError(f"{path} is truncated or no safetensors file ({reason_of(error)}); copy it anew") from None
    if not isinstance(header, dict) or not isinstance(header.get(SHAPES_KEY), dict):
        raise ValueError(f"{path} holds no packed mask generator; `python -m dre.cli.pack` makes one of a checkpoint")
    if header.pop(CHECKSUM_KEY, None) != _checksum(header, state):
        raise ValueError(f"{path} is damaged: it does not hold what was written; copy it anew")
    shapes = header.pop(SHAPES_KEY)
    _check_sizes(state, shapes, path)
    for name, shape in shapes.items():
        state[name] = _product(state.pop(name + LEFT, None), state.pop(name + RIGHT, None), shape, path)
    content = header | {
        "state_dict": {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
    }
    return {**content, CHECKSUM_KEY: checksum(content)}


def with_head(content: Mapping[str, Any], classifier: Classifier, path: str | Path) -> dict[str, Any]:
    """Return a checkpoint's content with the embeddings that it left out for those of the classifier's head.

    Raises:
        ValueError: The classifier's head has other weights.
    """
    if HEAD_KEY not in content:
        return dict(content)
    weights = classifier.head_weights().detach().float().cpu().clone()
    if fingerprint({EMBEDDING: weights}) != content[HEAD_KEY]:
        raise ValueError(f"{path} was made beside a head with other weights than that of {classifier.name}")
    return {**content, "state_dict": {**content["state_dict"], EMBEDDING: weights}}


def shipped(classifier: Classifier) -> Path | None:
    """Return the checkpoint of DRE that ships with `dre` for a classifier; None where there is none.

    There is none either for its network in another precision, or with a head that was changed since it was built.
    """
    if not SHIPPED.is_file() or classifier.mean.dtype != torch.float32:
        return None
    weights, head = _explained()
    if classifier.fingerprint != weights:
        return None
    try:
        return SHIPPED if fingerprint({EMBEDDING: classifier.head_weights()}) == head else None
    except ValueError:  # the head was replaced
        return None


@cache
def _explained() -> tuple[str, str]:
    """Return the hashes of the network's weights, and of its head, that the shipped checkpoint explains."""
    content = read_packed(SHIPPED)
    return str(content["classifier"]["fingerprint"]), str(content[HEAD_KEY])


def _check_sizes(state: Mapping[str, Tensor], shapes: Mapping[str, Any], path: str | Path) -> None:
    """Raise ValueError where the products of a file would have more values than LARGEST, all together."""
    values = 0
    for name in shapes:
        left, right = state.get(name + LEFT), state.get(name + RIGHT)
        if left is not None and right is not None and left.dim() == right.dim() == 2:  # `_product` refuses others
            values += len(left) * right.shape[1]
    if values > LARGEST:
        raise ValueError(f"{path} has products of {values} values, and a generator has fewer; copy it anew")


def _checksum(header: Mapping[str, Any], state: Mapping[str, Tensor]) -> str:
    """Hash what a file holds; the file has an order of its own."""
    return checksum({"header": json.dumps(header, sort_keys=True), "state_dict": dict(sorted(state.items()))})


def _product(left: Tensor | None, right: Tensor | None, shape: Any, path: str | Path) -> Tensor:
    """Return the weights whose two factors a file holds; a file of anyone's is not asked for more than LARGEST."""
    try:
        if left is None or right is None or left.dim() != 2 or right.dim() != 2 or not left.is_floating_point():
            raise ValueError("two factors of two dimensions are wanted")
        return (left.float() @ right.float()).reshape(shape)
    except (IndexError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{path} has weights that do not fit together ({reason_of(error)}); copy it anew") from None


def _is_head(embedding: Tensor, classifier: Classifier) -> bool:
    try:
        return torch.equal(embedding, classifier.head_weights().cpu())
    except ValueError:  # its head is no linear layer on the last tap
        return False


def _factors(value: Tensor, rank: int) -> list[Tensor]:
    """Return a tensor in half precision, or the factors of a large convolution; vectors stay in full precision."""
    if value.dim() < 2 or not value.is_floating_point():
        return [value.contiguous()]
    rows, columns = value.shape[0], value[0].numel()
    if 2 * rank * (rows + columns) > rows * columns:
        return [value.half().contiguous()]
    left, weights, right = torch.linalg.svd(value.flatten(1).double(), full_matrices=False)
    roots = weights[:rank].sqrt()
    return [(left[:, :rank] * roots).half().contiguous(), (roots[:, None] * right[:rank]).half().contiguous()]
