"""Gallery of a report: small photographs with the maps of every explainer overlaid."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from dre.reporting.cells import Cell, class_text, number, percent, short_name, verdict
from dre.reporting.html import table
from dre.reporting.overlay import for_display, overlay_map, png, rgb
from dre.reporting.style import readable
from dre.statistics.tables import pivot

SIDE = 160
"""Pixels of the longer side of a small picture."""

COLOURS = 128
"""Number of colours in the file of a small picture."""


@dataclass(frozen=True, slots=True)
class Example:
    """Hold one image of the gallery, small.

    Args:
        key: Its name.
        value: Of the metric and explainer that selected it.
        image: uint8 [C, h, w].
        maps: Saliency by explainer, int8 [h, w], each scaled to -127..127.
        values: The same quantity by explainer.
        credit: Who took the photograph.
        target: Name of the class that is explained; empty where that is not known.
        probability: Of that class.
        correct: Whether the classifier's prediction is what the data say; None where that is not known.

    Example:
        >>> import torch
        >>> image, saliency = torch.zeros(3, 4, 4, dtype=torch.uint8), torch.zeros(4, 4, dtype=torch.int8)
        >>> Example("cat", 0.5, image, {"random": saliency}, {"random": 0.5}).credit
        ''
    """

    key: str
    value: float
    image: Tensor
    maps: dict[str, Tensor]
    values: dict[str, float] = field(default_factory=dict)
    credit: str = ""
    target: str = ""
    probability: float | None = None
    correct: bool | None = None


def small(pictures: Tensor, side: int = SIDE) -> Tensor:
    """Shrink pictures [B, C, H, W] in [0, 1] to at most `side` pixels, as uint8; never enlarge."""
    return (_shrunk(pictures, side).clamp(0, 1) * 255).round().to(torch.uint8).cpu()


def small_maps(saliency: Tensor, side: int = SIDE) -> Tensor:
    """Scale each map [B, 1, H, W] for a picture, see `for_display`, to -127..127 and shrink it: int8 [B, h, w]."""
    return (_shrunk(for_display(saliency), side)[:, 0] * 127).round().to(torch.int8).cpu()


def _shrunk(pictures: Tensor, side: int) -> Tensor:
    height, width = pictures.shape[-2:]
    scale = min(1.0, side / max(height, width))
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    if size != (height, width):
        pictures = F.interpolate(pictures.float(), size=size, mode="bilinear", antialias=True)
    return pictures


def photograph_png(image: Tensor) -> bytes:
    """Write uint8 [C, h, w], one or three channels, as a small PNG file."""
    return png(rgb(image) / 255, COLOURS)


def overlay_png(image: Tensor, saliency: Tensor) -> bytes:
    """Write a map int8 [h, w] in colour over the faded photograph uint8 [C, h, w] as a small PNG file."""
    return png(overlay_map(image / 255, saliency / 127), COLOURS)


def gallery_table(name: str, examples: list[Example], explainers: list[str], caption: str, factor: float) -> str:
    """Write examples as a table of pictures, one row each.

    Under the photograph stands the explained class, where it is known, and under each map its value, times the factor.
    """
    rows = []
    for example in examples:
        said = ", ".join(filter(None, class_text(example.target, example.probability, example.correct)))
        explained = f"explained: {said}" if said else ""
        pictures = [Cell(explained, picture=photograph_png(example.image), hint=example.target)]
        for explainer in explainers:
            value = example.values.get(explainer)
            pictures.append(Cell(number(value, factor), picture=overlay_png(example.image, example.maps[explainer])))
        rows.append([Cell(example.key, note=example.credit), *pictures])
    classes = [example.target for example in examples]
    header = ["image", "photograph", *map(readable, explainers)]
    return table(name, header, rows, caption, classes=classes if any(classes) else ())


def images_table(name: str, frame: pd.DataFrame, explainers: Sequence[str], caption: str, factor: float) -> str:
    """Write a row for each image: the explained class, its probability, right or wrong, and the explainers' values.

    Args:
        name: Id of the table.
        frame: Rows of one metric of a table of scores; without class columns, as of an earlier version, none are shown.
        explainers: Columns, in this order.
        caption: Above the table.
        factor: Of the values.
    """
    values = pivot(frame, str(frame["metric"].iloc[0])).reindex(columns=list(explainers))
    images = frame.drop_duplicates("key").set_index("key")
    has_classes = "target_name" in images
    rows, classes = [], []
    for key, found in values.iterrows():
        cells, about = [Cell(str(key))], images.loc[key]
        if has_classes:
            target, correct = _known(about["target_name"], ""), _known(about["correct"], None)
            classes.append(target)
            cells.append(Cell(short_name(target) if target else "-", hint=target))
            cells += [Cell(said or "-") for said in (percent(_known(about["probability"], None)), verdict(correct))]
        rows.append([*cells, *(Cell(number(_known(value, None), factor)) for value in found)])
    header = ["image", *(["explained class", "probability", "prediction"] if has_classes else [])]
    return table(name, [*header, *map(readable, explainers)], rows, caption, classes=classes, is_tall=True)


def _known(value: Any, otherwise: Any) -> Any:
    """Return a value of a table, or something else where it is missing."""
    return otherwise if pd.isna(value) else value
