"""`dre.show`: maps over their photographs as a figure."""

import io

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

import dre
from dre.images.decode import to_picture
from dre.reporting.overlay import for_display, overlay_map
from tests.networks import small_classifier


def pixels(figure) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(figure._repr_png_())))


def test_maps_lie_over_their_own_photographs_in_rows_and_columns(tmp_path):
    images = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    maps = {"one": torch.rand(2, 1, 32, 48), "two": torch.rand(2, 32, 48).numpy()}
    figure = dre.show(images, maps, ["cat", "dog"], side=48, path=tmp_path / "picture.png")
    assert isinstance(figure, Figure)
    drawn = pixels(figure)
    np.testing.assert_array_equal(drawn, np.asarray(Image.open(tmp_path / "picture.png")))
    found = set()
    for row in range(2):
        tiles = {f"image {row}": images[row].permute(1, 2, 0).numpy()}
        for name, one in maps.items():
            scaled = for_display(torch.as_tensor(one).reshape(2, 1, 32, 48))[row, 0]
            tiles[f"{name} {row}"] = overlay_map(images[row], scaled)
        for name, tile in tiles.items():
            wanted = (np.asarray(tile, np.float64) * 255).round().astype(np.uint8)
            if contains(drawn, wanted):
                found.add(name)
    assert found == {"image 0", "image 1", "one 0", "one 1", "two 0", "two 1"}


def contains(picture: np.ndarray, tile: np.ndarray) -> bool:
    height, width, _ = tile.shape
    windows = np.lib.stride_tricks.sliding_window_view(picture, (height, width, 3))[:, :, 0]
    corner = np.abs(windows[:, :, 0, 0].astype(int) - tile[0, 0]).max(-1) <= 1
    places = np.argwhere(corner)
    return any(np.abs(windows[y, x].astype(int) - tile).max() <= 1 for y, x in places)


def test_titles_and_caption_change_the_picture_and_no_title_takes_no_room():
    images, maps = torch.rand(1, 3, 32, 32), torch.rand(1, 1, 32, 32)
    plain, titled = dre.show(images, maps, side=32), dre.show(images, maps, "cat", side=32)
    assert pixels(titled).shape[0] > pixels(plain).shape[0]
    assert pixels(dre.show(images, maps, side=32, caption="a caption")).shape[0] > pixels(plain).shape[0]


def test_pictures_are_prepared_as_their_classifier_does_it():
    classifier = small_classifier(size=(40, 40))
    picture = to_picture((torch.rand(3, 60, 90) * 255).to(torch.uint8))
    maps = dre.explain(classifier, [picture], method="vanilla_gradient")
    prepared = dre.explainers.arguments.pixels_of([picture], classifier)
    np.testing.assert_array_equal(
        pixels(dre.show([picture], maps, classifier=classifier)), pixels(dre.show(prepared, maps))
    )
    with pytest.raises(ValueError, match="write classifier=") as error:
        dre.show([picture], maps)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ({"maps": torch.rand(2, 1, 9, 9)}, r"maps 'map' must have shape \[2, 1, 8, 8\] to lie over"),
        ({"maps": {}}, "`maps` must hold at least one"),
        ({"maps": torch.full((2, 1, 8, 8), torch.nan)}, "NaN|finite"),
        ({"titles": ["one"]}, "one text for each of 2 images, got 1"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(wrong, line):
    with pytest.raises(ValueError, match=line):
        dre.show(**{"images": torch.rand(2, 3, 8, 8), "maps": torch.rand(2, 1, 8, 8)} | wrong)
