"""Style of all figures: colours of explainers, matplotlib settings, PNG and SVG output, readable names."""

import base64
import io
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

PALETTE = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#7a5195",
    "#8c564b",
    "#222222",
    "#9a9a00",
    "#7f7f7f",
    "#17a2a2",
)
"""Colours that colour-blind readers can tell apart come first; beyond twelve explainers they repeat, dashed."""

SETTINGS: Any = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#666666",
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "svg.fonttype": "path",
    "text.parse_math": False,  # names are text
    "svg.hashsalt": "dre",
}


def colours(explainers: Sequence[str]) -> dict[str, str]:
    """Return each explainer's colour, the same in every figure."""
    return {name: PALETTE[place % len(PALETTE)] for place, name in enumerate(explainers)}


def dashes(explainers: Sequence[str]) -> dict[str, str]:
    """Return each explainer's line style: solid until the colours repeat."""
    return {name: ("-", "--", ":")[min(2, place // len(PALETTE))] for place, name in enumerate(explainers)}


def styled() -> AbstractContextManager[None]:
    """Return a context with the settings of all figures, whatever the user's own are."""
    context: AbstractContextManager[None] = mpl.rc_context(SETTINGS)
    return context


def png_bytes(figure: Figure, dpi: int = 150) -> bytes:
    """Render a figure as a PNG file."""
    buffer = io.BytesIO()
    with styled():
        figure.savefig(
            buffer, format="png", dpi=dpi, bbox_inches="tight", facecolor="white", metadata={"Software": None}
        )
    return buffer.getvalue()


def svg_bytes(figure: Figure) -> bytes:
    """Render a figure as an SVG file whose bytes depend on the figure alone."""
    buffer = io.BytesIO()
    with styled():  # it holds the salt of the names inside the file
        figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def data_uri(content: bytes, kind: str) -> str:
    """Return a picture as a data URI; `kind` is png or svg+xml."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def readable(name: str) -> str:
    """Return a name with spaces for underscores."""
    return name.replace("_", " ")


def directed(metric: str, higher_is_better: bool | None) -> str:
    """Return the readable name of a metric, with an arrow to its better end where it has one."""
    return readable(metric) + {True: " \u2191", False: " \u2193", None: ""}[higher_is_better]
