"""XMGD on real photographs: `DRE_DATA=PATH python -m benchmarks.xmgd_study --out results/xmgd`.

Two classifiers, three data sets, three explainers and two references that know no classifier. The maps are made once
and kept in the output folder. Printed and written are the distances between the mean maps of all groups, how far each
distance spreads them apart, how it depends on the number of images, on a single pixel, and on where a fit begins, and
whether distances between explainers are alike where the classifier or the data are the same.
"""

import argparse
import json
import os
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy.cluster.hierarchy import dendrogram, linkage
from scipy.spatial.distance import squareform
from torch import Tensor

from benchmarks.distances import XMGD, Distance, distances, matrix, mean_map, off_diagonal
from benchmarks.study_maps import CLASSIFIERS, DATA_SETS, EXPLAINERS, Group, group_of, make_maps
from benchmarks.timing import machine

Maps = Mapping[Group, Tensor]
SIZES = (2, 5, 10, 20)
DRAWS = 5


def load_maps(path: Path, root: Path, images: int, steps: int) -> dict[Group, Tensor]:
    """Read the maps that an earlier call made, or make them."""
    if not path.exists():
        made = make_maps(root, images, steps)
        torch.save({(group.classifier, group.data, group.explainer): maps for group, maps in made.items()}, path)
    return {Group(*names): maps for names, maps in torch.load(path, weights_only=True).items()}


def mean_matrices(maps: Maps, measures: Mapping[str, Distance]) -> dict[str, Tensor]:
    """Distances between the mean maps of all groups, by every measure."""
    means = torch.cat([mean_map(some) for some in maps.values()])
    return {name: matrix(measure, measure.prepare(means)) for name, measure in measures.items()}


def spread(square: Tensor) -> dict[str, float]:
    """How unlike the distances of a matrix are: their deviation, and the gap of their quartiles, over their size."""
    values = off_diagonal(square)
    low, middle, high = (float(values.quantile(share)) for share in (0.25, 0.5, 0.75))
    return {
        "mean": float(values.mean()),
        "deviation over mean": float(values.std() / values.mean()),
        "quartiles": (high - low) / (high + low),
        "largest over median": float(values.max()) / middle,
    }


def of_one_set(maps: Maps) -> list[Tensor]:
    """Give the maps of all explainers of the first classifier on the first data set."""
    return [maps[group_of(next(iter(CLASSIFIERS)), DATA_SETS[0], method)] for method in EXPLAINERS]


def by_sample_size(maps: Maps, measures: Mapping[str, Distance]) -> dict[str, dict[str, float]]:
    """Mean relative change of the distances between mean maps when each is of fewer images, and of two halves.

    The last entry is no change but a floor: the distance of the mean maps of two disjoint halves of a group, over the
    mean distance between groups.
    """
    chosen = of_one_set(maps)
    varied = [some for some in chosen if not torch.equal(some[0], some[1])]  # one map for all images has no halves
    images = len(chosen[0])
    draw = np.random.default_rng(0)
    found: dict[str, dict[str, float]] = {}
    subsets = {size: [torch.from_numpy(draw.permutation(images)[:size]) for _ in range(DRAWS)] for size in SIZES}
    orders = [torch.from_numpy(draw.permutation(images)) for _ in range(DRAWS)]
    for name, measure in measures.items():
        whole = off_diagonal(matrix(measure, measure.prepare(torch.cat([mean_map(some) for some in chosen]))))
        entry: dict[str, float] = {}
        for size, picks in subsets.items():
            means = [torch.cat([mean_map(some[pick]) for some in chosen]) for pick in picks]
            parts = torch.stack([off_diagonal(matrix(measure, measure.prepare(mean))) for mean in means])
            entry[f"{size} images"] = float(((parts - whole).abs() / whole).mean())
        halves = [
            measure.compare(*(measure.prepare(mean_map(some[half])) for half in order.chunk(2)))
            for some in varied
            for order in orders
        ]
        entry["halves"] = float(torch.cat(halves).mean() / whole.mean())
        found[name] = entry
    return found


def by_single_pixel(maps: Maps, measures: Mapping[str, Distance], images: int = 10) -> dict[str, dict[str, float]]:
    """How far one pixel moves a map, over its mean distance to the other explainers' maps of the image.

    The pixel is drawn, and set to the map's highest magnitude, or to ten times that: then everything else is scaled
    down.
    """
    chosen = [some[:images] for some in of_one_set(maps)]
    generator = torch.Generator().manual_seed(0)
    place = torch.randint(chosen[0][0].numel(), (images, 1), generator=generator)
    found = {}
    for name, measure in measures.items():
        prepared = [measure.prepare(some) for some in chosen]
        between = torch.stack([measure.compare(one, other) for one, other in combinations(prepared, 2)]).mean()
        entry = {}
        for times in (1, 10):
            moved = []
            for some, clean in zip(chosen, prepared, strict=True):
                flat = some.flatten(1)
                hot = flat.scatter(1, place, times * flat.abs().amax(dim=1, keepdim=True)).view_as(some)
                moved.append(measure.compare(clean, measure.prepare(hot)))
            entry[f"{times} x the highest"] = float(torch.stack(moved).mean() / between)
        found[name] = entry
    return found


