import pickle
import random

import numpy as np
import pytest
import torch
from PIL import Image

from data.augment import GREY, Augmentation
from data.samples import Transform, load_sample
from tests.data.trees import SMALL, encode, module, packed, photo, raw_sample

EVERYTHING = Augmentation("trivial_augment", colour=0.4, erase=0.5)


def pixels(image: Image.Image) -> np.ndarray:
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
    assert np.array_equal(pixels(first), pixels(again))
    assert (first.size, first.mode) == (image.size, image.mode)
    others = [augment(image, random.Random(seed)) for seed in range(8)]
    assert any(not np.array_equal(pixels(first), pixels(other)) for other in others)


def test_nothing_is_changed_when_nothing_is_asked_for():
    image = photo(0)
    assert Augmentation()(image, random.Random(0)) is image


def test_colour_stays_within_its_strength():
    image = Image.new("RGB", (16, 16), (100, 100, 100))
    seen = {pixels(Augmentation(colour=0.2)(image, random.Random(seed)))[0, 0, 0] for seed in range(200)}
    assert 80 <= min(seen) < 85  # 100 x 0.8 and 100 x 1.2: a grey image has neither contrast nor saturation
    assert 115 < max(seen) <= 120


def test_erasing_greys_a_rectangle_in_the_share_of_images_that_is_asked_for():
    image = Image.new("RGB", (40, 30), "white")
    erased = [pixels(Augmentation(erase=0.3)(image, random.Random(seed))) == GREY for seed in range(400)]
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
