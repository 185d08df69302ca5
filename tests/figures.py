"""Figures that are made and not drawn, for tests that look at something else: drawing takes longer than most runs."""

import io
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image


def leave_figures_undrawn(patch: pytest.MonkeyPatch) -> None:
    """Write a blank picture for each figure that is saved."""
    picture = io.BytesIO()
    Image.new("RGB", (1, 1)).save(picture, "PNG")
    blank = {"png": picture.getvalue(), "svg": b'<svg xmlns="http://www.w3.org/2000/svg"/>'}

    def save(figure: Figure, file: io.BytesIO, *, format: str, **options: Any) -> None:
        file.write(blank[format])

    patch.setattr(Figure, "savefig", save)


def leave_panels_undrawn(patch: pytest.MonkeyPatch) -> None:
    """Write a blank picture for each panel of photographs and maps."""
    patch.setattr("dre.reporting.panel._pixels", lambda figure: np.zeros((1, 1, 3), np.uint8))
