import pickle
import random

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from data.augment import GREY, Augmentation
from data.datamodule import ShardDataModule
from data.samples import BrokenSampleError, Transform, load_sample
from dre.images.boxes import check_boxes, rasterise, reorient
from dre.images.decode import centre, resize, scale_shorter_side, to_picture, to_tensor
from dre.types import Preprocessing
from tests.data.layouts import DATA
from tests.data.trees import SMALL, encode, module, packed, photo, raw_sample

WHOLE = Preprocessing(size=(20, 24), resize=20, interpolation="nearest")  # shows a 24 x 20 image as it is


def load(image, transform=None, draws=None, kind="PNG", boxes=(), **options):
    return load_sample(raw_sample(encode(image, kind, **options), boxes), transform or Transform(WHOLE), draws)


def painted(box, size=(60, 80)) -> Image.Image:
    """Black, with the box in red."""
    pixels = np.zeros((*size, 3), dtype=np.uint8)
    x0, y0, x1, y1 = box
    pixels[y0:y1, x0:x1] = (255, 0, 0)
    return Image.fromarray(pixels)


def test_pixels_are_those_of_the_file():
    image = photo(0, (20, 24))
    sample = load(image)
    assert sample.image.dtype == torch.uint8
    assert np.array_equal(sample.image.permute(1, 2, 0), np.asarray(image))
    assert (sample.key, sample.label) == ("some", 3)


@pytest.mark.parametrize("crop_scale", [None, (0.2, 0.9)])
@pytest.mark.parametrize("seed", range(12))
def test_boxes_follow_resize_crop_and_flip(seed, crop_scale):
    draws = random.Random(seed)
    x0, y0 = draws.randrange(50), draws.randrange(30)
    box = (x0, y0, x0 + draws.randrange(8, 30), y0 + draws.randrange(8, 30))
    preprocessing = Preprocessing(size=(48, 40), resize=draws.choice([48, 60, 101]), interpolation="nearest")
    sample = load(painted(box), Transform(preprocessing, crop_scale, flip=0.5), draws, boxes=[box])
    seen = sample.image[0] > 127
    mask = rasterise(sample.boxes, (48, 40))[0]
    # one row and one column of pixels may fall to the other side of an edge when the filter rounds
    assert (seen != mask).sum() <= mask.any(0).sum() + mask.any(1).sum()


def test_evaluation_takes_the_centre():
    sample = load(painted((30, 20, 50, 40)), Transform(Preprocessing((20, 20), 60)), boxes=[(30, 20, 50, 40)])
    assert rasterise(sample.boxes, (20, 20)).all()
    assert (sample.image[0] == 255).all()


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_evaluation_sees_what_pillow_makes(interpolation):
    preprocessing = Preprocessing((20, 24), 30, interpolation)
    larger = resize(photo(3, (60, 80)), preprocessing)
    left, top = centre(larger.size, preprocessing)
    crop = np.asarray(larger)[top : top + 20, left : left + 24]
    assert np.array_equal(load(photo(3, (60, 80)), Transform(preprocessing)).image.permute(1, 2, 0), crop)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("size", [(48, 64), (33, 51), (90, 120), (60, 80)])
def test_training_resizes_as_pillow_does(interpolation, mode, size):
    picture = photo(0, (60, 80)).convert(mode)
    ours = scale_shorter_side(to_tensor(picture), size, interpolation)
    difference = (ours.int() - to_tensor(picture.resize(size[::-1], Image.Resampling[interpolation.upper()]))).abs()
    assert difference.max() <= 2  # torch keeps weights in 16 bits, Pillow in 32, and both round after each axis
    assert (difference > 1).float().mean() < 1e-3


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_training_resizes_photographs_as_pillow_does(interpolation):
    paths = sorted((DATA / "birds" / "images").glob("*.jpg"))[:8]
    if not paths:
        pytest.skip(f"no photographs in {DATA}; set DRE_DATA")
    for path in paths:
        with Image.open(path) as image:
            picture = image.convert("RGB")
        theirs = to_tensor(picture.resize((213, 160), Image.Resampling[interpolation.upper()]))
        difference = scale_shorter_side(to_tensor(picture), (160, 213), interpolation).int() - theirs
        assert (difference.abs() > 1).float().mean() < 0.01  # a sharp edge may differ by several levels
        assert difference.float().mean().abs() < 0.01  # no brightness is gained or lost


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_pixels_and_pictures_are_two_forms_of_one_thing(mode):
    picture = photo(0).convert(mode)
    assert (to_picture(to_tensor(picture)).mode, to_picture(to_tensor(picture)).tobytes()) == (mode, picture.tobytes())


