import zlib
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from dre.images.decode import UPRIGHT, centre, larger_size, resize
from dre.images.segmentation_masks import crop_mask, png_of, read_mask, resize_mask, turn
from dre.types import Preprocessing
from tests.data.trees import encode, photo


def mask_of_size(*size, seed=0):
    return np.random.default_rng(seed).random(size) > 0.5


def share(mask, row, column, scale, offset=(0, 0)):
    """Add up the object's area in a pixel of the resized mask, by fractions."""
    (top, bottom), (left, right) = (
        ((place + start) * step, (place + start + 1) * step)
        for place, start, step in zip((row, column), offset, scale, strict=True)
    )
    area = Fraction(0)
    for y, x in np.argwhere(mask).tolist():
        area += max(0, min(bottom, y + 1) - max(top, y)) * max(0, min(right, x + 1) - max(left, x))
    return area / (scale[0] * scale[1])


@pytest.mark.parametrize(
    ("old", "new"), [((7, 9), (3, 5)), ((5, 4), (9, 7)), ((6, 6), (3, 3)), ((8, 5), (8, 5)), ((1, 1), (3, 2))]
)
def test_a_resized_pixel_is_object_where_half_of_its_area_is(old, new):
    mask = mask_of_size(*old)
    scale = tuple(Fraction(one, other) for one, other in zip(old, new, strict=True))
    expected = [
        [share(mask, row, column, scale) >= Fraction(1, 2) for column in range(new[1])] for row in range(new[0])
    ]
    assert resize_mask(mask, new).tolist() == expected


@pytest.mark.parametrize("preprocessing", [Preprocessing((7, 5), 8), Preprocessing((9, 13), 11)])
@pytest.mark.parametrize("size", [(11, 17), (18, 9), (6, 6)])
def test_the_crop_is_that_of_the_pixels(size, preprocessing):
    mask, (height, width) = mask_of_size(*size), preprocessing.size
    new = larger_size(size[::-1], preprocessing)
    left, top = centre(new, preprocessing)
    scale = Fraction(size[0], new[1]), Fraction(size[1], new[0])
    shares = [[share(mask, row, column, scale, (top, left)) for column in range(width)] for row in range(height)]
    assert crop_mask(mask, preprocessing)[0].tolist() == [[one >= Fraction(1, 2) for one in row] for row in shares]


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize(("size", "edge"), [((61, 83), 40), ((83, 61), 29), ((33, 47), 23)])
@pytest.mark.parametrize("axis", [0, 1])
def test_an_edge_stays_where_the_picture_shows_it(size, edge, axis, interpolation):
    """A mask that is shifted by one pixel of the result fails."""
    preprocessing = Preprocessing((31, 29), 37, interpolation)
    mask = np.zeros(size, dtype=bool)
    mask[(slice(edge, None), slice(None))[:: 1 - 2 * axis]] = True
    new = resize(Image.fromarray(mask.astype(np.uint8) * 255), preprocessing)
    left, top = centre(new.size, preprocessing)
    seen = np.asarray(new)[top : top + 31, left : left + 29]
    found = crop_mask(mask, preprocessing)[0].numpy()
    assert 0 < found.mean() < 1
    clear = np.abs(seen.astype(float) - 127.5) > 20  # elsewhere the vote of the filter is close
    assert clear.mean() > 0.9
    assert (found == (seen > 127))[clear].all()


@pytest.mark.parametrize("orientation", [1, *UPRIGHT])
def test_masks_turn_as_pictures_do(orientation):
    mask = mask_of_size(5, 8)
    picture = Image.fromarray(mask.astype(np.uint8))
    upright = picture.transpose(UPRIGHT[orientation]) if orientation > 1 else picture
    assert np.array_equal(turn(mask, orientation), np.asarray(upright) > 0)


@pytest.mark.parametrize("mode", ["1", "L", "P", "I;16"])
def test_all_that_is_not_zero_is_object(mode):
    values = np.array([[0, 1, 2], [255, 0, 7]])
    kinds = {"1": values > 0, "I;16": (values * 200).astype(np.uint16)}
    picture = Image.fromarray(kinds.get(mode, values.astype(np.uint8)))
    if mode == "P":
        picture = picture.convert("P")
        picture.putpalette([9, 9, 9] * 256)  # the colours do not count
    assert picture.mode == mode
    assert np.array_equal(read_mask(encode(picture), (2, 3)), values > 0)
    if mode == "L":
        assert read_mask(encode(picture), (2, 3), least=7).tolist() == [[False] * 3, [True, False, True]]


def test_a_written_mask_is_read_again():
    mask = mask_of_size(9, 5)
    assert np.array_equal(read_mask(png_of(mask), (9, 5)), mask)


def bomb(width, height):
    """Write the header of a picture that would take gigabytes, and hardly any data."""

    def chunk(kind, data):
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 0, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def long_text():
    """Write a mask with a text that unfolds to ten megabytes."""
    text = PngImagePlugin.PngInfo()
    text.add_text("a", "x" * 10_000_000, zip=True)
    return encode(photo(0).convert("L"), pnginfo=text)


BAD = [
    (png_of(mask_of_size(20, 24)), r"its mask has 20 x 24 pixels, the image 24 x 20 pixels \(height x width as stored"),
    (encode(photo(0)), "its mask has the mode RGB, and a mask has one channel"),
    (encode(photo(0).convert("LA")), "its mask has the mode LA"),
    (encode(photo(0).convert("L"), "JPEG"), "its mask is not a PNG file"),
    (b"", "its mask is not a PNG file"),
    (encode(photo(0).convert("L"))[:200], r"its mask cannot be read \(.*truncated"),
    (long_text(), r"its mask cannot be read \(Decompressed data too large"),
    (bomb(9_000, 9_000), "its mask has 9000 x 9000 pixels"),
    (bomb(60_000, 60_000), "its mask is far larger than the image of 24 x 20 pixels"),
]


@pytest.mark.parametrize(("data", "reason"), BAD)
def test_masks_that_cannot_be_are_refused_in_one_line(data, reason):
    with pytest.raises(ValueError, match=reason) as caught:
        read_mask(data, (24, 20))
    assert "\n" not in str(caught.value)


def test_a_mask_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"its mask cannot be read \(.*No such file"):
        read_mask(tmp_path / "none.png", (2, 2))


@pytest.mark.parametrize("least", [1, 128])
def test_object_is_what_is_white_in_pictures_of_one_bit_and_of_sixteen(tmp_path, least):
    expected = np.array([[True, False], [False, True]])
    for name, picture in {
        "bit": Image.fromarray(expected),
        "sixteen": Image.fromarray(np.where(expected, 65535, 0).astype(np.uint16)),
    }.items():
        picture.save(tmp_path / f"{name}.png")
        assert read_mask(tmp_path / f"{name}.png", (2, 2), least).tolist() == expected.tolist()


def test_a_mask_of_values_that_are_all_too_low_is_refused(tmp_path):
    Image.fromarray(np.array([[0, 1]], dtype=np.uint8)).save(tmp_path / "mask.png")
    assert read_mask(tmp_path / "mask.png", (1, 2)).tolist() == [[False, True]]
    with pytest.raises(ValueError, match="values up to 1, and object is from 128 up"):
        read_mask(tmp_path / "mask.png", (1, 2), 128)
