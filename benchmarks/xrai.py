"""Speed of XRAI's region selection beside its authors' package: `python -m benchmarks.xrai --images DIR`.

Segmentation is left out of both: they rank the same regions of the same photographs by the same attribution. Ours is
given its regions in pieces, as the segmentation hands them out, and a second time as masks that it has to take apart.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from scipy import ndimage

from benchmarks.timing import in_turns, ratio
from dre.explainers.xrai import Mode, rank_regions
from dre.images.decode import open_picture
from dre.images.segments import Felzenszwalb, Labels, Regions, in_pieces
from dre.reporting.terminal import TextTable
from dre.runs.process import machine

TARGET = 10.0


class Selection(NamedTuple):
    """Hold milliseconds of one image, medians; ratios are medians over pairs of calls in one process."""

    mode: Mode
    ours: float
    from_masks: float
    theirs: float
    faster: float
    faster_from_masks: float
    same_ranking: bool


def photographs(folder: Path, count: int, side: int = 224) -> list[np.ndarray]:
    """Return `count` photographs of a folder, evenly spaced, resized to [side, side, 3] in [0, 1]."""
    files = sorted(folder.rglob("*.jpg"))
    chosen = files[:: max(1, len(files) // count)][:count]
    scaled = [open_picture(file).convert("RGB").resize((side, side), Image.Resampling.BICUBIC) for file in chosen]
    return [np.asarray(image, dtype=np.float64) / 255 for image in scaled]


def rank(regions: Regions, attribution: np.ndarray, mode: Mode) -> np.ndarray:
    """Rank regions that are given in pieces; map [H, W]."""
    return rank_regions(regions, attribution, mode=mode)[0]


def rank_masks(indices: list[Labels], attribution: np.ndarray, mode: Mode) -> np.ndarray:
    """Rank regions that are given as flat indices of their pixels; map [H, W]."""
    height, width = attribution.shape
    return rank(in_pieces(indices, (height, width)), attribution, mode)


def theirs_on(regions: Regions, attribution: np.ndarray, mode: Mode) -> Callable[[], np.ndarray]:
    """Build a call of the package on these regions."""
    from saliency.core import xrai

    masks = list(regions.masks())
    channels = np.repeat(attribution[..., None], 3, axis=2)
    settings = xrai.XRAIParameters(algorithm=mode)

    def call() -> np.ndarray:
        saliency: np.ndarray = xrai.XRAI().GetMask(
            channels, None, segments=masks, base_attribution=channels, extra_parameters=settings
        )
        return saliency

    return call


def ranking(saliency: np.ndarray) -> np.ndarray:
    """Return the order of the pixels; values that rounding alone tells apart are tied."""
    return np.argsort(-np.round(saliency / np.abs(saliency).max(), 9), axis=None, kind="stable")


def measure(images: list[np.ndarray], mode: Mode, repeats: int) -> Selection:
    """Rank the regions of each image by smoothed noise, in turns with the package."""
    times: dict[str, list[float]] = {"ours": [], "masked": [], "theirs": []}
    same = True
    noise = np.random.default_rng(0)
    for pixels in images:
        regions = Felzenszwalb()(pixels)
        indices = [mask.ravel().nonzero()[0] for mask in regions.masks()]
        attribution = ndimage.gaussian_filter(noise.standard_normal(pixels.shape[:2]), 2)
        calls: dict[str, Callable[[], np.ndarray]] = {
            "ours": partial(rank, regions, attribution, mode),
            "masked": partial(rank_masks, indices, attribution, mode),
            "theirs": theirs_on(regions, attribution, mode),
        }
        same &= bool((ranking(calls["ours"]()) == ranking(calls["theirs"]())).all())
        for name, seconds in in_turns(calls, repeats, warm_up=0).items():
            times[name] += seconds
    ours, masked, theirs = (1000 * median(seconds) for seconds in times.values())
    faster, faster_from_masks = (ratio(times["theirs"], times[name]) for name in ("ours", "masked"))
    return Selection(mode, ours, masked, theirs, faster, faster_from_masks, same)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True, help="folder of .jpg photographs")
    parser.add_argument("--count", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    images = photographs(arguments.images, arguments.count)
    table = TextTable(
        "mode", "ours, ms", "from masks, ms", "saliency, ms", "faster", "from masks", "at least", "same ranking"
    )
    modes: tuple[Mode, ...] = ("full", "fast")
    for mode in modes:
        found = measure(images, mode, arguments.repeats)
        shown = [f"{number:.1f}" for number in found[1:4]] + [f"{number:.0f} x" for number in found[4:6]]
        target = f"{TARGET:.0f} x" if mode == "full" else ""
        table.add_row(mode, *shown, target, "yes" if found.same_ranking else "NO")
    table.title = f"XRAI's selection, one image of 224 x 224, {len(images)} photographs"
    table.caption = machine()
    print(table)


if __name__ == "__main__":
    main()
