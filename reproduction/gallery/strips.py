"""Strips of the gallery, a picture for each explainer's entry: `python -m reproduction.gallery.strips`.

They are cut out of the sheet that `reproduction.gallery.gallery` drew, so that no explainer runs again.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from reproduction.gallery.showcase import FAMILIES

SHEET, OUT = Path("docs/explainers.jpg"), Path("docs/explainers")
PHOTOGRAPH = "photograph"
WHITE = 245
COVERED = 0.5
"""Share of a line that is not white where it crosses pictures."""

LEAST = 32
"""Pixels that a row of pictures has at least; rows of text are lower."""

QUALITY = 80


def bands(is_inked: Sequence[bool]) -> list[tuple[int, int]]:
    """Return where runs of at least `LEAST` true values begin and end.

    Example:
        >>> bands([False] + [True] * 40 + [False] * 2 + [True] * 3)
        [(1, 41)]
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[0], np.asarray(is_inked, dtype=int), [0]])))
    return [(int(begin), int(end)) for begin, end in edges.reshape(-1, 2) if end - begin >= LEAST]


def strips(sheet: Image.Image, names: Sequence[str], columns: int) -> dict[str, Image.Image]:
    """Cut the rows of a sheet, each as wide as its first `columns` pictures, by name: the photographs, then `names`.

    Raises:
        ValueError: The sheet has another number of rows.
    """
    ink = np.asarray(sheet.convert("L")) < WHITE
    tall = bands(ink[:, ink.shape[1] // 2 :].mean(axis=1) > COVERED)
    if len(tall) != len(names) + 1:
        raise ValueError(
            f"the sheet has {len(tall)} rows, not one for the photographs and {len(names)} for explainers; "
            "name those that it lacks with --without"
        )
    top, bottom = tall[0]
    wide = bands(ink[top:bottom].mean(axis=0) > COVERED)
    left, right = wide[0][0], wide[:columns][-1][1]
    return {
        name: sheet.crop((left, begin, right, end))
        for name, (begin, end) in zip([PHOTOGRAPH, *names], tall, strict=True)
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sheet", type=Path, default=SHEET)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--columns", type=int, default=6, help="photographs in a strip")
    parser.add_argument("--without", nargs="*", default=["dre_refined"], help="explainers that the sheet does not have")
    given = parser.parse_args(arguments)
    known = [case.name for cases in FAMILIES.values() for case in cases]
    names = [name for name in known if name not in given.without]
    with Image.open(given.sheet) as sheet:
        cut = strips(sheet.convert("RGB"), names, given.columns)
    given.out.mkdir(parents=True, exist_ok=True)
    for name, strip in cut.items():
        strip.save(given.out / f"{name.replace(' ', '_')}.jpg", quality=QUALITY, optimize=True)
    print(f"{given.out}: {len(cut)} strips")


if __name__ == "__main__":
    main()
