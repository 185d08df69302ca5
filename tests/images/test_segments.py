"""Superpixels and regions: invariants of any cut, a slow dilation, and the cache."""

import numpy as np
import pytest
import torch
from skimage.morphology import dilation, disk

from dre.images import segments
from dre.images.segments import Felzenszwalb, Quickshift, Slic, cut, grown, in_pieces

SMALL = Felzenszwalb(scales=(20.0, 100.0), min_size=20, size=48, dilation=2)
CUTTERS = [Quickshift(), Quickshift(kernel_size=2.0, max_distance=10.0, ratio=1.0), Slic(segments=12), Slic(sigma=0.0)]


def quadrants(height: int = 32, width: int = 48, channels: int = 3) -> np.ndarray:
    """Four rectangles, each in one colour."""
    colours = np.array([[0.9, 0.1, 0.1], [0.1, 0.9, 0.1], [0.1, 0.1, 0.9], [0.9, 0.9, 0.1]])[:, :channels]
    rows, columns = np.arange(height) * 2 // height, np.arange(width) * 2 // width
    return colours[2 * rows[:, None] + columns]


def noise(height: int = 32, width: int = 48, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).random((height, width, channels))


@pytest.fixture(autouse=True)
def _forget():
    segments._cuts.clear()


@pytest.mark.parametrize("cutter", CUTTERS, ids=repr)
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("picture", [noise, quadrants])
def test_superpixels_are_numbered_without_gaps_and_come_out_alike(cutter, channels, picture):
    pixels = picture(channels=min(channels, 3) if picture is quadrants else channels)
    labels = cutter(pixels)
    assert labels.shape == (32, 48)
    assert np.unique(labels).tolist() == list(range(labels.max() + 1))
    assert (cutter(pixels) == labels).all()


@pytest.mark.parametrize("cutter", [Quickshift(1.5, 8.0), Quickshift(4.0, 20.0, 0.5), Slic(4, 0.1, 0.0)])
def test_superpixels_follow_colours(cutter):
    """No superpixel reaches from one of four rectangles into another."""
    labels = cutter(quadrants())
    parts = np.arange(4)[2 * (np.arange(32) // 16)[:, None] + np.arange(48) // 24]
    pairs = np.unique(labels * 4 + parts)
    assert len(pairs) == labels.max() + 1


@pytest.mark.parametrize("cutter", [*CUTTERS, Slic(segments=1)], ids=repr)
def test_a_constant_image_can_be_cut(cutter):
    labels = cutter(np.full((20, 30, 3), 0.5))
    assert labels.min() == 0


@pytest.mark.parametrize("shape", [(48, 48), (31, 57)])
def test_regions_cover_the_image_and_pieces_are_divided_by_none(shape):
    regions = SMALL(noise(*shape))
    masks = regions.masks()
    assert masks.shape == (len(regions.members), *shape)
    assert masks.any(0).all()
    assert masks.any((1, 2)).all()
    patterns = masks.reshape(len(masks), -1).T
    kinds, places = np.unique(patterns, axis=0, return_inverse=True)
    assert len(kinds) == regions.pieces.max() + 1  # as few as there can be
    assert len(np.unique(places.ravel() * len(kinds) + regions.pieces.ravel())) == len(kinds)


def test_pieces_by_hand():
    """Two overlapping stretches of a row of six: outside, first alone, both, second alone."""
    regions = in_pieces([np.array([1, 2, 3]), np.array([3, 4])], (1, 6))
    assert regions.masks()[:, 0].tolist() == [[0, 1, 1, 1, 0, 0], [0, 0, 0, 1, 1, 0]]
    assert regions.pieces[0, 0] == regions.pieces[0, 5]
    assert regions.members.shape == (2, 4)


@pytest.mark.parametrize("radius", [0, 1, 5])
def test_growing_is_a_dilation_with_a_disk(radius):
    labels = np.repeat(np.repeat(np.arange(12).reshape(3, 4) % 7, 8, axis=0), 9, axis=1)  # some numbers come twice
    found = in_pieces(grown(labels, radius), labels.shape).masks()
    expected = [dilation(labels == number, disk(radius)) for number in range(7)]
    assert (found == np.array(expected)).all()


def test_a_constant_image_is_one_region_at_every_scale():
    regions = SMALL(np.full((30, 40, 1), 0.3))
    assert regions.masks().all()
    assert len(regions.members) == len(SMALL.scales)


def test_a_cut_is_remembered_by_settings_and_pixels(monkeypatch):
    calls = []

    def counting(self, pixels):
        calls.append(pixels.shape)
        return np.zeros(pixels.shape[:2], dtype=np.int64)

    monkeypatch.setattr(Slic, "__call__", counting)
    image = torch.rand(3, 8, 12)
    cut(image, Slic())
    cut(image.clone(), Slic())
    assert len(calls) == 1
    cut(image, Slic(segments=7))
    cut(image.flip(2), Slic())
    cut(image.view(3, 12, 8), Slic())
    assert len(calls) == 4


def test_only_the_latest_cuts_are_kept(monkeypatch):
    monkeypatch.setattr(segments, "CACHED_IMAGES", 3)
    images = torch.rand(5, 3, 8, 12)
    for image in images[[0, 1, 2, 0, 3]]:  # the second was used longest ago when the fifth comes
        cut(image, Slic(segments=2))
    assert len(segments._cuts) == 3
    kept = list(segments._cuts.values())
    assert any(cut(images[0], Slic(segments=2)) is labels for labels in kept)
    assert not any(cut(images[1], Slic(segments=2)) is labels for labels in kept)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Quickshift(kernel_size=0), "`kernel_size` and `max_distance` must be positive, got 0 and 200.0"),
        (lambda: Quickshift(ratio=1.5), r"`ratio` must lie in \[0, 1\], got 1.5"),
        (lambda: Slic(segments=0), "`segments` must be at least 1, got 0"),
        (lambda: Slic(compactness=0), "`compactness` must be positive and `sigma` not negative, got 0 and 1.0"),
        (lambda: Felzenszwalb(scales=()), r"`scales` must be one or more positive numbers, got \[\]"),
        (lambda: Felzenszwalb(scales=(50, -1)), r"one or more positive numbers, got \[50, -1\]"),
        (lambda: Felzenszwalb(sigma=-1), "`sigma` must not be negative, got -1"),
        (lambda: Felzenszwalb(min_size=0), "`min_size` must be at least 1, got 0"),
        (lambda: Felzenszwalb(size=0), "`size` must be at least 1, got 0"),
        (lambda: Felzenszwalb(dilation=-1), "`dilation` must be at least 0, got -1"),
    ],
)
def test_cuts_that_are_none_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
