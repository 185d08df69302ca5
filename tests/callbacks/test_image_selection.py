import itertools

import pytest
import torch

import callbacks.image_selection
from callbacks.image_selection import ImageSelection, place_of

KEYS = [f"image_{index:02d}" for index in range(20)]


def outputs(keys, with_objects=True) -> dict:
    values = torch.tensor([int(key[-2:]) for key in keys])
    found = {
        "key": list(keys),
        "images": (values / 20)[:, None, None, None].expand(-1, 3, 4, 4).clone(),
        "targets": values % 5,
    }
    if with_objects:
        objects = torch.zeros(len(keys), 1, 4, 4)
        objects[values % 4 != 0, :, :2] = 1  # every fourth image has no box
        objects[values % 4 == 3] = 1  # and in every fourth it fills the image
        found["objects"] = objects
    return found


def select(count, batches, **options) -> ImageSelection:
    selection = ImageSelection(count, **options)
    for keys in batches:
        selection.update(outputs(keys))
    return selection


@pytest.mark.parametrize("size", [1, 3, 7, 20])
@pytest.mark.parametrize("order", [1, -1])
def test_the_selection_depends_on_neither_batches_nor_order(size, order):
    batches = [KEYS[::order][start : start + size] for start in range(0, 20, size)]
    images = select(6, batches).share()
    assert [image.key for image in images] == sorted(KEYS, key=place_of)[:6]
    for image in images:
        number = int(image.key[-2:])
        assert (image.pixels == number / 20).all()
        assert image.target.tolist() == [number % 5]


def test_only_images_whose_boxes_leave_a_background_are_taken_when_boxes_are_needed():
    selection = select(50, [KEYS], with_objects=True)
    assert {int(image.key[-2:]) % 4 for image in selection.share()} == {1, 2}
    assert selection.counts() == (20, 10)
    without = ImageSelection(50, with_objects=True)
    without.update(outputs(KEYS, with_objects=False))
    assert (without.share(), without.counts()) == ([], (20, 0))


@pytest.mark.parametrize("cuts", [[(0, 20), (20, 20)], [(0, 3), (3, 20)], [(0, 7), (7, 8), (8, 20)]])
def test_ranks_share_the_selection_of_all_of_them_evenly(cuts, monkeypatch):
    """Answer every rank, in one process, with what all of them would offer."""
    ranks = [select(6, [KEYS[start:stop]] if stop > start else []) for start, stop in cuts]
    keys = [[image.key for image in rank.kept] for rank in ranks]
    first = sorted(KEYS, key=place_of)[:6]
    images = [[image for image in rank.kept if image.key in first] for rank in ranks]
    shares = []
    for number, rank in enumerate(ranks):
        answers = iter([keys, images])
        monkeypatch.setattr(callbacks.image_selection, "gathered", lambda own, answers=answers: next(answers))
        monkeypatch.setattr(callbacks.image_selection, "own_rank", lambda number=number: number)
        shares.append([image.key for image in rank.share()])
    assert sorted(itertools.chain(*shares), key=place_of) == sorted(KEYS, key=place_of)[:6]
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_kept_image_is_a_copy():
    batch = outputs(KEYS)
    selection = ImageSelection(3)
    selection.update(batch)
    batch["images"].zero_()
    assert all(image.pixels.sum() > 0 for image in selection.kept if image.key != "image_00")
