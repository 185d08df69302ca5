"""The few images that an expensive study looks at: the same ones whatever the order, the batches and the ranks."""

import hashlib
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import torch.distributed as dist
from torch import Tensor

from dre.types import Explained

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class StudyImage:
    """One image of a study, on the CPU.

    Args:
        key: Its name in the data.
        pixels: [1, C, H, W].
        target: [1], the class that is explained.
        objects: [1, 1, H, W], 1 inside a box; None where the data have no boxes.
    """

    key: str
    pixels: Tensor
    target: Tensor
    objects: Tensor | None

    @property
    def place(self) -> str:
        """Where it stands in the order of all images."""
        return place_of(self.key)


def place_of(key: str) -> str:
    """Order images by a hash of their keys, the same for any packing, and as the data's own `limit` counts."""
    return hashlib.sha256(key.encode()).hexdigest()


class ChosenImages:
    """Keep the first images in the order of a hash of their keys, and share them out among the ranks.

    Args:
        count: How many to keep.
        with_objects: Keep only images of which boxes cover a part: neither nothing nor everything.
    """

    def __init__(self, count: int, with_objects: bool = False) -> None:
        self.count, self.with_objects = count, with_objects
        self.seen, self.suited = 0, 0
        self.kept: list[StudyImage] = []

    def update(self, outputs: Explained) -> None:
        """Look at a batch; only what may stay is copied."""
        fits = self._fits(outputs)
        self.seen += len(fits)
        self.suited += sum(fits)
        for row, key in enumerate(outputs["key"]):
            if fits[row] and (len(self.kept) < self.count or place_of(key) < self.kept[-1].place):
                self.kept = sorted([*self.kept, _copied(outputs, row)], key=lambda one: one.place)[: self.count]

    def progress(self) -> dict[str, Any]:
        """Give what was kept as plain values."""
        return {"seen": self.seen, "suited": self.suited, "kept": [asdict(one) for one in self.kept]}

    def resume(self, progress: dict[str, Any]) -> None:
        """Add what was kept of other images."""
        self.seen, self.suited = self.seen + progress["seen"], self.suited + progress["suited"]
        more = [StudyImage(**one) for one in progress["kept"]]
        self.kept = sorted([*self.kept, *more], key=lambda one: one.place)[: self.count]

    def share(self) -> list[StudyImage]:
        """Give this rank its part of the images that were chosen among those of all ranks; every rank must call it."""
        ranks = gathered([one.place for one in self.kept])
        chosen = set(sorted(place for places in ranks for place in places)[: self.count])
        offered = [one for one in self.kept if one.place in chosen]
        everything = sorted((one for part in gathered(offered) for one in part), key=lambda one: one.place)
        return everything[_rank() :: len(ranks)]

    def counts(self) -> tuple[int, int]:
        """How many images all ranks saw, and how many of these were suited; every rank must call it."""
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


def _copied(outputs: Explained, row: int) -> StudyImage:
    rows = slice(row, row + 1)
    objects = outputs["objects"][rows].cpu().clone() if "objects" in outputs else None
    pixels, target = (tensor[rows].detach().cpu().clone() for tensor in (outputs["images"], outputs["targets"]))
    return StudyImage(outputs["key"][row], pixels, target, objects)


def _rank() -> int:
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def gathered(own: list[Item]) -> list[list[Item]]:
    """Give what every rank has, by rank."""
    if not (dist.is_available() and dist.is_initialized()):
        return [own]
    found: list[list[Item]] = [[]] * dist.get_world_size()
    dist.all_gather_object(found, own)
    return found
