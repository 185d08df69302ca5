"""Distances between the saliency maps of explainers: XMGD and other comparisons of maps, as matrices."""

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import permutations
from pathlib import Path
from typing import Any, cast, get_args

import pandas as pd
import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from callbacks.logged import log_pictures, log_table
from callbacks.outputs import MetricStates, OutputsCallback
from dre import metrics
from dre.metrics import XMGD, MapMixtures
from dre.metrics.map_comparison import MapComparison
from dre.metrics.xmgd_distance import Aggregate, GroupDistances
from dre.reporting import comparisons_figure, distances_figure
from dre.reporting.style import png_bytes
from dre.runs.locks import write_json, write_whole
from dre.types import Explained

PUBLIC = [getattr(metrics, name) for name in metrics.__all__]
COMPARISONS: dict[str, type[MapComparison]] = {
    kind.name_in_runs(): kind for kind in PUBLIC if isinstance(kind, type) and issubclass(kind, MapComparison)
}
"""Every comparison of maps that `dre.metrics` exports, by its name in run files."""

Matrix = list[list[float | None]]


class MapDistances(MetricStates, OutputsCallback):
    """Compare the maps of every explainer with every other's during `Trainer.test`.

    Writes `xmgd.json` and, as a heat map with its tree, `xmgd.png` into the run directory; W&B gets both, as the table
    `test/xmgd` with a row for each pair and as the picture `test/xmgd_matrix`. Other measures are drawn side by side,
    `xmgd_comparisons.png`. No pass is made. With one explainer
    there is nothing to compare: that is said, and nothing is written.

    Args:
        comparisons: Other measures: each a matrix of means over images, of an explainer's map of an image and another's
            of the same image. They take time with every pair; `earth_mover` 50 ms an image and pair.
        aggregate: XMGD between the `mean_map` of the explainers, or the mean over all pairs of maps (`pairwise`), which
            fits every map and grows with the square of the number of images.
        model: How a map becomes mixtures and their distances one; the defaults of `dre.metrics.XMGD` when not given.

    Raises:
        ValueError: A comparison is unknown or named twice, or `aggregate` is none of these.
    """

    def __init__(
        self,
        comparisons: Sequence[str] = (),
        aggregate: Aggregate = "mean_map",
        model: MapMixtures | None = None,
    ) -> None:
        unknown = [name for name in comparisons if name not in COMPARISONS]
        if unknown or len(set(comparisons)) != len(comparisons):
            known = ", ".join(COMPARISONS)
            raise ValueError(f"`comparisons` must be different names out of {known}; got {list(comparisons)}")
        if aggregate not in get_args(Aggregate):
            raise ValueError(f"unknown aggregate {aggregate!r}; choose {', '.join(get_args(Aggregate))}")
        self.comparisons, self.aggregate, self.model = tuple(comparisons), aggregate, model or MapMixtures()
        self.names: tuple[str, ...] = ()

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start empty."""
        self.names = tuple(cast(Any, pl_module).explainers)
        if len(self.names) < 2:
            rank_zero_warn("one explainer has no distance to another: no xmgd.json; evaluate two or more")
            return
        self.whole = self._xmgd(self.names).to(pl_module.device)
        self.halves = self._xmgd([_half(name, part) for name in self.names for part in (0, 1)]).to(pl_module.device)
        self.compared = {
            name: {pair: COMPARISONS[name]().to(pl_module.device) for pair in self._pairs(name)}
            for name in self.comparisons
        }

    def update(self, pl_module: pl.LightningModule, outputs: Explained) -> None:
        """Add the maps of a batch, but for those that are broken."""
        if len(self.names) < 2:
            return
        maps, fine = outputs["saliency"], {name: ~broken for name, broken in outputs["broken"].items()}
        for name in (name for name in self.names if fine[name].any()):
            keys = [key for key, keep in zip(outputs["key"], fine[name].tolist(), strict=True) if keep]
            self.whole.update(maps[name][fine[name]], [name] * len(keys))
            if self.aggregate == "mean_map":
                self.halves.update(maps[name][fine[name]], [_half(name, _part(key)) for key in keys])
        for pairs in self.compared.values():
            for (first, second), metric in pairs.items():
                both = fine[first] & fine[second]
                if both.any():
                    metric.update(maps[first][both], maps[second][both])

    def gathered(self) -> dict[str, Any]:
        """See `MetricStates`."""
        if len(self.names) < 2:
            return {}
        compared = {
            name: {" - ".join(pair): metric for pair, metric in pairs.items()} for name, pairs in self.compared.items()
        }
        return {"whole": self.whole, "halves": self.halves, "compared": compared}

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Merge the ranks, write and log on the first."""
        if len(self.names) < 2:
            return
        found = self.whole.compute()
        result = self._describe(found, self._distances_of_halves())
        result["comparisons"] = {name: self._matrix(pairs) for name, pairs in self.compared.items()}
        for metric in (self.whole, self.halves, *(m for pairs in self.compared.values() for m in pairs.values())):
            metric.reset()
        if trainer.is_global_zero:
            self._write(trainer, result, Path(trainer.default_root_dir))

    def _xmgd(self, groups: Sequence[str]) -> XMGD:
        return XMGD(**asdict(self.model), groups=groups, aggregate=self.aggregate)

    def _pairs(self, name: str) -> list[tuple[str, str]]:
        """Return each pair once where the order does not matter."""
        ordered = list(permutations(self.names, 2))
        if not COMPARISONS[name].is_symmetric:
            return ordered
        place = self.names.index
        return [(first, second) for first, second in ordered if place(first) < place(second)]

    def _distances_of_halves(self) -> dict[str, float | None]:
        """XMGD between the mean maps of two halves of each explainer's images: what chance alone leaves."""
        if self.aggregate != "mean_map":
            return {}
        roots = self.halves.compute().root
        return {name: _plain(roots[2 * place, 2 * place + 1]) for place, name in enumerate(self.names)}

    def _describe(self, found: GroupDistances, halves: Mapping[str, float | None]) -> dict[str, Any]:
        return {
            "explainers": list(self.names),
            "aggregate": self.aggregate,
            "model": asdict(self.model),
            "maps": dict(zip(self.names, found.maps.tolist(), strict=True)),
            "constant": dict(zip(self.names, found.constant.tolist(), strict=True)),
            "root": [[_plain(value) for value in row] for row in found.root],
            "squared": [[_plain(value) for value in row] for row in found.squared],
            "halves": dict(halves),
        }

    def _matrix(self, pairs: Mapping[tuple[str, str], MapComparison]) -> dict[str, Matrix]:
        """Means over the images of all ranks, how many there are, and how many were left out; the diagonal is empty."""
        size = len(self.names)
        entries: dict[str, Matrix] = {
            what: [[None] * size for _ in range(size)] for what in ("mean", "images", "left_out")
        }
        for pair, metric in pairs.items():
            first, second = map(self.names.index, pair)
            with metric.merged():
                values = _plain(metric.total / metric.count), int(metric.count), int(metric.dropped)
            for matrix, value in zip(entries.values(), values, strict=True):
                matrix[first][second] = value
                if metric.is_symmetric:
                    matrix[second][first] = value
        return entries

    def _write(self, trainer: pl.Trainer, result: dict[str, Any], directory: Path) -> None:
        write_json(directory / "xmgd.json", result, indent=1)
        picture = directory / "xmgd.png"
        is_drawn = _has_value(result["root"])
        if is_drawn:
            write_whole(picture, png_bytes(distances_figure(result["root"], self.names, _title(result))))
        else:
            rank_zero_info("xmgd.png is left out: no two explainers have maps with a distance")
        means = {name: entry["mean"] for name, entry in result["comparisons"].items() if _has_value(entry["mean"])}
        if means:
            write_whole(directory / "xmgd_comparisons.png", png_bytes(comparisons_figure(means, self.names)))
        log_table(trainer, "test/xmgd", pd.DataFrame(_rows(result), columns=_columns(result), dtype=object))
        if is_drawn:
            log_pictures(trainer, {"test/xmgd_matrix": picture})


def _has_value(matrix: Matrix) -> bool:
    """Whether two explainers have a value together."""
    return any(matrix[row][column] is not None for row, column in permutations(range(len(matrix)), 2))


def _columns(result: Mapping[str, Any]) -> list[str]:
    return ["first", "second", "xmgd", "xmgd_squared", *result["comparisons"]]


def _rows(result: Mapping[str, Any]) -> list[list[Any]]:
    """Return a row for each ordered pair of explainers."""
    matrices = [result["root"], result["squared"], *(entry["mean"] for entry in result["comparisons"].values())]
    places = enumerate(result["explainers"])
    return [
        [first, second, *(matrix[row][column] for matrix in matrices)]
        for (row, first), (column, second) in permutations(places, 2)
    ]


def _title(result: Mapping[str, Any]) -> str:
    what = "between mean maps" if result["aggregate"] == "mean_map" else "mean over pairs of maps"
    return f"XMGD {what}, {max(result['maps'].values())} images"


def _half(name: str, part: int) -> str:
    return f"{name} {part}"


def _part(key: str) -> int:
    """Say in which half of the images one falls, whatever the order and the ranks."""
    return zlib.crc32(key.encode()) & 1


def _plain(value: Tensor) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None
