import numpy as np
import pytest
import torch
from PIL import Image

from callbacks import SalientPixels
from callbacks.panels import best_pixels
from dre.explainers import CentredGaussian, Random
from dre.modules import ExplainerEvaluation
from tests.networks import small_classifier
from tests.training import quiet_trainer, small_data


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
