import io

import numpy as np
from PIL import Image, ImageFilter

from benchmarks.small_pictures import SIDE, shrunk


def test_a_picture_of_photographs_takes_less_room_and_keeps_its_colours():
    noise = np.random.default_rng(0).integers(0, 256, (SIDE, 2 * SIDE, 3), dtype=np.uint8)
    photograph = Image.fromarray(noise).filter(ImageFilter.GaussianBlur(3))
    buffer = io.BytesIO()
    photograph.save(buffer, "PNG", optimize=True)
    content = shrunk(buffer.getvalue())
    found, expected = Image.open(io.BytesIO(content)), photograph.resize((SIDE, SIDE // 2), Image.Resampling.LANCZOS)
    assert found.size == expected.size
    whole = io.BytesIO()
    expected.save(whole, "PNG", optimize=True)
    assert len(content) < 0.8 * len(whole.getvalue())
    # dithering errs in single pixels and not on average
    blocks = [np.asarray(one.convert("RGB").resize((40, 20), Image.Resampling.BOX), float) for one in (found, expected)]
    assert np.abs(blocks[0] - blocks[1]).max() < 4
