import numpy as np
import pytest
import torch
from PIL import Image

from callbacks import SaliencyPanel
from callbacks.panel import draw_panel
from dre.explainers import CentredGaussian, Random
from dre.modules import ExplainerEvaluation
from tests.networks import small_classifier
from tests.training import quiet_trainer, small_data


def evaluate(root, data, panel):
    root.mkdir(exist_ok=True)
    module = ExplainerEvaluation(small_classifier(), {"centred_gaussian": CentredGaussian, "random": Random})
    quiet_trainer(root, callbacks=[panel]).test(module, data, verbose=False)
    return root / "gallery.png"


def pixels(path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def test_the_gallery_has_the_wanted_photographs_and_explainers(five_shards, tmp_path):
    panel = SaliencyPanel(images=3, explainers=["random", "absent"])
    evaluate(tmp_path, small_data(five_shards, eval_batch_size=2), panel)
    assert len(panel.rows) == 3
    assert all(list(row["maps"]) == ["random"] for row in panel.rows)
    assert all(row["maps"]["random"].amin() == 0 and row["maps"]["random"].amax() == 1 for row in panel.rows)
    narrow = pixels(tmp_path / "gallery.png").shape
    wide = pixels(evaluate(tmp_path / "all", small_data(five_shards), SaliencyPanel(images=8))).shape
    assert wide[0] > narrow[0]  # one row of maps more
    assert wide[1] > narrow[1]  # five photographs more


def test_the_gallery_credits_the_photographers_that_the_data_names(five_shards, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("callbacks.panel.draw_panel", lambda rows, path, caption: drawn.append((rows, caption)))
    data = small_data(five_shards)
    evaluate(tmp_path, data, SaliencyPanel(images=8))
    assert drawn[-1][1] == ""
    monkeypatch.setattr(data, "credits", lambda: {row["key"]: f"P{place}" for place, row in enumerate(drawn[0][0][1:])})
    evaluate(tmp_path, data, SaliencyPanel(images=8))
    assert drawn[-1][1] == "Photographs, left to right: 2: P0, 3: P1, 4: P2, 5: P3\n6: P4, 7: P5, 8: P6"


def test_credits_are_on_the_picture(tmp_path):
    rows = [{"key": "a", "image": torch.rand(3, 8, 8), "maps": {"dre": torch.rand(8, 8)}}]
    draw_panel(rows, tmp_path / "plain.png")
    draw_panel(rows, tmp_path / "credited.png", "Photographs (CC BY 2.0), left to right: 1: Someone")
    plain, credited = pixels(tmp_path / "plain.png"), pixels(tmp_path / "credited.png")
    assert (plain[-12:] == 255).all()
    assert (credited[-12:] < 200).any()


def test_one_channel_is_drawn(tmp_path):
    rows = [{"key": "a", "image": torch.rand(1, 8, 6), "maps": {"dre": torch.zeros(8, 6)}}] * 2
    draw_panel(rows, tmp_path / "grey.png")
    assert pixels(tmp_path / "grey.png").std() > 0


def test_no_images_are_refused():
    with pytest.raises(ValueError, match="`images` must be at least 1, got 0"):
        SaliencyPanel(images=0)
