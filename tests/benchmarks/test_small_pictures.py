import io

import numpy as np
from PIL import Image

from benchmarks.small_pictures import SIDE, shrunk


def test_a_picture_of_photographs_gets_smaller_and_keeps_its_colours():
    down, across = np.meshgrid(np.linspace(0, 1, SIDE), np.linspace(0, 1, 2 * SIDE), indexing="ij")
    pixels = (255 * np.stack([down, across, (down + across) / 2], axis=-1)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    found = Image.open(io.BytesIO(shrunk(buffer.getvalue())))
    assert found.size == (SIDE, SIDE // 2)
    expected = Image.fromarray(pixels).resize(found.size, Image.Resampling.BOX)
    # dithering errs in single pixels and not on average
    blocks = [
        np.asarray(image.convert("RGB").resize((30, 15), Image.Resampling.BOX), float) for image in (found, expected)
    ]
    assert np.abs(blocks[0] - blocks[1]).max() < 6
