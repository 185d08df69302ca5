"""Pictures that take little room in the repository."""

import io
import math

from PIL import Image

COLOURS = 64
"""Of a chart."""

LINES = 32
"""Colours of a chart of few lines."""

PIXELS, SHADES = 290_000, 128
"""Most pixels, whatever the shape, and colours of a picture of photographs."""


def small(content: bytes, colours: int = COLOURS) -> bytes:
    """Take fewer colours, where that makes a picture smaller."""
    buffer = io.BytesIO()
    picture = Image.open(io.BytesIO(content)).convert("RGB").quantize(colours, method=Image.Quantize.MEDIANCUT)
    picture.save(buffer, "PNG", optimize=True)
    return min(content, buffer.getvalue(), key=len)


def shrunk(content: bytes) -> bytes:
    """Make a picture of photographs smaller, in a palette of its own with the rest dithered."""
    picture = Image.open(io.BytesIO(content)).convert("RGB")
    scale = min(1.0, math.sqrt(PIXELS / (picture.width * picture.height)))
    picture = picture.resize((round(scale * picture.width), round(scale * picture.height)), Image.Resampling.LANCZOS)
    palette = picture.quantize(SHADES, method=Image.Quantize.MEDIANCUT, kmeans=3)
    buffer = io.BytesIO()
    picture.quantize(SHADES, palette=palette, dither=Image.Dither.FLOYDSTEINBERG).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
