import io

import numpy as np
import pytest
from PIL import Image, ImageFilter

from reproduction.pictures import PIXELS, shrunk


def test_a_picture_of_photographs_takes_less_room_and_keeps_its_colours():
    side = round((PIXELS / 2) ** 0.5)
    noise = np.random.default_rng(0).integers(0, 256, (2 * side, 4 * side, 3), dtype=np.uint8)
    photograph = Image.fromarray(noise).filter(ImageFilter.GaussianBlur(3))
    buffer = io.BytesIO()
    photograph.save(buffer, "PNG", optimize=True)
    content = shrunk(buffer.getvalue())
    found, expected = Image.open(io.BytesIO(content)), photograph.resize((2 * side, side), Image.Resampling.LANCZOS)
    assert found.size == expected.size
    whole = io.BytesIO()
    expected.save(whole, "PNG", optimize=True)
    assert len(content) < 0.8 * len(whole.getvalue())
    # dithering errs in single pixels and not on average
    blocks = [np.asarray(one.convert("RGB").resize((40, 20), Image.Resampling.BOX), float) for one in (found, expected)]
    assert np.abs(blocks[0] - blocks[1]).max() < 4


def test_a_tall_picture_has_as_many_pixels_as_any_and_a_small_one_keeps_its_own():
    for size, wanted in (((500, 4000), PIXELS), ((1500, 1500), PIXELS), ((40, 30), 1200)):
        buffer = io.BytesIO()
        Image.new("RGB", size).save(buffer, "PNG")
        width, height = Image.open(io.BytesIO(shrunk(buffer.getvalue()))).size
        assert width * height == pytest.approx(wanted, rel=0.01)  # whole pixels
        assert width / height == pytest.approx(size[0] / size[1], rel=0.01)