@pytest.mark.parametrize("crop_scale", [None, (0.2, 0.9)])
@pytest.mark.parametrize("channels", [1, 3])
def test_training_crops_have_the_size_and_channels_of_the_classifier(crop_scale, channels):
    preprocessing = Preprocessing((20, 30), 32, channels=channels)
    for seed in range(8):
        sample = load(photo(seed, (60, 44)), Transform(preprocessing, crop_scale, 0.5), random.Random(seed))
        assert sample.image.shape == (channels, 20, 30)
        assert sample.image.dtype == torch.uint8


def test_a_flip_mirrors_the_pixels():
    plain, flipped = (load(photo(0), Transform(SMALL, flip=flip), random.Random(1)).image for flip in (0.0, 1.0))
    assert torch.equal(flipped, plain.flip(2))


@pytest.mark.parametrize("orientation", [1, 6])
def test_reduced_decoding_gives_the_same_crop_and_boxes_of_large_jpegs_in_training_alone(monkeypatch, orientation):
    rows, columns = np.mgrid[:300, :400]
    image = Image.fromarray(np.stack([rows * 255 // 300, columns * 255 // 400, rows * 0], axis=2).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    asked, draft = [], JpegImageFile.draft
    monkeypatch.setattr(JpegImageFile, "draft", lambda self, *how: asked.append(how) or draft(self, *how))
    found = {}
    for reduced in (False, True):
        transform = Transform(Preprocessing(size=(48, 48), resize=64), reduced=reduced)
        options = {"kind": "JPEG", "boxes": [(40, 30, 200, 150)], "exif": exif, "quality": 95}
        found[reduced] = [load(image, transform, draws, **options) for draws in (random.Random("0/3"), None)]
    (training, evaluation), (quick, same) = found[False], found[True]
    assert len(asked) == 1
    assert np.array_equal(quick.boxes, training.boxes)
    assert (quick.image.int() - training.image.int()).abs().max() <= 2
    assert torch.equal(same.image, evaluation.image)


def test_reduced_decoding_leaves_alone_what_it_would_make_too_small():
    image, transform = photo(0, (75, 100)), Preprocessing(size=(32, 32), resize=38)
    kept = [load(image, Transform(transform, reduced=one), random.Random(0), "JPEG").image for one in (False, True)]
    assert torch.equal(*kept)
    with pytest.raises(ValueError, match="`reduced_decoding` needs the whole image"):
        ShardDataModule("nowhere", crop_scale=(0.1, 1.0), reduced_decoding=True)


def test_a_box_outside_the_crop_gives_an_empty_mask():
    sample = load(painted((0, 0, 5, 5)), Transform(Preprocessing((20, 20), 60)), boxes=[(0, 0, 5, 5)])
    assert not rasterise(sample.boxes, (20, 20)).any()


def test_mask_holds_the_pixels_whose_centre_is_inside():
    mask = rasterise(np.array([[0.4, 1.0, 2.6, 2.0], [3.5, 3.4, 4.0, 9.0]]), (4, 4))[0]
    assert mask.nonzero().tolist() == [[1, 0], [1, 1], [1, 2], [3, 3]]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_turns_image_and_boxes(orientation):
    box = (10, 5, 32, 17)
    stored = painted(box)
    exif = Image.Exif()
    exif[0x0112] = orientation
    size = (60, 80) if orientation < 5 else (80, 60)
    sample = load(stored, Transform(Preprocessing(size, 60)), exif=exif, boxes=[box])
    assert torch.equal(sample.image[0] == 255, rasterise(sample.boxes, size)[0])
    if orientation == 6:  # the camera was turned: the stored left edge is the upright top edge
        assert reorient(np.array([box], dtype=float), (60, 80), 6).tolist() == [[43, 10, 55, 32]]


def test_grey_image_gives_three_equal_channels():
    image = load(photo(1, (20, 24)).convert("L")).image
    assert image.shape == (3, 20, 24)
    assert torch.equal(image[0], image[2])


def test_one_channel_classifier_gets_grey():
    one = Transform(Preprocessing((20, 24), 20, channels=1))
    image = photo(1, (20, 24))
    assert np.array_equal(load(image, one).image[0], np.asarray(image.convert("L")))


def test_cmyk_jpeg_becomes_rgb():
    image = Image.new("RGB", (24, 20), (200, 30, 60))
    pixel = load(image.convert("CMYK"), kind="JPEG", quality=95).image[:, 10, 10]
    assert (pixel.int() - torch.tensor([200, 30, 60])).abs().max() <= 6


def test_sixteen_bits_are_scaled_not_clipped():
    levels = np.linspace(0, 65535, 480).astype(np.uint16).reshape(20, 24)
    image = load(Image.fromarray(levels)).image[0]
    assert np.array_equal(image, np.round(levels / 257).astype(np.uint8))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_show_white(mode):
    image = Image.new("RGBA", (24, 20), (0, 0, 0, 255))
    image.paste((90, 90, 90, 0), (0, 0, 12, 20))
    if mode == "P":
        image = image.quantize(4)
        assert image.mode == "P"
    pixels = load(image.convert(mode)).image
    assert (pixels[:, :, :12] == 255).all()
    assert (pixels[:, :, 12:] == 0).all()


def test_image_smaller_than_the_crop_is_enlarged():
    sample = load(photo(2, (5, 9)), Transform(SMALL), boxes=[(0, 0, 9, 5)])
    assert sample.image.shape == (3, 16, 16)
    assert rasterise(sample.boxes, (16, 16)).all()


def test_a_wide_crop_is_covered_by_a_tall_image():
    assert load(photo(2, (60, 20)), Transform(Preprocessing((10, 30), 12))).image.shape == (3, 10, 30)


@pytest.mark.parametrize(
    ("data", "reason"),
    [(encode(photo(0, (90, 90)), "JPEG")[:900], "truncated"), (b"no image at all", "cannot identify")],
)
def test_unreadable_image_names_shard_and_key(data, reason):
    with pytest.raises(BrokenSampleError, match=rf"^shard\.tar/some: .*{reason}[^\n]*$"):
        load_sample(raw_sample(data, suffix="jpg"), Transform(SMALL))


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        ((8, 2, 3, 9), "inverted"),
        ((2, 9, 8, 9), "inverted or empty"),
        ((2, 2, 26, 9), "outside the image of 24 x 20"),
        ((-1.5, 2, 6, 9), "outside"),
        ((2, 2, float("nan"), 9), "finite"),
        ((2, 2, 3), "not four"),
    ],
)
def test_bad_boxes_are_refused_by_name(box, reason):
    with pytest.raises(BrokenSampleError, match=rf"shard\.tar/some: box \[.*{reason}"):
        load(photo(0, (20, 24)), boxes=[box])


def test_a_pixel_beyond_the_edge_is_clipped():
    assert check_boxes([(-1, 0, 25, 20.5)], (20, 24)).tolist() == [[0, 0, 24, 20]]


def test_size_in_the_shard_must_be_the_size_of_the_image():
    with pytest.raises(BrokenSampleError, match=r"\[20, 24\].*\[24, 20\]"):
        load_sample(raw_sample(encode(photo(0, (20, 24))), size=[24, 20]), Transform(SMALL))


def test_sample_without_json_is_refused():
    with pytest.raises(BrokenSampleError, match="json entry"):
        load_sample({"__key__": "some", "jpg": b""}, Transform(SMALL))


# What is decoded


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n{ } loop\n"


def narrow(width, height):
    return encode(Image.new("L", (width, height)))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (EPS, r"the file is PostScript \(EPS\), not one of JPEG, MPO, PNG, "),
        (b"\xc5\xd0\xd3\xc6" + EPS, r"PostScript"),
        (b"%PDF-1.7\n", "the file is PDF"),
        (b"<svg xmlns='x'/>", "the file is SVG"),
        (b"\x00\x00\x00\x1cftypheic", "the file is heic"),
        (encode(photo(0), "ICO"), "the file is ICO"),
        (encode(photo(0), "TGA"), "cannot identify image file"),
        (encode(Image.new("1", (10_001, 10_000))), r"Image size \(10001 x 10000 pixels\) exceeds 100 megapixels"),
        (encode(Image.new("1", (20_000, 10_000))), "exceeds 100 megapixels; shrink"),
        (narrow(1, 10_000), r"1 x 10000 pixels would be resized to 18 x 180000, more than 16384 a side"),
        (narrow(10_000, 1), r"10000 x 1 pixels would be resized to 180000 x 18"),
    ],
)
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_other_formats_and_sizes_are_refused_by_name(data, reason, suffix):
    with pytest.raises(BrokenSampleError, match=rf"^shard\.tar/some: {reason}|^shard\.tar/some: [^\n]*{reason}"):
        load_sample(raw_sample(data, suffix=suffix), Transform(SMALL))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "MPO"])
