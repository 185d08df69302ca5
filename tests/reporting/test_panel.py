import io

import numpy as np
import pytest
import torch
from PIL import Image

from dre.reporting.overlay import for_display, overlay_map, png
from dre.reporting.panel import GAP, LINE, SIDE, Photograph, draw_panel


def pixels(path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def one(maps, image=None) -> Photograph:
    return Photograph("a", torch.full((3, 8, 8), 0.5) if image is None else image, maps)


def places_of(picture: np.ndarray, colour) -> tuple[np.ndarray, np.ndarray]:
    return (picture == np.array(colour)).all(axis=2).nonzero()


def test_maps_without_negative_values_span_zero_to_one():
    maps = for_display(5 + torch.rand(3, 1, 20, 20))
    assert (maps.amin((1, 2, 3)) == 0).all()
    assert (maps.amax((1, 2, 3)) == 1).all()


def test_zero_stays_zero_and_signs_stay_in_a_signed_map():
    maps = torch.randn(3, 1, 20, 20)
    maps[:, :, 4] = 0
    shown = for_display(maps)
    assert (shown.sign() == maps.sign()).all()
    torch.testing.assert_close(for_display(-maps), -shown)
    torch.testing.assert_close(for_display(7 * maps), shown)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_single_outlier_does_not_darken_the_others(sign):
    maps = torch.linspace(0, 1, 400).view(1, 1, 20, 20)
    hot = maps.clone()
    hot[0, 0, 0, 0] = sign * 1e6
    assert (for_display(hot)[0, 0, 1:] - for_display(maps)[0, 0, 1:]).abs().max() < 0.02


def test_a_sparse_map_keeps_its_only_pixel_and_a_constant_one_is_empty():
    sparse = torch.zeros(1, 1, 20, 20)
    sparse[0, 0, 3, 5] = 0.1
    assert torch.equal(for_display(sparse), sparse * 10)
    assert not for_display(torch.full((1, 1, 4, 4), 3.0)).any()


def test_negative_values_exchange_red_and_blue():
    image, saliency = torch.full((3, 2, 2), 0.5), torch.tensor([[0.1, 0.3], [0.6, 1.0]])
    positive = overlay_map(image, saliency)
    np.testing.assert_allclose(overlay_map(image, -saliency), positive[..., ::-1])
    assert positive[1, 1, 0] > positive[1, 1, 2]  # the highest is yellow


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_value_is_a_square_in_the_corner_of_its_map(tmp_path, value):
    photograph = Photograph("a", torch.full((3, 60, 60), 0.5), {"x": torch.zeros(60, 60)}, {"x": value})
    plain = Photograph("a", photograph.image, photograph.maps)
    draw_panel([photograph], tmp_path / "with.png")
    draw_panel([plain], tmp_path / "without.png")
    changed = (pixels(tmp_path / "with.png") != pixels(tmp_path / "without.png")).any(axis=2)
    assert 0 < changed.mean() < 0.05
    low, high = photograph.drawn("x")[-1, 0], plain.drawn("x")[-1, 0]
    assert not np.allclose(low, high)
    np.testing.assert_allclose(low, [0.267, 0.005, 0.329] if value == 0 else [0.993, 0.906, 0.144], atol=1e-3)


def test_a_map_that_is_a_picture_is_drawn_as_it_is():
    picture = torch.rand(3, 4, 5)
    drawn = Photograph("a", torch.zeros(3, 4, 5), {"x": picture}).drawn("x")
    np.testing.assert_allclose(drawn, picture.permute(1, 2, 0))


def test_credits_are_on_the_picture(tmp_path):
    photographs = [one({"dre": torch.rand(8, 8)})]
    draw_panel(photographs, tmp_path / "plain.png")
    draw_panel(photographs, tmp_path / "credited.png", "Photographs (CC BY 2.0), left to right: 1: Someone")
    plain, credited = pixels(tmp_path / "plain.png"), pixels(tmp_path / "credited.png")
    assert (plain[-GAP:] == 255).all()
    assert (credited[plain.shape[0] - GAP :] < 200).any()
    np.testing.assert_array_equal(plain[: -2 * GAP], credited[: plain.shape[0] - 2 * GAP])


def test_a_pixel_of_the_map_is_a_square_in_its_place(tmp_path):
    image = torch.zeros(3, 8, 4)
    image[0, 2, 1] = 1.0
    draw_panel([one({"dre": torch.zeros(8, 4)}, image)] * 2, tmp_path / "picture.png", side=80)
    rows, columns = places_of(pixels(tmp_path / "picture.png"), (255, 0, 0))
    first = columns < columns.min() + 10
    assert np.ptp(rows[first]) == np.ptp(columns[first]) == 9  # 8 pixels on 80
    assert rows.min() == GAP + 20
    assert first.sum() == (~first).sum() == 100
    assert columns[~first].min() - columns[first].min() == 40 + GAP


def test_labels_and_headings_take_room_and_leave_the_maps_alone(tmp_path):
    maps = {"dre": torch.rand(8, 8), "grad_cam": torch.rand(8, 8)}
    draw_panel([one(maps)], tmp_path / "plain.png")
    draw_panel(
        [one(maps)], tmp_path / "rich.png", labels={"dre": "a much longer name\n(less)"}, headings={"dre": "Two"}
    )
    plain, rich = pixels(tmp_path / "plain.png"), pixels(tmp_path / "rich.png")
    assert rich.shape[0] > plain.shape[0]
    assert rich.shape[1] > plain.shape[1]
    np.testing.assert_array_equal(rich[-400:, -200:], plain[-400:, -200:])


def test_fewer_colours_are_fewer_bytes():
    picture = np.random.default_rng(0).random((64, 64, 3))
    few = png(picture, colours=16)
    with Image.open(io.BytesIO(few)) as shown:
        assert len(np.unique(np.asarray(shown.convert("RGB")).reshape(-1, 3), axis=0)) <= 16
    assert len(few) < len(png(picture))


def test_one_channel_is_drawn(tmp_path):
    draw_panel([one({"dre": torch.zeros(8, 6)}, torch.rand(1, 8, 6))] * 2, tmp_path / "grey.png")
    assert pixels(tmp_path / "grey.png").std() > 0


@pytest.mark.parametrize("name", ["A $$ B", "$x", "a_$\\frac$", "[bold]x[/bold]"])
def test_names_are_text_whatever_they_hold(tmp_path, name):
    photograph = Photograph("a", torch.rand(3, 8, 8), {name: torch.zeros(8, 8)})
    draw_panel([photograph], tmp_path / "panel.png", f"Photographs: {name}")
    assert (tmp_path / "panel.png").stat().st_size > 0


def test_a_caption_stands_below_its_photograph_and_moves_the_maps_down(tmp_path):
    image, saliency = torch.rand(3, 8, 8), {"dre": torch.rand(8, 8)}
    captions = ["tabby\n83 %, right", "", f"{'W' * 200}\n< 1 %, wrong"]
    draw_panel([Photograph("a", image, saliency) for _ in captions], tmp_path / "plain.png")
    draw_panel([Photograph("a", image, saliency, caption=one) for one in captions], tmp_path / "said.png")
    plain, said = pixels(tmp_path / "plain.png"), pixels(tmp_path / "said.png")
    room = said.shape[0] - plain.shape[0]
    assert room == 2 * LINE
    width, photograph = 3 * SIDE + 2 * GAP, GAP + SIDE
    np.testing.assert_array_equal(said[:photograph, -width - GAP :], plain[:photograph, -width - GAP :])
    np.testing.assert_array_equal(said[photograph + room :, -width - GAP :], plain[photograph:, -width - GAP :])
    strip = said[photograph : photograph + room, -width - GAP :].min(axis=(0, 2)) < 128  # columns with ink
    parts = [strip[place * (SIDE + GAP) :][: SIDE + GAP] for place in range(3)]
    assert [bool(part.any()) for part in parts] == [True, False, True]
    assert not parts[2][-GAP:].any()  # a long name is cut, and does not reach beyond its photograph
    assert parts[2].sum() > parts[0].sum()
