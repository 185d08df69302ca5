"""Image selection: keep a few evaluated images, the first by a hash of their keys or the best and worst by a metric.

The same images are kept for any order, batch size and number of ranks.
"""

import hashlib
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from callbacks.explained_classes import class_caption, class_of
from dre.reporting import Example
from dre.reporting.gallery import small, small_maps
from dre.types import Explained

Item = TypeVar("Item")


class Keyed(Protocol):
    """Anything that belongs to one image."""

    @property
    def key(self) -> str:
        """Return the name of the image in the data."""


Image = TypeVar("Image", bound=Keyed)


@dataclass(frozen=True, slots=True)
class StudyImage:
    """Hold one image of a study on the CPU.

    Args:
        key: Its name in the data.
        pixels: [1, C, H, W].
        target: [1], the class that is explained.
        objects: [1, 1, H, W], 1 on the object; None where the data have neither masks nor boxes.
        caption: The explained class in words.
        probability: That of the explained class, where it is known.
    """

    key: str
    pixels: Tensor
    target: Tensor
    objects: Tensor | None
    caption: str = ""
    probability: float = math.nan


def place_of(key: str) -> str:
    """Return the SHA-256 of a key, which orders images in the same way for any packing, as `limit` of the data does."""
    return hashlib.sha256(key.encode()).hexdigest()


def first_keys(keys: Iterable[str], count: int) -> list[str]:
    """Return the first `count` keys in the order of `place_of`."""
    return sorted(keys, key=place_of)[:count]


def first_images(images: Iterable[Image], count: int) -> list[Image]:
    """Return the first `count` images in the order of `place_of`."""
    return sorted(images, key=lambda one: place_of(one.key))[:count]


def first_rows(candidates: dict[str, int], kept: Iterable[Keyed], count: int) -> list[int]:
    """Return the rows of a batch whose images are among the first `count` of it and of those that are kept.

    Args:
        candidates: Key of an image -> its row in the batch.
        kept: Images of earlier batches.
        count: How many images are kept in all.
    """
    first = set(first_keys([*candidates, *(one.key for one in kept)], count))
    return [row for key, row in candidates.items() if key in first]


class ImageSelection:
    """Keep the first images in the order of a hash of their keys, and share them out among the ranks.

    Args:
        count: How many to keep.
        with_objects: Keep only images of which objects cover a part: neither nothing nor everything.
    """

    def __init__(self, count: int, with_objects: bool = False) -> None:
        self.count, self.with_objects = count, with_objects
        self.seen, self.suited = 0, 0
        self.kept: list[StudyImage] = []

    def update(self, outputs: Explained) -> None:
        """Look at a batch; only images that may be kept are copied."""
        fits = self._fits(outputs)
        self.seen += len(fits)
        self.suited += sum(fits)
        candidates = {key: row for row, key in enumerate(outputs["key"]) if fits[row]}
        added = [copied(outputs, row) for row in first_rows(candidates, self.kept, self.count)]
        self.kept = first_images([*self.kept, *added], self.count)

    def progress(self) -> dict[str, Any]:
        """Return what is kept as plain values, tensors and lists, for a file."""
        return {"seen": self.seen, "suited": self.suited, "kept": [asdict(one) for one in self.kept]}

    def resume(self, progress: dict[str, Any]) -> None:
        """Add what `progress` returned for other images."""
        self.seen, self.suited = self.seen + progress["seen"], self.suited + progress["suited"]
        more = [StudyImage(**one) for one in progress["kept"]]
        self.kept = first_images([*self.kept, *more], self.count)

    def share(self) -> list[StudyImage]:
        """Return this rank's part of the images that are the first of all ranks; every rank must call it."""
        ranks = gathered([one.key for one in self.kept])
        first = set(first_keys(chain(*ranks), self.count))
        offered = [one for one in self.kept if one.key in first]
        return first_images(chain(*gathered(offered)), self.count)[own_rank() :: len(ranks)]

    def counts(self) -> tuple[int, int]:
        """Return how many images all ranks saw and how many of them fit; every rank must call it."""
        ranks = gathered([self.seen, self.suited])
        return sum(rank[0] for rank in ranks), sum(rank[1] for rank in ranks)

    def _fits(self, outputs: Explained) -> list[bool]:
        if not self.with_objects:
            return [True] * len(outputs["key"])
        if "objects" not in outputs:
            return [False] * len(outputs["key"])
        covered = outputs["objects"].flatten(1).mean(dim=1)
        fits: list[bool] = ((covered > 0) & (covered < 1)).tolist()
        return fits


def copied(outputs: Explained, row: int) -> StudyImage:
    """Copy one image of a batch to the CPU."""
    rows = slice(row, row + 1)
    objects = outputs["objects"][rows].cpu().clone() if "objects" in outputs else None
    pixels, target = (tensor[rows].detach().cpu().clone() for tensor in (outputs["images"], outputs["targets"]))
    probability = float(outputs["probability"][row]) if "probability" in outputs else math.nan
    return StudyImage(outputs["key"][row], pixels, target, objects, class_caption(outputs, row), probability)


def own_rank() -> int:
    """Return the number of this process; 0 where there is one."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def gathered(own: list[Item]) -> list[list[Item]]:
    """Return the lists of all ranks, by rank; every rank must call it."""
    if not (dist.is_available() and dist.is_initialized()):
        return [own]
    found: list[list[Item]] = [[]] * dist.get_world_size()
    dist.all_gather_object(found, own)
    return found


class BestWorst:
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
        """Look at a batch; only images that may be kept are made small."""
        values = {name: found[self.metric].tolist() for name, found in outputs["values"].items()}
        deciding = values[self.explainer]
        known = (place for place, value in enumerate(deciding) if math.isfinite(value))
        candidates = sorted(known, key=lambda place: (deciding[place], outputs["key"][place]))
        for place in {*candidates[: self.count], *candidates[-self.count :]}:
            if self._may_stay(deciding[place], outputs["key"][place]):
                shown = {name: row[place] for name, row in values.items() if math.isfinite(row[place])}
                self._add(_example(outputs, place, deciding[place], shown))

    def merged(self) -> tuple[list[Example], list[Example]]:
        """Return the worst and the best of all ranks, most extreme first, no image in both; every rank must call it."""
        ordered = _ordered([example for kept in gathered([*self.worst, *self.best]) for example in kept])
        count = min(self.count, len(ordered) // 2)
        return ordered[:count], ordered[::-1][:count]

    def progress(self) -> dict[str, Any]:
        """Return what is kept as plain values, tensors and lists, for a file."""
        return {"worst": [asdict(one) for one in self.worst], "best": [asdict(one) for one in self.best]}

    def resume(self, progress: dict[str, Any]) -> None:
        """Add what `progress` returned for other images."""
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
    """Return each image once, lowest value first."""
    return sorted({example.key: example for example in examples}.values(), key=_order)


def _order(example: Example) -> tuple[float, str]:
    return example.value, example.key


def _example(outputs: Explained, place: int, value: float, values: dict[str, float]) -> Example:
    rows = slice(place, place + 1)
    maps: dict[str, Any] = {name: small_maps(saliency[rows])[0] for name, saliency in outputs["saliency"].items()}
    with torch.no_grad():
        image = small(outputs["images"][rows])[0]
    return Example(outputs["key"][place], value, image, maps, values, **class_of(outputs, place))