def test_known_formats_are_decoded(kind):
    options = {"save_all": True, "append_images": [photo(1)]} if kind == "MPO" else {}
    assert load_sample(raw_sample(encode(photo(0), kind, **options)), Transform(SMALL)).image.shape == (3, 16, 16)


def test_random_crops_of_narrow_pictures_stay_small():
    crop = Transform(SMALL, crop_scale=(0.2, 0.9))
    assert load_sample(raw_sample(narrow(3, 10_000)), crop, random.Random(0)).image.shape == (3, 16, 16)
    with pytest.raises(BrokenSampleError, match="more than 16384 a side"):
        load_sample(raw_sample(narrow(3, 10_000)), Transform(SMALL), random.Random(0))


# Augmentation


EVERYTHING = Augmentation("trivial_augment", colour=0.4, erase=0.5)


def array_of(image: Image.Image) -> np.ndarray:
    return np.asarray(image)


@pytest.mark.parametrize("policy", ["auto_augment", "rand_augment", "trivial_augment"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_equal_draws_change_an_image_equally_and_leave_all_other_randomness_alone(policy, mode):
    augment, image = Augmentation(policy, colour=0.4, erase=0.5), photo(0, (32, 40)).convert(mode)
    torch.manual_seed(1)
    first, after = augment(image, random.Random(5)), torch.rand(3)
    torch.manual_seed(2)
    again = augment(image, random.Random(5))
    torch.manual_seed(1)
    assert torch.equal(after, torch.rand(3))
    assert np.array_equal(array_of(first), array_of(again))
    assert (first.size, first.mode) == (image.size, image.mode)
    others = [augment(image, random.Random(seed)) for seed in range(8)]
    assert any(not np.array_equal(array_of(first), array_of(other)) for other in others)


def test_nothing_is_changed_when_nothing_is_asked_for():
    image = photo(0)
    assert Augmentation()(image, random.Random(0)) is image


def test_colour_stays_within_its_strength():
    image = Image.new("RGB", (16, 16), (100, 100, 100))
    seen = {array_of(Augmentation(colour=0.2)(image, random.Random(seed)))[0, 0, 0] for seed in range(200)}
    assert 80 <= min(seen) < 85  # 100 x 0.8 and 100 x 1.2: a grey image has neither contrast nor saturation
    assert 115 < max(seen) <= 120


def test_erasing_greys_a_rectangle_in_the_share_of_images_that_is_asked_for():
    image = Image.new("RGB", (40, 30), "white")
    erased = [array_of(Augmentation(erase=0.3)(image, random.Random(seed))) == GREY for seed in range(400)]
    touched = [one.any(axis=2) for one in erased if one.any()]
    assert len(touched) / 400 == pytest.approx(0.3, abs=0.09)  # four standard errors
    for mask in touched:
        rows, columns = mask.any(axis=1), mask.any(axis=0)
        assert mask.sum() == rows.sum() * columns.sum()
        assert 0.01 < mask.mean() < 0.35


@pytest.mark.parametrize("options", [{"colour": 1.5}, {"erase": -0.1}])
def test_a_strength_that_is_no_share_is_refused(options):
    (name,) = options
    with pytest.raises(ValueError, match=rf"`{name}` is a share in \[0, 1\]"):
        Augmentation(**options)


def test_evaluation_is_not_augmented():
    raw, transform = raw_sample(encode(photo(0, (24, 24)))), Transform(SMALL, augment=EVERYTHING)
    plain = load_sample(raw, Transform(SMALL))
    assert torch.equal(load_sample(raw, transform).image, plain.image)
    assert not torch.equal(load_sample(raw, transform, random.Random(3)).image, plain.image)


@pytest.mark.parametrize("workers", [1, 2])
def test_training_images_do_not_depend_on_the_number_of_workers(tmp_path, workers):
    root = packed(tmp_path, train=12, val=2)
    options = {"augment": EVERYTHING, "crop_scale": (0.3, 1.0)}
    alone = list(module(root, **options).train_dataloader())
    several = list(module(root, workers=workers, **options).train_dataloader())
    assert all(torch.equal(one["images"], other["images"]) for one, other in zip(alone, several, strict=True))


def test_it_travels_to_workers():
    assert pickle.loads(pickle.dumps(EVERYTHING)) == EVERYTHING
