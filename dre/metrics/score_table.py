"""Table of scores: one value per image, explainer and metric, merged over ranks without loss."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torchmetrics.utilities import rank_zero_warn

from dre.metrics.list_states import ListStates

KEY_BYTES = 96
"""Bytes of an encoded sample name; longer names are cut, see `encode_key`."""

WORD = 8
"""Bytes of a value."""


class TableRows(NamedTuple):
    """Hold the table as tensors: encoded keys uint8 [N, 96], (explainer, metric) codes int64 [N, 2], values [N, 1]."""

    keys: Tensor
    codes: Tensor
    values: Tensor


class ScoreTable(ListStates):
    """Keep one value per (image, explainer, metric), from which `dre.statistics` computes means, intervals and tests.

    Its state is a row for each image: paired tests and the min-max across explainers need all values of an image at
    once, which no sum holds. With E explainers and M metrics a row takes 96 + 9 E M bytes: the key once, and for each
    pair of names a float64 and how often it was given. NaN values are kept, to be reported and not averaged.

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

    images: list[Tensor]

    def __init__(self, explainers: Sequence[str], metrics: Sequence[str]) -> None:
        super().__init__(compute_with_cache=False)  # a cached value would outlive `merge_state`
        self.explainers = tuple(explainers)
        self.metrics = tuple(metrics)
        self._columns = len(self.explainers) * len(self.metrics)
        self._counts = -(-self._columns // WORD) * WORD
        """Bytes of the counts of a row, so that the values behind them are aligned."""
        self._places: dict[str, tuple[int, int]] = {}
        self._written: list[Tensor] = []
        self.add_state("images", [], dist_reduce_fx="cat")

    def update(self, keys: list[str], explainer: str, metric: str, values: Tensor) -> None:
        """Add a batch of values [B], one for each key, of one explainer and one metric.

        Raises:
            ValueError: A name is unknown, or the number of values is not that of the keys.
        """
        if values.shape != (len(keys),):
            raise ValueError(f"{len(keys)} keys need `values` of shape [{len(keys)}], got {list(values.shape)}")
        column = _code(explainer, self.explainers, "explainer") * len(self.metrics)
        column += _code(metric, self.metrics, "metric")
        given = values.detach().to(self.device, torch.float64)
        self._make_room(keys)
        places = [self._places[key] for key in keys]
        for number in sorted({block for block, _ in places}):
            chosen = [place for place, (block, _) in enumerate(places) if block == number]
            rows = torch.tensor([places[place][1] for place in chosen], device=self.device)
            _, times, held = self._split(self._written[number])
            times[:, column].index_put_((rows,), times.new_ones(()), accumulate=True)
            held[:, column][rows] = given[chosen]

    def compute(self) -> TableRows:
        """Return all rows of all ranks as tensors, sorted by key, then explainer, then metric."""
        keys, times, values = self._merged()
        image, explainer, metric = np.nonzero(times)
        names = zip((self.explainers, self.metrics), (explainer, metric), strict=True)
        codes = np.stack([_by_name(known)[found] for known, found in names], axis=1)
        rows = (_as_bytes(keys)[image], codes, values[image, explainer, metric][:, None])
        return TableRows(*(torch.from_numpy(part).to(self.device) for part in rows))

    def to_frame(self) -> pd.DataFrame:
        """Return the merged table with columns key, explainer, metric and value, sorted by the first three.

        The first three are categories: a name is held once. Every rank must call it, since it merges.

        Raises:
            ValueError: A value is there twice, so an image was scored twice.
        """
        if not self.update_called:
            rank_zero_warn("a score table was read before the ``update`` method was called: it has no rows")
        with self.sync_context(dist_sync_fn=self.dist_sync_fn, should_sync=self._to_sync):
            keys, times, values = self._merged()
        names = [np.char.decode(keys, "utf-8").astype(object)]
        names += [np.array(sorted(known), dtype=object) for known in (self.explainers, self.metrics)]
        _refuse_duplicates(times, names)
        present = times > 0
        columns = {}
        for axis, (column, known) in enumerate(zip(("key", "explainer", "metric"), names, strict=True)):
            shape = [1, 1, 1]
            shape[axis] = len(known)
            codes = np.arange(len(known), dtype=np.min_scalar_type(-len(known))).reshape(shape)
            found = pd.Categorical.from_codes(np.broadcast_to(codes, times.shape)[present], categories=known)
            columns[column] = found.remove_unused_categories()
        return pd.DataFrame({**columns, "value": values.reshape(-1) if present.all() else values[present]})

    def by_key(self) -> pd.DataFrame:
        """Return the merged values of the first explainer: a row for each key, a column for each metric.

        Every rank must call it, since it merges. A value that was not given is NaN.
        """
        with self.sync_context(dist_sync_fn=self.dist_sync_fn, should_sync=self._to_sync):
            keys, _, values = self._merged()
        first = sorted(self.explainers).index(self.explainers[0])
        return pd.DataFrame(values[:, first], np.char.decode(keys, "utf-8").astype(object), sorted(self.metrics))

    def empty_rows(self) -> dict[str, Tensor]:
        """Return no rows, uint8 [0, bytes of a row]."""
        width = KEY_BYTES + self._counts + WORD * self._columns
        return {"images": torch.empty(0, width, dtype=torch.uint8, device=self.device)}

    def of_older(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """Return a state that an earlier version saved, with a row for each value, in the form of this one."""
        if "codes" not in state:
            return dict(state)
        keys, codes, values = (torch.cat(list(state[name])).cpu() for name in TableRows._fields)
        distinct, image = np.unique(_as_keys(keys), return_inverse=True)
        rows = self._new_rows(distinct)
        _, times, held = self._split(rows)
        columns = codes[:, 0] * len(self.metrics) + codes[:, 1]
        places = torch.from_numpy(image), columns
        times.index_put_(places, times.new_ones(()), accumulate=True)
        held[places] = values[:, 0]
        return {"images": [rows]}

    def _make_room(self, keys: Sequence[str]) -> None:
        """Append a row for each key that has none; those of earlier blocks are gone after a merge or a reset."""
        if not self.is_filling("images"):
            self._places, self._written = {}, []
        new = [key for key in dict.fromkeys(keys) if key not in self._places]
        if not new:
            return
        encoded = np.array([encode_key(key) for key in new], dtype=f"S{KEY_BYTES}")
        added = self.add_rows("images", self._new_rows(encoded).to(self.device))
        block, filled = self._blocks["images"]
        if not self._written or self._written[-1] is not block:
            self._written.append(block)
        start = len(filled) - len(added)
        self._places |= {key: (len(self._written) - 1, start + place) for place, key in enumerate(new)}

    def _new_rows(self, encoded: np.ndarray) -> Tensor:
        """Return rows with keys and without values."""
        rows = torch.zeros(len(encoded), self.empty_rows()["images"].shape[1], dtype=torch.uint8)
        rows[:, :KEY_BYTES] = torch.from_numpy(_as_bytes(encoded))
        self._split(rows)[2].fill_(torch.nan)
        return rows

    def _split(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return views of the keys [N, 96], the counts uint8 [N, E * M] and the values float64 [N, E * M] of rows."""
        start = KEY_BYTES + self._counts
        return (
            rows[:, :KEY_BYTES],
            rows[:, KEY_BYTES : KEY_BYTES + self._columns],
            rows[:, start:].view(torch.float64),
        )

    def _merged(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the sorted keys S96 [N], and counts int64 and values, both [N, E, M], with sorted names."""
        encoded, counts, values = (part.cpu().numpy() for part in self._split(self.rows("images")))
        keys, image = np.unique(_as_keys(torch.from_numpy(encoded)), return_inverse=True)
        columns = np.arange(self._columns).reshape(len(self.explainers), -1)
        columns = columns[np.ix_(_by_name(self.explainers), _by_name(self.metrics))].ravel()
        grid = (len(keys), len(self.explainers), len(self.metrics))
        if len(keys) == len(image):  # no row was merged with another of its image
            chosen = np.ix_(np.argsort(image), columns)
            return keys, counts[chosen].reshape(grid), values[chosen].reshape(grid)
        times, held = np.zeros((len(keys), self._columns), np.int64), np.full((len(keys), self._columns), np.nan)
        for rows in _once_each(image):
            here = image[rows]
            times[here] += counts[rows]
            held[here] = np.where(counts[rows] > 0, values[rows], held[here])
        return keys, times[:, columns].reshape(grid), held[:, columns].reshape(grid)


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


def _by_name(names: Sequence[str]) -> np.ndarray:
    """Return the indices that put names in alphabetical order."""
    return np.argsort(np.array(names, dtype=object), kind="stable")


def _as_bytes(encoded: np.ndarray) -> np.ndarray:
    """Return encoded keys as uint8 [N, 96]."""
    return np.ascontiguousarray(encoded).view(np.uint8).reshape(len(encoded), KEY_BYTES)


def _as_keys(rows: Tensor) -> np.ndarray:
    """Return keys uint8 [N, 96] as encoded names S96 [N]."""
    return np.ascontiguousarray(rows.numpy()).view(f"S{KEY_BYTES}")[:, 0]


def _once_each(image: np.ndarray) -> Iterator[np.ndarray]:
    """Yield rows in groups in which no image is there twice: one group, unless rows of one image were merged."""
    left = np.arange(len(image))
    while len(left):
        _, first = np.unique(image[left], return_index=True)
        yield left[first]
        left = np.delete(left, first)


def _refuse_duplicates(times: np.ndarray, names: Sequence[np.ndarray]) -> None:
    repeated = times > 1
    if repeated.any():
        first = (known[place] for known, place in zip(names, np.argwhere(repeated)[0], strict=True))
        key, explainer, metric = first
        raise ValueError(
            f"{int(times[repeated].sum() - repeated.sum())} values are there twice, the first for image {key!r}, "
            f"explainer {explainer!r}, metric {metric!r}; every image must be scored exactly once"
        )
