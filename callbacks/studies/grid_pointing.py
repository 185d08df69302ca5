"""Grid pointing game: mosaics of four images of different classes, and where the map of each class lies on them."""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from callbacks.image_selection import ImageSelection, StudyImage, copied, gathered, own_rank
from callbacks.studies.study import CLASSIFIER, Row, Study, compared, explain, probability
from dre.checks import check_count
from dre.engine.chunks import is_out_of_memory
from dre.metrics import energy_pointing_game
from dre.models import Classifier
from dre.modules import ExplainerEvaluation
from dre.modules.variants import Explain
from dre.types import Explained

CELLS = 4
"""Images of a mosaic, two by two: upper left, upper right, lower left, lower right."""

NOTHING = torch.empty(0)
"""Stands for pixels that are not copied."""


def surest(images: Iterable[StudyImage], count: int) -> list[StudyImage]:
    """Return the first `count` images: the surest of each class, then the second of each class, and so on.

    Within such a round the surest come first; equal ones are told apart by key. What is not among the first of some
    images is not among the first of more, so that an evaluation need not keep it.
    """
    taken: dict[int, int] = {}
    ordered = []
    for one in sorted(images, key=lambda one: (-one.probability, one.key)):
        place = taken[int(one.target)] = taken.get(int(one.target), -1) + 1
        ordered.append((place, -one.probability, one.key, one))
    return [one for *_, one in sorted(ordered, key=lambda entry: entry[:3])][:count]


def mosaics_of(images: Iterable[StudyImage], count: int) -> list[list[StudyImage]]:
    """Put images, in their order, each into the first mosaic that has room and not its class; incomplete ones go."""
    mosaics: list[list[StudyImage]] = []
    for one in images:
        fitting = [cells for cells in mosaics if len(cells) < CELLS and _has_not(cells, one)]
        if fitting:
            fitting[0].append(one)
        else:
            mosaics.append([one])
    return [cells for cells in mosaics if len(cells) == CELLS][:count]


def _has_not(cells: Sequence[StudyImage], one: StudyImage) -> bool:
    """Return whether no cell shows the class of an image."""
    return all(int(cell.target) != int(one.target) for cell in cells)


