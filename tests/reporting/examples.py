"""A summary, curves, costs and pictures that tests of the report share."""

from copy import deepcopy
from functools import cache

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from dre.engine.cost import Tally
from dre.reporting import Example, Report
from dre.reporting.style import png_bytes
from dre.statistics import Drawing, summarise
from dre.statistics.curves import Curve, curves_frame

NAMES = ("dre", "grad_cam", "random")
DIRECTIONS = {"deletion": False, "faithfulness": True, "pearson_skewness": None}


def scores(count: int = 30) -> pd.DataFrame:
    """Make scores in which dre is best, grad_cam close to it and random far off; one is NaN, some are missing."""
    draw = np.random.default_rng(0)
    rows = []
    for name, level in zip(NAMES, (0.60, 0.598, 0.2), strict=True):
        for index in range(count):
            key, noise = f"image_{index:02d}", draw.normal(0, 0.05)
            rows.append((key, name, "faithfulness", np.nan if (name, index) == ("random", 4) else level + noise))
            rows.append((key, name, "pearson_skewness", 1 + noise))
            if index >= 6:
                rows.append((key, name, "deletion", 1 - level + noise))
    return pd.DataFrame(rows, columns=["key", "explainer", "metric", "value"])


def summary() -> dict:
    return deepcopy(_summary())


@cache
def _summary() -> dict:
    return summarise(scores(), DIRECTIONS, drawing=Drawing(resamples=300)) | {"evaluated": 32}


def curves() -> pd.DataFrame:
    x = tuple(np.linspace(0, 1, 5))
    y = {name: tuple(value ** (1 + place) for value in x) for place, name in enumerate(NAMES)}
    return curves_frame((name, "faithfulness", Curve(x, y[name], y[name], y[name], 30)) for name in NAMES)


def examples(count: int, channels: int = 3) -> list[Example]:
    generator = torch.Generator().manual_seed(0)

    def draw(*size: int) -> torch.Tensor:
        return torch.randint(0, 256, size, generator=generator, dtype=torch.uint8)

    maps = [{name: (draw(20, 30) // 2).to(torch.int8) for name in NAMES} for _ in range(count)]
    values = {"dre": 0.25, "grad_cam": 0.5, "random": 0.125}
    explained = [("tabby <cat>, tiger", 0.834, True), ("", None, None)]
    return [
        Example(f"photo <{place}>", 0.25, draw(channels, 20, 30), maps[place], values, "A & B", *explained[place % 2])
        for place in range(count)
    ]


CLASSES = (("tabby <cat>, tiger", 0.834, True), ("emu", 0.001, False), ("7", 1.0, None), (None, np.nan, None))


def images() -> pd.DataFrame:
    """Return the rows of M_F of twelve images, with the columns that say which class was explained.

    The values of random are of any sign and size.
    """
    frame = scores(12)[lambda rows: rows["metric"] == "faithfulness"].reset_index(drop=True)
    frame.loc[frame["explainer"] == "random", "value"] = [0.2, 0.1, 1e-6, 0.3, np.nan, -0.3, -0.05, 0, 0.1, 0.2, 0.3, 1]
    about = [CLASSES[int(key[-2:]) % len(CLASSES)] for key in frame["key"]]
    columns = {name: [one[place] for one in about] for place, name in enumerate(("target_name", "probability"))}
    return frame.assign(**columns, correct=pd.array([one[2] for one in about], dtype="boolean"))


def report(**changes) -> Report:
    tally = Tally(images=30, forwards=60, backwards=30, timed=20, seconds=0.25, peak_bytes=3e6)
    content = {
        "title": "Evaluation small 001",
        "summary": summary(),
        "curves": curves(),
        "cost": {name: tally.summary() for name in NAMES},
        "worst": examples(2),
        "best": examples(1),
        "images": images(),
        "chosen_by": "faithfulness",
        "chosen_for": "dre",
        "facts": {"classifier": "<network> & co"},
        "failures": {"broken in the cache": 3},
        "files": {"scores.parquet": "rows"},
        "pictures": {"Distances <between> maps.": png_bytes(Figure((1, 1)), dpi=50)},
    }
    return Report(**content | changes)
