"""Distances that the study compares: each prepares maps once and then compares prepared ones."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from dre.metrics import (
    MapMixtures,
    earth_mover,
    intersection_over_union,
    kullback_leibler,
    root_mean_square,
    structural_similarity,
    value_distance,
)
from dre.metrics.distribution import normalised_saliency

XMGD = "XMGD"
CHUNK = 64
"""Pairs of maps that are compared at once."""


class Distance(NamedTuple):
    """Prepare maps [N, 1, H, W] -> [N, ...]; compare prepared ones row by row -> [N], 0 for equal maps."""

    prepare: Callable[[Tensor], Tensor]
    compare: Callable[[Tensor, Tensor], Tensor]


def distances(begin: str = "ellipse") -> dict[str, Distance]:
    """Return all distances by the name that tables use."""
    model = MapMixtures(begin=begin)  # type: ignore[arg-type]

    def mixtures(maps: Tensor) -> Tensor:
        return model.pack(model.fit(maps))

    def between(part: int) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda one, other: model.distances(model.unpack(one), model.unpack(other))[part]

    def jeffreys(one: Tensor, other: Tensor) -> Tensor:
        return (kullback_leibler(one, other) + kullback_leibler(other, one)) / 2

    return {
        XMGD: Distance(mixtures, between(0)),
        "XMGD, squares": Distance(mixtures, between(1)),
        "KL, both ways": Distance(normalised_saliency, jeffreys),
        "1 - SSIM": Distance(normalised_saliency, lambda one, other: 1 - structural_similarity(one, other)),
        "EMD, 28 x 28": Distance(normalised_saliency, earth_mover),
        "EMD of values": Distance(normalised_saliency, value_distance),
        "RMSE": Distance(normalised_saliency, root_mean_square),
        "1 - IoU": Distance(normalised_saliency, lambda one, other: 1 - intersection_over_union(one, other)),
    }


def matrix(distance: Distance, prepared: Tensor) -> Tensor:
    """Return all distances between prepared maps, symmetric, float64 [N, N]."""
    rows, columns = torch.triu_indices(len(prepared), len(prepared), 1)
    found = torch.zeros(len(prepared), len(prepared), dtype=torch.float64)
    for left, right in zip(torch.split(rows, CHUNK), torch.split(columns, CHUNK), strict=True):
        found[left, right] = distance.compare(prepared[left], prepared[right])
    return found + found.T


def off_diagonal(square: Tensor) -> Tensor:
    """Return each distance between two different entries, once: [N (N - 1) / 2]."""
    rows, columns = torch.triu_indices(len(square), len(square), 1)
    return square[rows, columns]


def mean_map(maps: Tensor) -> Tensor:
    """Mean of the reliefs of a set of maps, [1, 1, H, W]."""
    return normalised_saliency(maps).mean(dim=0, keepdim=True)