def by_begin(maps: Maps, images: int = 10) -> dict[str, dict[str, float]]:
    """How far the mixtures of a map are from those of its copy at half the size, over the distance to other maps."""
    chosen = [some[:images] for some in of_one_set(maps)]
    found = {}
    for begin in ("ellipse", "k-means++"):
        measure = distances(begin)[XMGD]
        prepared = [measure.prepare(some) for some in chosen]
        smaller = [measure.prepare(torch.nn.functional.avg_pool2d(some.abs(), 2)) for some in chosen]
        copies = torch.stack([measure.compare(*pair) for pair in zip(prepared, smaller, strict=True)]).mean()
        between = torch.stack([measure.compare(*pair) for pair in combinations(prepared, 2)]).mean()
        found[begin] = {"copy": float(copies), "other maps": float(between), "share": float(copies / between)}
    return found


def kinship(maps: Maps, square: Tensor) -> dict[str, float]:
    """Correlate the distances between explainers of two settings, by what the settings have in common."""
    groups = list(maps)

    def profile(classifier: str, data: str) -> Tensor:
        rows = [groups.index(group_of(classifier, data, method)) for method in EXPLAINERS]
        return off_diagonal(square[rows][:, rows])

    settings = [(classifier, data) for classifier in CLASSIFIERS for data in DATA_SETS]
    found: dict[str, list[float]] = {"classifier": [], "data": [], "nothing": []}
    for one, other in combinations(settings, 2):
        common = "classifier" if one[0] == other[0] else "data" if one[1] == other[1] else "nothing"
        found[common].append(float(torch.corrcoef(torch.stack([profile(*one), profile(*other)]))[0, 1]))
    return {common: float(np.mean(values)) for common, values in found.items()}


def draw_matrix(square: Tensor, names: list[str], path: Path) -> None:
    """Save the distances as a heat map in the order of their tree, which is drawn beside it."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(15, 9), width_ratios=(1, 1.9), layout="constrained")
    tree = linkage(squareform(square.numpy(), checks=False), "average")
    half = 0.5 * float(tree[:, 2].max())
    order = dendrogram(tree, orientation="left", labels=names, ax=left, color_threshold=half)["leaves"][::-1]
    left.set_xlabel("joined at (average linkage)")
    shown = right.imshow(square[order][:, order], cmap="magma", aspect="auto")
    right.set_xticks(range(len(names)), [names[place] for place in order], rotation=90)
    right.set_yticks([])
    right.set_title("XMGD between mean maps; rows as in the tree")
    figure.colorbar(shown, ax=right, shrink=0.8)
    figure.savefig(path, dpi=80)
    plt.close(figure)


def show(title: str, rows: Mapping[str, Mapping[str, float]], caption: str = "") -> None:
    """Print a table with one row for each measure."""
    table = Table("", *next(iter(rows.values())), title=title, caption=caption)
    for name, values in rows.items():
        table.add_row(name, *(f"{value:.3g}" for value in values.values()))
    Console(width=120).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("DRE_DATA", "../shared/data")))
    parser.add_argument("--out", type=Path, default=Path("results/xmgd"))
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--steps", type=int, default=16, help="of integrated gradients")
    parser.add_argument("--threads", type=int, default=1)
    settings = parser.parse_args()
    torch.set_num_threads(settings.threads)
    settings.out.mkdir(parents=True, exist_ok=True)
    maps = load_maps(settings.out / "maps.pt", settings.data, settings.images, settings.steps)
    measures = distances()
    matrices = mean_matrices(maps, measures)
    draw_matrix(matrices[XMGD], [str(group) for group in maps], settings.out / "matrix.png")
    result: dict[str, Any] = {"groups": [str(group) for group in maps]}
    result |= {"matrices": {name: square.tolist() for name, square in matrices.items()}}
    result["spread"] = {name: spread(square) for name, square in matrices.items()}
    show("Distances between the mean maps of all groups", result["spread"])
    result["kinship"] = {name: kinship(maps, square) for name, square in matrices.items()}
    show("Correlation of the distances between explainers where settings share ...", result["kinship"])
    result["sample size"] = by_sample_size(maps, measures)
    show("Relative change with fewer images; halves of a group over distances between groups", result["sample size"])
    result["single pixel"] = by_single_pixel(maps, measures)
    show("What one pixel moves, over the distance to other explainers' maps", result["single pixel"])
    result["begin"] = by_begin(maps)
    show("XMGD to the same map at half the size", result["begin"], machine())
    (settings.out / "study.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
