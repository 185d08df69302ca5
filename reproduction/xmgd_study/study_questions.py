"""Measurements of the distance study: spread, correlation of settings, sample size, single pixels, starts of fits."""

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from statistics import mean

import numpy as np
import torch
from scipy.stats import sem, spearmanr
from torch import Tensor

from reproduction.xmgd_study.distances import XMGD, Distance, distances, matrix, mean_map, off_diagonal
from reproduction.xmgd_study.study_maps import ASKING, CLASSIFIERS, DATA_SETS, EXPLAINERS, Group, Material, group_of

Maps = Mapping[Group, Tensor]
Measures = Mapping[str, Distance]
Setting = tuple[str, str]
"""A classifier and a data set."""

Range = tuple[float, float, float]
"""Mean, lowest and highest."""

SIZES = (2, 5, 10, 20, 40)
DRAWS = 5
RESOLVED = 1.96
"""Standard errors that two distances must differ by to count as told apart."""

SETTINGS: list[Setting] = [(classifier, data) for classifier in CLASSIFIERS for data in DATA_SETS]


def mean_matrix(maps: Sequence[Tensor], measure: Distance) -> Tensor:
    """Distances between the mean maps of some sets."""
    return matrix(measure, measure.prepare(torch.cat([mean_map(some.float()) for some in maps])))


def resampled(maps: Maps, measures: Measures, resamples: int) -> dict[str, list[Tensor]]:
    """Matrices between the mean maps of all groups, of images drawn with replacement; a draw serves all groups."""
    draw = np.random.default_rng(0)
    found: dict[str, list[Tensor]] = {name: [] for name in measures}
    images = {data: len(some) for group, some in maps.items() for data in DATA_SETS if group.data == data}
    for _ in range(resamples):
        picks = {data: torch.from_numpy(draw.integers(count, size=count)) for data, count in images.items()}
        chosen = [some[picks[group.data]] if group.data else some for group, some in maps.items()]
        for name, measure in measures.items():
            found[name].append(mean_matrix(chosen, measure))
    return found


def spread(square: Tensor) -> dict[str, float]:
    """Return how unlike the distances of a matrix are: deviation and gap of the quartiles, over their size."""
    values = off_diagonal(square)
    low, middle, high = (float(values.quantile(share)) for share in (0.25, 0.5, 0.75))
    return {
        "mean": float(values.mean()),
        "deviation over mean": float(values.std() / values.mean()),
        "quartiles": (high - low) / (high + low),
        "largest over median": float(values.max()) / middle,
    }


def told_apart(square: Tensor, samples: Sequence[Tensor]) -> float:
    """Return the share of all pairs of distances whose difference exceeds what resampling the images makes of it."""
    values, drawn = off_diagonal(square), torch.stack([off_diagonal(each) for each in samples])
    first, second = torch.triu_indices(len(values), len(values), 1)
    errors = (drawn[:, first] - drawn[:, second]).std(dim=0)
    return float(((values[first] - values[second]).abs() > RESOLVED * errors).double().mean())


