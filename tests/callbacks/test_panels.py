import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from callbacks import ExplanationMetrics, SaliencyPanel, SalientPixels
from callbacks.panels import best_pixels
from dre.explainers import CentredGaussian, Random
from dre.modules import ExplainerEvaluation
from dre.reporting.panel import Photograph
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
    found = panel.photographs["gallery"]
    assert len(found) == 3
    assert all(list(one.maps) == ["random"] for one in found)
    assert all(one.maps["random"].amin() == 0 and one.maps["random"].amax() == 1 for one in found)
    narrow = pixels(tmp_path / "gallery.png").shape
    wide = pixels(evaluate(tmp_path / "all", small_data(five_shards), SaliencyPanel(images=8))).shape
    assert wide[0] > narrow[0]  # one row of maps more
    assert wide[1] > narrow[1]  # five photographs more


def test_a_gallery_of_explainers_that_are_not_evaluated_is_refused(five_shards, tmp_path):
    line = "`explainers` of SaliencyPanel names 'absent', 'nope', of which nothing is evaluated; choose among centred_g"
    with pytest.raises(ValueError, match=line):
        evaluate(tmp_path, small_data(five_shards), SaliencyPanel(explainers=["absent", "nope"]))
    with pytest.raises(ValueError, match="names nothing, of which"):
        evaluate(tmp_path, small_data(five_shards), SaliencyPanel(explainers=[]))


def test_the_gallery_credits_the_photographers_that_the_data_names(five_shards, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "callbacks.panels.draw_panel",
        lambda photographs, path, caption: drawn.append((photographs, caption)),
    )
    data = small_data(five_shards)
    evaluate(tmp_path, data, SaliencyPanel(images=8))
    assert drawn[-1][1] == ""
    monkeypatch.setattr(data, "credits", lambda: {one.key: f"P{place}" for place, one in enumerate(drawn[0][0][1:])})
    evaluate(tmp_path, data, SaliencyPanel(images=8))
    assert drawn[-1][1] == "Photographs, left to right: 2: P0, 3: P1, 4: P2, 5: P3\n6: P4, 7: P5, 8: P6"


def test_no_images_are_refused():
    with pytest.raises(ValueError, match="`images` must be at least 1, got 0"):
        SaliencyPanel(images=0)


def with_metrics(root, data, panel):
    root.mkdir(exist_ok=True)
    module = ExplainerEvaluation(small_classifier(), {"centred_gaussian": CentredGaussian, "random": Random})
    quiet_trainer(root, callbacks=[ExplanationMetrics(show=False), panel]).test(module, data, verbose=False)
    return panel.photographs["gallery"]


def test_maps_carry_their_value_between_the_worst_and_the_best_of_the_image(five_shards, tmp_path):
    found = with_metrics(tmp_path, small_data(five_shards), SaliencyPanel(images=4, values="faithfulness"))
    assert all(sorted(one.values.values()) in ([0, 1], []) for one in found)
    assert any(one.values for one in found)


def test_values_that_there_are_not_are_refused(five_shards, tmp_path):
    with pytest.raises(ValueError, match="'sic', which is not computed"):
        with_metrics(tmp_path, small_data(five_shards), SaliencyPanel(values="sic"))
    with pytest.raises(ValueError, match="list SaliencyPanel after ExplanationMetrics"):
        evaluate(tmp_path, small_data(five_shards), SaliencyPanel(values="faithfulness"))


def test_colours_are_those_of_matplotlib(five_shards, tmp_path):
    panel = SaliencyPanel(images=2, explainers=["random"], colours="gray")
    evaluate(tmp_path, small_data(five_shards), panel)
    shown = panel.photographs["gallery"][0].maps["random"]
    assert shown.shape[0] == 3
    np.testing.assert_allclose(shown[0], shown[2])
    with pytest.raises(ValueError, match="no colour map 'grae'"):
        SaliencyPanel(colours="grae")


@pytest.mark.parametrize("share", [0.05, 0.5, 1.0])
def test_as_many_of_the_highest_pixels_are_kept_as_the_share_says(share):
    saliency = torch.rand(3, 1, 10, 20)
    mask = best_pixels(saliency, share)
    assert mask.flatten(1).sum(1).tolist() == [round(200 * share)] * 3
    if share < 1:
        assert (saliency.where(mask > 0, 2).amin((1, 2, 3)) > saliency.where(mask == 0, -1).amax((1, 2, 3))).all()


def test_one_pixel_at_least_and_of_equal_ones_the_first():
    assert best_pixels(torch.zeros(1, 1, 3, 3), 0.01).flatten().tolist() == [1, *[0] * 8]


def test_kept_pixels_are_the_photographs_and_all_of_them_at_one(five_shards, tmp_path):
    study = SalientPixels(shares=[0.25, 1.0], images=3)
    module = ExplainerEvaluation(small_classifier(), {"centred_gaussian": CentredGaussian, "random": Random})
    quiet_trainer(tmp_path, callbacks=[study]).test(module, small_data(five_shards, eval_batch_size=2), verbose=False)
    assert [len(found) for found in study.photographs.values()] == [3, 3]
    for part, whole in zip(*study.photographs.values(), strict=True):
        torch.testing.assert_close(whole.maps["random"], whole.image)
        same = (part.maps["centred_gaussian"] == part.image).all(dim=0)
        height, width = same.shape
        assert same[height // 2, width // 2]
        assert not same.all()
    for name in ("salient_25.png", "salient_100.png"):
        with Image.open(tmp_path / name) as picture:
            assert np.asarray(picture).std() > 0


@pytest.mark.parametrize(
    ("options", "line"), [({"shares": []}, "`shares`"), ({"shares": [1.5]}, "`shares`"), ({"images": 0}, "`images`")]
)
def test_impossible_settings_are_refused(options, line):
    with pytest.raises(ValueError, match=line):
        SalientPixels(**options)


def test_the_explained_class_stands_under_each_photograph(five_shards, tmp_path):
    panel, study = SaliencyPanel(images=3), SalientPixels(shares=[0.25], images=3)
    module = ExplainerEvaluation(small_classifier(2), {"random": Random})
    module.classifier.class_names = ("cat, felis", "dog")
    callbacks = [ExplanationMetrics(show=False), panel, study]
    data = small_data(five_shards, eval_batch_size=2)
    data.class_names = lambda: ["cat", "dog"]
    quiet_trainer(tmp_path, callbacks=callbacks).test(module, data, verbose=False)
    about = pd.read_parquet(tmp_path / "scores.parquet").drop_duplicates("key").set_index("key")
    for one in (*panel.photographs["gallery"], *study.photographs["salient_25"]):
        row = about.loc[one.key]
        name = row["target_name"].partition(",")[0]
        assert one.caption == f"{name}\n{row['probability']:.0%}, {'right' if row['correct'] else 'wrong'}".replace(
            "%", " %"
        )


def test_photographs_are_taken_up_with_their_caption_and_without_one_where_an_earlier_version_kept_them():
    panel, other = SaliencyPanel(images=2), SaliencyPanel(images=2)
    panel.photographs, other.photographs = {"gallery": []}, {"gallery": []}
    panel._add(
        {"gallery": [Photograph("a", torch.zeros(3, 2, 2), {}, {}, "cat"), Photograph("b", torch.ones(3, 2, 2), {})]}
    )
    progress = panel.progress(None)
    del next(one for one in progress["gallery"] if one["key"] == "b")["caption"]
    other.resume(None, progress)
    assert {one.key: one.caption for one in other.photographs["gallery"]} == {"a": "cat", "b": ""}