class MosaicSelection(ImageSelection):
    """Keep the surest of the images that are classified correctly, and share their mosaics out among the ranks.

    Args:
        mosaics: How many.
        above: Probability of the class that an image must exceed.
    """

    def __init__(self, mosaics: int, above: float) -> None:
        super().__init__(CELLS * mosaics)
        self.above = above

    def update(self, outputs: Explained) -> None:
        """Look at a batch; only images that may be kept are copied."""
        fits = self._fits(outputs)
        self.seen += len(fits)
        self.suited += sum(fits)
        rows = {key: row for row, key in enumerate(outputs["key"]) if fits[row]}
        found = [_without_pixels(outputs, row) for row in rows.values()]
        first = surest([*self.kept, *found], self.count)
        self.kept = [copied(outputs, rows[one.key]) if one.pixels is NOTHING else one for one in first]

    def resume(self, progress: dict[str, Any]) -> None:
        """Add what `progress` returned for other images."""
        self.seen, self.suited = self.seen + progress["seen"], self.suited + progress["suited"]
        self.kept = surest([*self.kept, *(StudyImage(**one) for one in progress["kept"])], self.count)

    def mosaics(self) -> list[list[StudyImage]]:
        """Return the mosaics of all ranks' images, without their pixels; every rank must call it."""
        everyone = chain(*gathered([replace(one, pixels=NOTHING, objects=None) for one in self.kept]))
        return mosaics_of(surest(everyone, self.count), self.count // CELLS)

    def share(self) -> list[StudyImage]:
        """Return the images of this rank's mosaics, one mosaic after the other; every rank must call it."""
        mosaics = self.mosaics()
        wanted = {one.key for cells in mosaics for one in cells}
        ranks = gathered([one for one in self.kept if one.key in wanted])
        found = {one.key: one for one in chain(*ranks)}
        return [found[one.key] for cells in mosaics[own_rank() :: len(ranks)] for one in cells]

    def _fits(self, outputs: Explained) -> list[bool]:
        if "probability" not in outputs or "correct" not in outputs:
            return [False] * len(outputs["key"])
        fits: list[bool] = ((outputs["correct"] == 1) & (outputs["probability"] > self.above)).tolist()
        return fits


def _without_pixels(outputs: Explained, row: int) -> StudyImage:
    """Return what decides whether an image of a batch is kept."""
    target, probability = outputs["targets"][row].cpu(), float(outputs["probability"][row])
    return StudyImage(outputs["key"][row], NOTHING, target, None, probability=probability)


class GridPointingGame(Study):
    """Explain mosaics of four images of different classes and measure how much of each map lies on its class's image.

    `grid_pointing` is, for the class of each cell, the share of the positive attribution of the whole mosaic that lies
    inside the cell: in [0, 1], higher is better, and 1/4 by chance, which is also what a constant map has. A map
    without a positive value has 0. No annotation is needed. Of the classifier, `grid_probability` is the probability of
    each cell's class on the mosaic, at most 1/4 on average.

    The images are those that are classified correctly and most surely: the surest of each class, surest classes first,
    then the second of each, and each image is in one mosaic alone. A mosaic goes in at twice the size of the images
    where the network takes it, which is tried; else each image is halved. Explainers that raise an error at that size
    have no values, and a line says why.

    Args:
        mosaics: Mosaics to explain; fewer where there are too few images of different classes.
        explainers: Evaluated explainers to study; all when not given.
        above: Probability of its class that an image must exceed.

    Raises:
        ValueError: `mosaics` is below 1, `above` outside [0, 1), or `explainers` empty.

    Source: Böhle et al. 2021; 2 x 2 cells, images above one half and the sum of positive values are those of the
    published code, which draws the classes of a mosaic at random. To take the surest classes is our choice.
    """

    name = "grid_pointing_game"
    directions: ClassVar[Mapping[str, bool]] = {"grid_pointing": True}
    selection: MosaicSelection

    def __init__(self, mosaics: int = 8, explainers: list[str] | None = None, above: float = 0.5) -> None:
        check_count("mosaics", mosaics)
        if not 0 <= above < 1:
            raise ValueError(f"`above` must be at least 0 and below 1, got {above}")
        self.mosaics, self.above = mosaics, above
        self.size: tuple[int, int] | None = None
        super().__init__(CELLS * mosaics, explainers)

    def select(self) -> MosaicSelection:
        """See `Study`."""
        return MosaicSelection(self.mosaics, self.above)

    def points(self, evaluation: ExplainerEvaluation) -> list[tuple[str, float]]:
        """Return each quantity with its only place, 0."""
        return [("grid_pointing", 0.0), ("grid_probability", 0.0)]

    def settings(self, evaluation: ExplainerEvaluation) -> dict[str, Any]:
        """See `Study`."""
        return {"above": self.above, "mosaic_size": self.size, "chance": 1 / CELLS}

    def unsupported(self, evaluation: ExplainerEvaluation) -> str:
        """See `Study`."""
        if self.selection.mosaics():
            return ""
        seen, suited = self.selection.counts()
        return (
            f"a mosaic needs images of {CELLS} classes that are classified correctly with a probability above "
            f"{self.above:g}, and the {suited} of {seen} images that are show fewer; evaluate more images, with labels "
            "that are the classifier's classes"
        )

    def measure(self, evaluation: ExplainerEvaluation, images: Sequence[StudyImage]) -> Iterator[Row]:
        """Explain every class of each mosaic."""
        explainers = evaluation.variants.explain_with(self.names(evaluation))
        for start in range(0, len(images), CELLS):
            cells = images[start : start + CELLS]
            pixels = mosaic([cell.pixels.to(evaluation.device) for cell in cells], evaluation.classifier)
            self.size = (pixels.shape[-2], pixels.shape[-1])
            together = "+".join(cell.key for cell in cells)  # all classes of a mosaic have the same draws
            for place, cell in enumerate(cells):
                sure = probability(evaluation.classifier, cell, pixels)
                yield Row(cell.key, CLASSIFIER, "grid_probability", 0.0, sure)
                on_mosaic, inside = replace(cell, key=together), cell_mask(pixels, place)
                for name, explainer in explainers.items():
                    saliency = explained_or_nan(name, explainer, on_mosaic, pixels)
                    value = compared(energy_pointing_game, saliency, inside)
                    yield Row(cell.key, name, "grid_pointing", 0.0, value)


def mosaic(cells: Sequence[Tensor], classifier: Classifier) -> Tensor:
    """Put four images [1, C, H, W] together: [1, C, 2 H, 2 W] where a classifier takes that size, else [1, C, H, W].

    Args:
        cells: Upper left, upper right, lower left, lower right.
        classifier: Tries the large mosaic; one whose logits are not finite does not count as taken.
    """
    large = torch.cat([torch.cat(list(row), dim=3) for row in (cells[:2], cells[2:])], dim=2)
    if takes(classifier, large):
        return large
    height, width = cells[0].shape[-2:]
    rows, columns = halves(height), halves(width)
    small = [
        F.interpolate(cell, (rows[place // 2], columns[place % 2]), mode="bilinear", antialias=True)
        for place, cell in enumerate(cells)
    ]
    return torch.cat([torch.cat(row, dim=3) for row in (small[:2], small[2:])], dim=2)


def is_of_machine(error: RuntimeError) -> bool:
    """Return whether an error says nothing about network or explainer: no memory, or a killed worker of the loader."""
    return is_out_of_memory(error) or str(error).startswith("DataLoader worker")


def halves(side: int) -> tuple[int, int]:
    """Split a side of the mosaic between two cells."""
    return side // 2, side - side // 2


def cell_mask(pixels: Tensor, place: int) -> Tensor:
    """Return [1, 1, H, W], 1 inside a cell of a mosaic, which are numbered row by row."""
    inside = torch.zeros_like(pixels[:, :1])
    rows, columns = (side // 2 for side in pixels.shape[-2:])
    row, column = (slice(0, rows), slice(rows, None)), (slice(0, columns), slice(columns, None))
    inside[..., row[place // 2], column[place % 2]] = 1
    return inside


@torch.no_grad()
def takes(classifier: Classifier, pixels: Tensor) -> bool:
    """Return whether a classifier gives finite logits for images of this size."""
    try:
        return bool(classifier(pixels).isfinite().all())
    except Exception as error:  # of any network, on a size that it was not made for
        if isinstance(error, RuntimeError) and is_of_machine(error):
            raise
        return False


def explained_or_nan(name: str, explainer: Explain, image: StudyImage, pixels: Tensor) -> Tensor:
    """Explain a mosaic; NaN, and a line, where the explainer raises an error: it may not know this size, or image."""
    try:
        return explain(explainer, image, pixels)
    except Exception as error:  # of any explainer
        if isinstance(error, RuntimeError) and is_of_machine(error):
            raise
        size = f"{pixels.shape[-2]} x {pixels.shape[-1]}"
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        warnings.warn(f"{name} has no value on a mosaic of {size} pixels: {reason}", stacklevel=2)
        return torch.full_like(pixels[:, :1], torch.nan)
