"""XMGD: distance between saliency maps, or sets of them, as mixtures of Gaussians at several scales."""

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from dre.metrics.distribution import Sign, normalised_saliency
from dre.metrics.list_states import ListStates
from dre.metrics.map_mixtures import NUMBERS, MapMixtures
from dre.mixtures import Begin, Mixtures

Aggregate = Literal["mean_map", "pairwise"]


class GroupDistances(NamedTuple):
    """Hold the distances between groups of maps, in the order of their names.

    `root` and `squared` are [G, G], the weighted sums over the scales of MW2 and of MW2 squared; NaN where a group has
    no map. `maps` and `constant` are int64 [G]: the maps of each group, and how many of them were constant.
    """

    root: Tensor
    squared: Tensor
    maps: Tensor
    constant: Tensor


def xmgd(saliency: Tensor, reference: Tensor, model: MapMixtures | None = None) -> tuple[Tensor, Tensor]:
    """Return XMGD image by image: the weighted sums over the scales of MW2 and of its square, both float64 [B].

    Both are 0 for equal maps and have no upper bound; lengths are in sides of the image.

    Args:
        saliency: [B, 1, H, W], any range.
        reference: [B, 1, H', W']; its size may differ, since all maps are laid on the unit square.
        model: The settings; their defaults when not given.

    Raises:
        ValueError: The maps are broken, or too small for the scales.

    Source: Rhodes et al. 2024, steps 1 to 5.

    Example:
        >>> import torch
        >>> root, squared = xmgd(torch.eye(8)[None, None, [2, 2]], torch.eye(8)[None, None, [4, 4]], MapMixtures(1))
        >>> root.round(decimals=4), squared.round(decimals=4)
        (tensor([0.2500], dtype=torch.float64), tensor([0.0625], dtype=torch.float64))
    """
    model = model or MapMixtures()
    return model.distances(model.fit(saliency), model.fit(reference))


