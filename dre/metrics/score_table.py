"""Table of scores: one value per image, explainer and metric, merged over ranks without loss."""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from dre.metrics.list_states import ListStates

KEY_BYTES = 96
"""Bytes of an encoded sample name; longer names are cut, see `encode_key`."""


class TableRows(NamedTuple):
    """Hold the table as tensors: encoded keys uint8 [N, 96], (explainer, metric) codes int64 [N, 2], values [N, 1]."""

    keys: Tensor
    codes: Tensor
    values: Tensor


class ScoreTable(ListStates):
    """Keep one value per (image, explainer, metric), from which `dre.statistics` computes means, intervals and tests.

    Its states are lists of rows: paired tests and the min-max across explainers need all values of an image at once,
    which no sum holds. A row takes 120 bytes. NaN values are kept as rows, to be reported and not averaged.

    Args:
        explainers: Names that `update` may use.
        metrics: Names that `update` may use.

    Example:
        >>> import torch
        >>> table = ScoreTable(explainers=["dre", "random"], metrics=["faithfulness"])
        >>> table.update(["cat"], "dre", "faithfulness", torch.tensor([0.5]))
        >>> table.to_frame()
           key explainer        metric  value
        0  cat       dre  faithfulness    0.5
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = None

    keys: list[Tensor]
    codes: list[Tensor]
    values: list[Tensor]

    def __init__(self, explainers: Sequence[str], metrics: Sequence[str]) -> None:
        super().__init__(compute_with_cache=False)  # a cached value would outlive `merge_state`
        self.explainers = tuple(explainers)
        self.metrics = tuple(metrics)
        for name in ("keys", "codes", "values"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, keys: list[str], explainer: str, metric: str, values: Tensor) -> None:
        """Add a batch of values [B], one for each key, of one explainer and one metric.

        Raises:
            ValueError: A name is unknown, or the number of values is not that of the keys.
        """
        if values.shape != (len(keys),):
            raise ValueError(f"{len(keys)} keys need `values` of shape [{len(keys)}], got {list(values.shape)}")
        code = [_code(explainer, self.explainers, "explainer"), _code(metric, self.metrics, "metric")]
        encoded = np.array([encode_key(key) for key in keys], dtype=f"S{KEY_BYTES}")
        rows = torch.from_numpy(encoded.view(np.uint8).reshape(len(keys), KEY_BYTES))
        self.keys.append(rows.to(self.device))
        self.codes.append(torch.tensor(code, device=self.device).expand(len(keys), 2))
        self.values.append(values.detach().to(self.device, torch.float64)[:, None])

    def compute(self) -> TableRows:
        """Return all rows of all ranks as tensors, sorted by key, then explainer, then metric."""
        keys, codes, values = (self.rows(name) for name in TableRows._fields)
        bytewise = keys.cpu().numpy().view(f"S{KEY_BYTES}")[:, 0]
        explainer, metric = codes.cpu().numpy().T
        sorting = np.lexsort((_places(self.metrics)[metric], _places(self.explainers)[explainer], bytewise))
        order = torch.from_numpy(sorting).to(keys.device)
        return TableRows(keys[order], codes[order], values[order])

    def to_frame(self) -> pd.DataFrame:
        """Return the merged table with columns key, explainer, metric and value, sorted by the first three.

        Every rank must call it, since it merges.

        Raises:
            ValueError: A row is there twice, so an image was scored twice.
        """
        rows = self.compute()
        codes = rows.codes.cpu().numpy()
        keys = rows.keys.cpu().numpy().view(f"S{KEY_BYTES}")[:, 0]
        frame = pd.DataFrame(
            {
                "key": np.char.decode(keys, "utf-8").astype(object),
                "explainer": np.array(self.explainers, dtype=object)[codes[:, 0]],
                "metric": np.array(self.metrics, dtype=object)[codes[:, 1]],
                "value": rows.values.cpu().numpy().reshape(-1),  # torchmetrics squeezes a table of one row
            }
        )
        _refuse_duplicates(frame)
        return frame

    def empty_rows(self) -> dict[str, Tensor]:
        """Return no rows of each state."""
        return {
            "keys": torch.empty(0, KEY_BYTES, dtype=torch.uint8, device=self.device),
            "codes": torch.empty(0, 2, dtype=torch.int64, device=self.device),
            "values": torch.empty(0, 1, dtype=torch.float64, device=self.device),
        }


def encode_key(key: str) -> bytes:
    """Encode a sample's name in at most 96 bytes; a longer one is cut and ends in `~` and a hash of the whole.

    Example:
        >>> encode_key("cat"), len(encode_key(200 * "x"))
        (b'cat', 96)
    """
    encoded = key.encode()
    if len(encoded) <= KEY_BYTES:
        return encoded
    suffix = "~" + hashlib.sha256(encoded).hexdigest()[:16]
    return (encoded[: KEY_BYTES - len(suffix)].decode(errors="ignore") + suffix).encode()


def _code(name: str, known: Sequence[str], what: str) -> int:
    if name not in known:
        raise ValueError(f"unknown {what} {name!r}; this table was made for {', '.join(known)}")
    return known.index(name)


def _places(names: Sequence[str]) -> np.ndarray:
    """Return each name's place in alphabetical order."""
    return np.argsort(np.argsort(names))


def _refuse_duplicates(frame: pd.DataFrame) -> None:
    repeated = frame.duplicated(["key", "explainer", "metric"])
    if repeated.any():
        first = frame[repeated].iloc[0]
        raise ValueError(
            f"{int(repeated.sum())} values are there twice, the first for image {first.key!r}, explainer "
            f"{first.explainer!r}, metric {first.metric!r}; every image must be scored exactly once"
        )
