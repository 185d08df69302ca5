"""Pictures of the results pages: which are kept in git, where runs have them, and how they are made smaller."""

import hashlib
import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd
import yaml
from PIL import Image

from dre.images.decode import open_picture
from dre.reporting.figures import curves_figure
from dre.reporting.style import png_bytes
from dre.runs.results import RunResults
from reproduction.run_page import Listed

MOST = 25
"""Pictures that it may have."""

CHOSEN = Path("configs/pictures.yaml")
"""Pictures that it has, by the name of the file, and what each shows."""

PHOTOGRAPHS = ("gallery.png", "salient_*.png", "*_maps.png")
CHARTS = (
    "xmgd.png",
    "xmgd_comparisons.png",
    "step_study.png",
    "projection_gap.png",
    "jpeg_stability.png",
    "device_stability.png",
    "weight_perturbation.png",
    "model_randomisation.png",
    "background_replacement.png",
)
RANKS = "critical_difference_*.png"
"""Of runs that belong to a table of a paper; those of a min-max for each image are those of what it scales."""

DEMO = Path("data/demo/manifest.json")
COLOURS = 64
"""Of a chart."""

LINES = 32
"""Colours of a chart of few lines."""

PIXELS, SHADES = 290_000, 128
"""Most pixels, whatever the shape, and colours of a picture of photographs."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture on the page.

    Args:
        name: Of its file.
        content: The PNG file.
        title: What it is called.
        caption: What it shows.
        run: That it belongs to; None where it belongs to none.
    """

    name: str
    content: bytes
    title: str
    caption: str
    run: RunResults | None = None


def read_chosen(path: Path | None = None) -> dict[str, str]:
    """Read which pictures are kept in git, and what each of them shows; refuse more than `MOST`."""
    chosen: dict[str, str] = yaml.safe_load((path or CHOSEN).read_text())
    if len(chosen) > MOST:
        raise ValueError(
            f"{path or CHOSEN} names {len(chosen)} pictures, at most {MOST} are kept in git; take some out"
        )
    return chosen


def pictures_of(
    listed: Sequence[Listed], charts: Sequence[Path], chosen: Mapping[str, str] | None = None
) -> list[Picture]:
    """Give the pictures of the runs and of the folders of charts; refuse two of one name.

    Args:
        listed: The runs.
        charts: Folders of pictures that belong to no run.
        chosen: Names of those that are wanted, and what each shows; all without.
    """
    found = [(f"{one.slug}_{path.name}", path, make, one.run) for one in listed for path, make in _of_run(one.run)]
    paths = [path for folder in charts for path in sorted(folder.glob("*.png"))]
    drawn = [*found, *((path.name, path, _smaller(path), None) for path in paths)]
    sources: dict[str, Path] = {}
    pictures = []
    for name, path, make, run in drawn:
        if name in sources:
            raise ValueError(f"{sources[name]} and {path} would both be called {name}; rename one, or leave it out")
        sources[name] = path
        if chosen is None or name in chosen:
            title = _title(path)
            pictures.append(Picture(name, make(), title, (chosen or {}).get(name, title), run))
    return pictures


def _of_run(run: RunResults) -> Iterator[tuple[Path, Callable[[], bytes]]]:
    """Give the pictures of a run: the file that each has or would have there, and what makes its content."""
    shows_maps = "figure" in run.name and is_demo(run)
    for path in sorted(run.directory.glob(RANKS) if run.tables else ()):
        if not path.stem.endswith("_normalised"):
            yield path, _smaller(path, LINES)
    for path in sorted(path for pattern in CHARTS for path in run.directory.glob(pattern)):
        yield path, _smaller(path)
    for path in sorted(path for pattern in PHOTOGRAPHS if shows_maps for path in run.directory.glob(pattern)):
        yield path, partial(lambda path: shrunk(path.read_bytes()), path)
    curves = run.directory / "curves.parquet"
    frame = pd.read_parquet(curves) if curves.is_file() else pd.DataFrame()
    if not frame.empty:
        figure = partial(curves_figure, frame, run.summary["explainers"])
        yield curves.with_suffix(".png"), lambda: small(png_bytes(figure(), dpi=90))


def _smaller(path: Path, colours: int = COLOURS) -> Callable[[], bytes]:
    return lambda: small(path.read_bytes(), colours)


def _title(path: Path) -> str:
    return path.stem.replace("_", " ")


def is_demo(run: RunResults) -> bool:
    """Whether the images of a run are the demo photographs, by the checksum of their manifest."""
    wanted = hashlib.sha256(DEMO.read_bytes()).hexdigest()
    return set((run.summary.get("data") or {}).get("manifest_sha256", {}).values()) == {wanted}


def small(content: bytes, colours: int = COLOURS) -> bytes:
    """Take fewer colours, where that makes a picture smaller."""
    buffer = io.BytesIO()
    picture = open_picture(content).convert("RGB").quantize(colours, method=Image.Quantize.MEDIANCUT)
    picture.save(buffer, "PNG", optimize=True)
    return min(content, buffer.getvalue(), key=len)


def shrunk(content: bytes) -> bytes:
    """Make a picture of photographs smaller, in a palette of its own with the rest dithered."""
    picture = open_picture(content).convert("RGB")
    scale = min(1.0, math.sqrt(PIXELS / (picture.width * picture.height)))
    picture = picture.resize((round(scale * picture.width), round(scale * picture.height)), Image.Resampling.LANCZOS)
    palette = picture.quantize(SHADES, method=Image.Quantize.MEDIANCUT, kmeans=3)
    buffer = io.BytesIO()
    picture.quantize(SHADES, palette=palette, dither=Image.Dither.FLOYDSTEINBERG).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
