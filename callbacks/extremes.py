"""The images with the lowest and the highest values so far, small, merged over the ranks."""

import math
from dataclasses import asdict
from typing import Any

import torch

from callbacks.chosen import gathered
from dre.reporting import Example
from dre.reporting.gallery import small, small_maps
from dre.types import Explained


class Extremes:
    """Keep the images on which one explainer has its lowest and highest values, each with the maps of all explainers.

    Equal values are told apart by key, so the choice depends on neither order nor ranks. Images without a value of
    that explainer are not looked at.

    Args:
        explainer: Whose values decide.
        metric: Of which metric.
        count: How many to keep at each end.
    """

    def __init__(self, explainer: str, metric: str, count: int) -> None:
        self.explainer, self.metric, self.count = explainer, metric, count
        self.worst: list[Example] = []
        self.best: list[Example] = []

    def update(self, outputs: Explained) -> None:
        """Look at a batch; only what may stay is made small."""
        values = {name: found[self.metric].tolist() for name, found in outputs["values"].items()}
        chosen = values[self.explainer]
        known = (place for place, value in enumerate(chosen) if math.isfinite(value))
        candidates = sorted(known, key=lambda place: (chosen[place], outputs["key"][place]))
        for place in {*candidates[: self.count], *candidates[-self.count :]}:
            if self._may_stay(chosen[place], outputs["key"][place]):
                shown = {name: row[place] for name, row in values.items() if math.isfinite(row[place])}
                self._add(_example(outputs, place, chosen[place], shown))

    def merged(self) -> tuple[list[Example], list[Example]]:
        """Give worst and best of all ranks, most extreme first, no image in both; every rank must call it."""
        ordered = _ordered([example for kept in gathered([*self.worst, *self.best]) for example in kept])
        count = min(self.count, len(ordered) // 2)
        return ordered[:count], ordered[::-1][:count]

    def progress(self) -> dict[str, Any]:
        """Give what was kept as plain values."""
        return {"worst": [asdict(one) for one in self.worst], "best": [asdict(one) for one in self.best]}

    def resume(self, progress: dict[str, Any]) -> None:
        """Add what was kept of other images."""
        more = [Example(**one) for one in (*progress["worst"], *progress["best"])]
        ordered = _ordered([*self.worst, *self.best, *more])
        self.worst, self.best = ordered[: self.count], ordered[::-1][: self.count]

    def _may_stay(self, value: float, key: str) -> bool:
        if len(self.worst) < self.count:
            return True
        return (value, key) < _order(self.worst[-1]) or (value, key) > _order(self.best[-1])

    def _add(self, example: Example) -> None:
        self.worst = sorted([*self.worst, example], key=_order)[: self.count]
        self.best = sorted([*self.best, example], key=_order, reverse=True)[: self.count]


def _ordered(examples: list[Example]) -> list[Example]:
    """Give each image once, lowest value first."""
    return sorted({example.key: example for example in examples}.values(), key=_order)


def _order(example: Example) -> tuple[float, str]:
    return example.value, example.key


def _example(outputs: Explained, place: int, value: float, values: dict[str, float]) -> Example:
    rows = slice(place, place + 1)
    maps: dict[str, Any] = {name: small_maps(saliency[rows])[0] for name, saliency in outputs["saliency"].items()}
    with torch.no_grad():
        image = small(outputs["images"][rows])[0]
    return Example(outputs["key"][place], value, image, maps, values)