class XMGD(ListStates):
    """Compute the matrix of XMGD between groups of maps, such as those of explainers, classifiers or data sets.

    A distance is 0 for equal groups and has no upper bound. It is in sides of the image: at one level, maps that differ
    by a translation t have the distance |t|; at several only where t is a multiple of window^(levels - 1) pixels, as
    averages over other windows are no translation of each other. Mirroring and transposing all maps changes nothing
    where the windows divide their sides. The groups' order and names are fixed beforehand, so that ranks agree on them.
    States are not sums of scalars: a mean map is the sum of a group's maps, and the mean over pairs needs every map's
    mixtures, 8 x 6 x levels x components bytes of them.

    Args:
        levels: Scales; the first is the map itself, each further one is averaged over windows of the one before.
        window: Side of those windows in pixels, and their stride.
        bins: How often a pixel of the highest value is counted.
        components: Gaussians of each mixture.
        weights: Of the scales' distances in their sum; equal and of sum 1 when not given.
        groups: Names of what is compared, two or more.
        aggregate: `mean_map` compares the mean of each group's maps, each scaled to [0, 1]: two fits a scale whatever
            the number of maps. `pairwise` averages the distances of all pairs of maps, one from each group; on its
            diagonal, of all pairs of different maps in the group.
        sign: How negative saliency is normalised, see `dre.metrics.distribution.normalised_saliency`.
        begin: Where each fit begins: `ellipse` or `k-means++`, see `dre.mixtures.Fitting`.
        restarts: Starts by k-means++ of which the likeliest end is kept.
        seed: Of their draws.

    Raises:
        ValueError: The groups are fewer than two or not different, or another setting is out of its range.

    Source: Rhodes et al. 2024.

    Example:
        >>> import torch
        >>> from dre.metrics import XMGD
        >>> metric = XMGD(levels=1, components=1)
        >>> metric.update(torch.eye(8)[None, None, [2, 2, 2, 2]].roll(1, dims=-1), ["first"])
        >>> metric.update(torch.eye(8)[None, None, [2, 2, 2, 2]].roll(3, dims=-1), ["second"])
        >>> metric.compute().root[0, 1]
        tensor(0.2500, dtype=torch.float64)
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = None
    renamed_states: ClassVar[Mapping[str, str]] = {"rows": "fits"}

    records: list[Tensor] | Tensor
    fits: list[Tensor] | Tensor
    codes: list[Tensor] | Tensor
    maps: Tensor
    constant: Tensor

    def __init__(
        self,
        levels: int = 3,
        window: int = 2,
        bins: int = 10,
        components: int = 10,
        weights: Sequence[float] | None = None,
        groups: Sequence[str] = ("first", "second"),
        aggregate: Aggregate = "mean_map",
        sign: Sign = "magnitude",
        begin: Begin = "ellipse",
        restarts: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(compute_with_cache=False)  # a cached value would outlive `merge_state`
        if len(set(groups)) != len(groups) or len(groups) < 2 or isinstance(groups, str):
            raise ValueError(f"`groups` must be two or more different names, got {groups!r}")
        if aggregate not in get_args(Aggregate):
            raise ValueError(f"unknown aggregate {aggregate!r}; choose {', '.join(get_args(Aggregate))}")
        self.model = MapMixtures(levels, window, bins, components, weights, sign, begin, restarts, seed)
        self.groups = tuple(groups)
        self.aggregate: Aggregate = aggregate
        for name in ("records", "fits", "codes"):
            self.add_state(name, [], dist_reduce_fx="cat")
        for name in ("maps", "constant"):
            self.add_state(name, torch.zeros(len(groups), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, saliency: Tensor, groups: Sequence[str]) -> None:
        """Add maps [B, 1, H, W] and the group of each, B names.

        Raises:
            ValueError: A name is unknown, or the maps are broken or too small for the scales.
        """
        self.model.check(saliency)
        codes = self._codes(groups, len(saliency)).to(saliency.device)
        maps = normalised_saliency(saliency, self.model.sign)
        constant = ~maps.flatten(1).any(dim=1)
        if self.aggregate == "pairwise":
            self.add_rows("fits", self.model.pack(self.model.fit(saliency)))
            self.add_rows("codes", codes)
        else:
            sums = self._sums()
            for code in sorted(set(codes.tolist())):
                _add(sums, code, maps[codes == code].sum(dim=(0, 1)), self.groups)
            self.records = [_write(sums)]
        self.maps += codes.bincount(minlength=len(self.groups))
        self.constant += codes[constant].bincount(minlength=len(self.groups))

    def compute(self) -> GroupDistances:
        """Return the distances of every group to every other."""
        compare = self._between_mean_maps if self.aggregate == "mean_map" else self._between_pairs
        count = len(self.groups)
        matrices = torch.full((2, count, count), torch.nan, dtype=torch.float64, device=self.device)
        for first, second, values in compare():
            matrices[:, first, second] = matrices[:, second, first] = values
        return GroupDistances(matrices[0], matrices[1], self.maps, self.constant)

    def _between_mean_maps(self) -> Iterator[tuple[int, int, Tensor]]:
        sums = self._sums()
        fits = {code: self.model.fit(total[None, None]) for code, total in sums.items()}
        for first in fits:
            for second in range(first, len(self.groups)):
                if second in fits:
                    yield first, second, torch.cat(self.model.distances(fits[first], fits[second]))

    def _between_pairs(self) -> Iterator[tuple[int, int, Tensor]]:
        fits, codes = self.rows("fits"), self.rows("codes")
        members = [self.model.unpack(fits[codes == code]) for code in range(len(self.groups))]
        for first, one in enumerate(members):
            for second in range(first, len(members)):
                yield first, second, self._mean_distance(one, members[second], same=first == second)

    def _mean_distance(self, first: list[Mixtures], second: list[Mixtures], same: bool) -> Tensor:
        """Return the mean over pairs of both distances, [2]; NaN without a pair."""
        total, pairs = torch.zeros(2, dtype=torch.float64, device=self.device), 0
        for row in range(len(first[0].weights)):
            others = [mixtures.take(slice(row + 1 if same else 0, None)) for mixtures in second]
            count = len(others[0].weights)
            repeated = [mixtures.take(torch.full((count,), row, device=self.device)) for mixtures in first]
            total += torch.stack(self.model.distances(repeated, others)).sum(dim=1)
            pairs += count
        return total / pairs

    def _codes(self, groups: Sequence[str], batch: int) -> Tensor:
        if isinstance(groups, str) or len(groups) != batch:
            raise ValueError(f"`groups` must hold one name for each of {batch} maps, got {groups!r}")
        unknown = [name for name in groups if name not in self.groups]
        if unknown:
            raise ValueError(f"unknown group {unknown[0]!r}; this metric compares {', '.join(self.groups)}")
        return torch.tensor([self.groups.index(name) for name in groups], dtype=torch.int64)

    def _sums(self) -> dict[int, Tensor]:
        """Return the sum of the maps of each group that has any, [H, W], in the order of the groups."""
        sums: dict[int, Tensor] = {}
        for code, total in _records(self.rows("records")):
            _add(sums, code, total, self.groups)
        return dict(sorted(sums.items()))

    def empty_rows(self) -> dict[str, Tensor]:
        """Return no rows of each state."""
        numbers = NUMBERS * self.model.levels * self.model.components
        return {
            "records": torch.empty(0, dtype=torch.float64, device=self.device),
            "fits": torch.empty(0, numbers, dtype=torch.float64, device=self.device),
            "codes": torch.empty(0, dtype=torch.int64, device=self.device),
        }


def _add(sums: dict[int, Tensor], code: int, total: Tensor, names: Sequence[str]) -> None:
    if code in sums and sums[code].shape != total.shape:
        raise ValueError(
            f"maps of group {names[code]!r} have sizes {list(sums[code].shape)} and {list(total.shape)}, and so no "
            "mean; resize them, or take aggregate='pairwise'"
        )
    sums[code] = sums[code] + total if code in sums else total


def _write(sums: dict[int, Tensor]) -> Tensor:
    """Write sums of maps one after the other, each behind its group and its size: sizes may differ."""
    return torch.cat([entry for code, total in sums.items() for entry in (_header(code, total), total.flatten())])


def _header(code: int, total: Tensor) -> Tensor:
    return total.new_tensor([code, *total.shape])


def _records(written: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Read what `_write` wrote, any number of times over."""
    while len(written):
        code, height, width = (int(number) for number in written[:3].tolist())
        yield code, written[3 : 3 + height * width].view(height, width)
        written = written[3 + height * width :]