def deviations(samples: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the standard deviation of each value over resamples."""
    return {name: float(np.std([each[name] for each in samples], ddof=1)) for name in samples[0]}


def kinship(groups: Sequence[Group], square: Tensor) -> dict[str, float]:
    """Correlate the distances between explainers of two settings, by what the settings have in common.

    Explainers that know no classifier are left out: their distances would be the same in both settings.
    """
    places = list(groups)

    def profile(classifier: str, data: str) -> Tensor:
        rows = [places.index(group_of(classifier, data, method)) for method in ASKING]
        return off_diagonal(square[rows][:, rows])

    found: dict[str, list[float]] = {"classifier": [], "data": [], "nothing": []}
    for one, other in combinations(SETTINGS, 2):
        common = "classifier" if one[0] == other[0] else "data" if one[1] == other[1] else "nothing"
        found[common].append(float(torch.corrcoef(torch.stack([profile(*one), profile(*other)]))[0, 1]))
    return {common: mean(values) for common, values in found.items()}


def by_sample_size(maps: Maps, measures: Measures) -> dict[str, dict[str, dict[str, tuple[float, float]]]]:
    """Say what becomes of the distances between the explainers of a setting when mean maps are of fewer.

    By size: the mean relative change against all images, and the rank correlation with their distances; `halves` is
    the distance of mean maps of two halves of a group, over the mean distance between groups, which a measure that
    needs few images has low. Each comes under `sample size` with its standard deviation over settings and draws, and
    under `sample size error` with the standard error of its mean over the settings, whose draws share their images.
    """
    draw = np.random.default_rng(0)
    settings: list[dict[str, dict[str, list[float]]]] = []
    for setting in SETTINGS:
        found: dict[str, dict[str, list[float]]] = {name: {} for name in measures}
        settings.append(found)
        chosen = [maps[group_of(*setting, method)] for method in ASKING]
        images = len(chosen[0])
        picks = [(size, torch.from_numpy(draw.permutation(images)[:size])) for size in SIZES for _ in range(DRAWS)]
        halves = torch.from_numpy(draw.permutation(images)).chunk(2)
        for name, measure in measures.items():
            entry = found[name]
            whole = off_diagonal(mean_matrix(chosen, measure))
            for size, pick in picks:
                part = off_diagonal(mean_matrix([some[pick] for some in chosen], measure))
                entry.setdefault(f"change, {size}", []).append(float(((part - whole).abs() / whole).mean()))
                entry.setdefault(f"ranks, {size}", []).append(float(spearmanr(part, whole).statistic))
            for some in chosen:
                gap = mean_matrix([some[half] for half in halves], measure)[0, 1]
                entry.setdefault("halves", []).append(float(gap / whole.mean()))
    values = {
        name: {what: [found[name][what] for found in settings] for what in entry} for name, entry in settings[0].items()
    }
    return {
        "sample size": _each(values, _of_all),
        "sample size error": _each(values, lambda rows: (_of_all(rows)[0], float(sem([mean(row) for row in rows])))),
    }


def _of_all(rows: list[list[float]]) -> tuple[float, float]:
    """Mean and standard deviation."""
    everything = [value for row in rows for value in row]
    return mean(everything), float(np.std(everything, ddof=1))


def _each(
    values: Mapping[str, Mapping[str, list[list[float]]]], say: Callable[[list[list[float]]], tuple[float, float]]
) -> dict[str, dict[str, tuple[float, float]]]:
    """Say something of the rows of every entry, one row for each setting."""
    return {name: {what: say(rows) for what, rows in entry.items()} for name, entry in values.items()}


def by_single_pixel(maps: Maps, measures: Measures, images: int = 10) -> dict[str, dict[str, float]]:
    """Return how far one pixel moves a map, over its mean distance to other explainers' maps of the image.

    The pixel is drawn, and set to the map's highest value, or to ten times that: then everything else is scaled down.
    """
    chosen = [maps[group_of(*SETTINGS[0], method)][:images].float() for method in EXPLAINERS]
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
                hot = flat.scatter(1, place, times * flat.amax(dim=1, keepdim=True)).view_as(some)
                moved.append(measure.compare(clean, measure.prepare(hot)))
            entry[f"{times} x the highest"] = float(torch.stack(moved).mean() / between)
        found[name] = entry
    return found


def by_begin(maps: Maps, images: int = 10) -> dict[str, dict[str, float]]:
    """Return how far the mixtures of a map are from those at half the size, over the distance to other maps."""
    chosen = [maps[group_of(*SETTINGS[0], method)][:images].float() for method in EXPLAINERS]
    found = {}
    for begin in ("ellipse", "k-means++"):
        measure = distances(begin)[XMGD]
        prepared = [measure.prepare(some) for some in chosen]
        smaller = [measure.prepare(torch.nn.functional.avg_pool2d(some, 2)) for some in chosen]
        copies = torch.stack([measure.compare(*pair) for pair in zip(prepared, smaller, strict=True)]).mean()
        between = torch.stack([measure.compare(*pair) for pair in combinations(prepared, 2)]).mean()
        found[begin] = {"copy": float(copies), "other maps": float(between), "share": float(copies / between)}
    return found


def confidence_means(material: Material) -> dict[str, dict[str, float]]:
    """Confidence metrics of every explainer, averaged over images, then settings."""
    names = next(iter(material.scores.values()))
    return {
        method: {name: mean(_confidence(material, setting, name)[method] for setting in SETTINGS) for name in names}
        for method in EXPLAINERS
    }


def preferences(material: Material, measures: Measures, images: int) -> dict[str, dict[str, Range]]:
    """Rank correlations over explainers of what a distance prefers with what a confidence metric prefers.

    A distance ranks nothing by itself. Three readings: an explainer is the better, the nearer its mean map is to the
    `others'`, the nearer it is to its own for the `other classifier`, and the nearer its maps are to the `boxes`. 1
    means the same order of preference; mean, lowest and highest over the settings.
    """
    groups = list(material.maps)
    found: dict[str, dict[str, list[float]]] = {}
    for name, measure in measures.items():
        square = mean_matrix(list(material.maps.values()), measure)
        for setting in SETTINGS:
            readings = _readings(square, groups, setting)
            if setting[1] in material.objects and material.objects[setting[1]][:images].any():
                readings["boxes"] = _to_boxes(material, measure, setting, images)
            for reading, values in readings.items():
                for metric, scores in _all_confidence(material, setting).items():
                    sign = 1 if metric.startswith("AD ") or metric == "AD" else -1
                    rho = float(spearmanr(values, [sign * scores[method] for method in ASKING]).statistic)
                    if not np.isnan(rho):  # all explainers equal: no order
                        found.setdefault(f"{name}: {reading}", {}).setdefault(metric, []).append(rho)
    return {
        reading: {metric: (mean(rho), min(rho), max(rho)) for metric, rho in entry.items()}
        for reading, entry in found.items()
    }


def _readings(square: Tensor, groups: list[Group], setting: Setting) -> dict[str, list[float]]:
    classifier, data = setting
    (other,) = (name for name in CLASSIFIERS if name != classifier)
    rows = [groups.index(group_of(classifier, data, method)) for method in ASKING]
    there = [groups.index(group_of(other, data, method)) for method in ASKING]
    inner = square[rows][:, rows]
    return {
        "others": (inner.sum(dim=1) / (len(rows) - 1)).tolist(),
        "other classifier": square[rows, there].tolist(),
    }


def _to_boxes(material: Material, measure: Distance, setting: Setting, images: int) -> list[float]:
    """Mean distance of each explainer's maps from the boxes of their images."""
    boxes = material.objects[setting[1]][:images].float()
    kept = boxes.flatten(1).any(dim=1)
    target = measure.prepare(boxes[kept])
    maps = [material.maps[group_of(*setting, method)][:images].float()[kept] for method in ASKING]
    return [float(measure.compare(measure.prepare(some), target).mean()) for some in maps]


def _all_confidence(material: Material, setting: Setting) -> dict[str, dict[str, float]]:
    names = next(iter(material.scores.values()))
    return {name: _confidence(material, setting, name) for name in names}


def _confidence(material: Material, setting: Setting, name: str) -> dict[str, float]:
    return {method: float(material.scores[*setting, method][name].nanmean()) for method in EXPLAINERS}
