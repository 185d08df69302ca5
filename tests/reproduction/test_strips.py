"""Strips of the gallery's sheet."""

import numpy as np
import pytest
from PIL import Image

from reproduction.gallery.strips import strips


def sheet(rows: int, columns: int = 3, side: int = 40) -> Image.Image:
    """Draw a sheet: labels on the left, pictures of one grey each, a line of text above the second row."""
    pixels = np.full((10 + rows * (side + 12), 60 + columns * (side + 4)), 255, dtype=np.uint8)
    for row in range(rows):
        top = 10 + row * (side + 12)
        pixels[top + 18 : top + 22, 5:50] = 0
        for column in range(columns):
            left = 60 + column * (side + 4)
            pixels[top : top + side, left : left + side] = 100 + 10 * row + column
    pixels[10 + side + 2 : 10 + side + 8, 60:120] = 0
    return Image.fromarray(pixels).convert("RGB")


def test_rows_are_cut_by_name():
    cut = strips(sheet(3), ["one", "two"], columns=2)
    assert list(cut) == ["photograph", "one", "two"]
    for row, strip in enumerate(cut.values()):
        pixels = np.asarray(strip.convert("L"))
        assert pixels.shape == (40, 84)
        assert (pixels[:, :40] == 100 + 10 * row).all()
        assert (pixels[:, 44:] == 101 + 10 * row).all()


def test_a_sheet_with_another_number_of_rows_is_refused():
    with pytest.raises(ValueError, match=r"the sheet has 3 rows.* and 1 for explainers; .*--without"):
        strips(sheet(3), ["one"], columns=2)
