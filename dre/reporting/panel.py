"""Panel of maps as one picture: a column for each photograph, a row for each explainer."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.textpath import TextPath
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from dre.reporting.overlay import Pixels, overlay_map, picture_of, rgb, with_patch
from dre.reporting.style import readable, styled
from dre.runs.locks import replacing

SIDE = 192
"""Pixels of the longer side of a photograph in the picture."""

GAP = 4
LINE = 14
"""Height of a line of a caption, in pixels."""

SMALL = 10
"""Height of the letters of a caption, in pixels."""

HEADING = 26
LABEL = 11
"""Height of the letters of a label, in pixels."""

EXPLAINED = "explained class"
"""Beside the captions of the photographs."""

POINTS = 72
"""Dots per inch at which font sizes are in pixels."""

CREDITS_A_LINE = 4


@dataclass(frozen=True, slots=True)
class Photograph:
    """Hold one column of the picture.

    Args:
        key: Its name.
        image: [C, H, W] in [0, 1].
        maps: [H, W] in [-1, 1] of each explainer, as `for_display` scales them; [3, H, W] is drawn as it is.
        values: In [0, 1], of some explainers; drawn as a coloured square on their maps.
        caption: Lines below the photograph, such as the class that is explained; too long ones are cut.
    """

    key: str
    image: Tensor
    maps: Mapping[str, Tensor]
    values: Mapping[str, float] = field(default_factory=dict)
    caption: str = ""

    def drawn(self, name: str) -> Pixels:
        """Return the map of an explainer as a picture."""
        shown = self.maps[name]
        picture = rgb(shown) if shown.ndim == 3 else overlay_map(self.image, shown)
        return with_patch(picture, self.values[name]) if name in self.values else picture


class Panel(Figure):
    """Hold a picture of maps that a notebook shows, whatever its backend of matplotlib."""

    def _repr_png_(self) -> bytes:
        """Return the picture as IPython asks for it."""
        buffer = io.BytesIO()
        Image.fromarray(_pixels(self)).save(buffer, "PNG")
        return buffer.getvalue()


def draw_panel(photographs: Sequence[Photograph], path: Path, caption: str = "", **options: Any) -> None:
    """Draw what `panel_figure` draws as a PNG file.

    Args:
        photographs: See there.
        path: Of the file.
        caption: See there.
        options: See there.
    """
    save_figure(panel_figure(photographs, caption, **options), path)


def panel_figure(
    photographs: Sequence[Photograph],
    caption: str = "",
    *,
    labels: Mapping[str, str] | None = None,
    headings: Mapping[str, str] | None = None,
    beside: str = EXPLAINED,
    side: int = SIDE,
) -> Panel:
    """Draw photographs and below each its maps.

    Args:
        photographs: At least one, all of one size and with the same explainers.
        caption: Below the picture.
        labels: Text beside the maps of an explainer, where it is not its name.
        headings: Text above the maps of an explainer.
        beside: What the captions of the photographs are.
        side: Pixels of the longer side of each photograph and map.
    """
    names = list(photographs[0].maps)
    headings = headings or {}
    texts = {"": "photograph"} | {name: (labels or {}).get(name, readable(name)) for name in names}
    rows = [_tiles([rgb(one.image) for one in photographs], side)]
    rows += [_tiles([one.drawn(name) for one in photographs], side) for name in names]
    height, width, _ = rows[0].shape
    captions = [one.caption for one in photographs]
    said = LINE * max(len(one.splitlines()) for one in captions)
    words = "\n".join([*texts.values(), *([beside] if said else [])])
    left = round(max(map(_width, words.splitlines()))) + 4 * GAP
    below = LINE * len(caption.splitlines()) + GAP
    tops, total = [], GAP
    for name in texts:
        total += HEADING if name in headings else 0
        tops.append(total)
        total += height + GAP + (0 if name else said)
    figure = Panel(figsize=((left + width + GAP) / POINTS, (total + below) / POINTS), dpi=POINTS)
    FigureCanvasAgg(figure)
    for name, top, row in zip(texts, tops, rows, strict=True):
        bottom = total + below - top - height
        figure.figimage(row, left, bottom)
        _write(figure, left - 2 * GAP, bottom + height / 2, texts[name], ha="right", va="center", fontsize=LABEL)
        if name in headings:
            _write(figure, left, bottom + height + GAP, headings[name], fontsize=13, weight="bold")
    if said:
        _write(figure, left - 2 * GAP, total + below - 2 * GAP - height, beside, ha="right", va="top", fontsize=LABEL)
        _write_captions(figure, captions, left, total + below - 2 * GAP - height, width)
    _write(figure, GAP, GAP, caption, fontsize=SMALL, color="0.35")
    return figure


def credits_caption(keys: Sequence[str], authors: Mapping[str, str], a_line: int = CREDITS_A_LINE) -> str:
    """Return a caption that names the photographers as far as they are known, a few to a line; nothing when none is."""
    named = [f"{place}: {authors[key]}" for place, key in enumerate(keys, start=1) if key in authors]
    lines = [", ".join(named[start : start + a_line]) for start in range(0, len(named), a_line)]
    return "Photographs, left to right: " + "\n".join(lines) if lines else ""


def _write_captions(figure: Figure, captions: Sequence[str], left: float, top: float, width: float) -> None:
    """Write a caption below each of some tiles, which together are `width` pixels wide."""
    step = (width + GAP) / len(captions)
    for place, caption in enumerate(captions):
        lines = [_fitted(line, step - GAP) for line in caption.splitlines()]
        _write(figure, left + place * step, top, "\n".join(lines), va="top", fontsize=SMALL)


def _fitted(line: str, width: float) -> str:
    """Cut a line that is wider than so many pixels, and end it in an ellipsis."""
    if _width(line, SMALL) <= width:
        return line
    while line and _width(f"{line}\u2026", SMALL) > width:
        line = line[:-1].rstrip()
    return f"{line}\u2026"


def _tiles(pictures: Sequence[Pixels], side: int) -> NDArray[np.uint8]:
    """Place pictures [H, W, 3] side by side in 8 bits, resized: shrunk by area, enlarged without smoothing."""
    height, width, _ = pictures[0].shape
    size = (max(1, round(width * side / max(height, width))), max(1, round(height * side / max(height, width))))
    gap = np.ones((size[1], GAP, 3))
    tiles: list[Pixels] = []
    for picture in pictures:
        tiles += [np.asarray(picture_of(picture).resize(size, Image.Resampling.BOX)) / 255, gap]
    return (np.concatenate(tiles[:-1], axis=1) * 255).astype(np.uint8)  # 8 bits: a row of floats takes eight times that


@lru_cache(maxsize=4096)
def _width(text: str, size: int = LABEL) -> float:
    """Return the width of a label, or of text of another size, in pixels."""
    with styled():
        return float(TextPath((0, 0), text.replace("$", r"\$"), size=size).get_extents().width) if text else 0.0


def _write(figure: Figure, x: float, y: float, text: str, **style: object) -> None:
    """Write text at a place in pixels from the lower left corner."""
    width, height = figure.get_size_inches() * figure.dpi
    figure.text(x / width, y / height, text, parse_math=False, **style)  # type: ignore[arg-type]


def save_figure(figure: Panel, path: Path) -> None:
    """Write a picture as a PNG file."""
    with replacing(path) as part:
        Image.fromarray(_pixels(figure)).save(part, "PNG", optimize=True)


def _pixels(figure: Panel) -> NDArray[np.uint8]:
    """Render a picture in 8 bits, [H, W, 3]."""
    with styled():
        figure.canvas.draw()
    pixels: NDArray[np.uint8] = np.asarray(figure.canvas.buffer_rgba())[..., :3]  # type: ignore[attr-defined]
    return pixels
