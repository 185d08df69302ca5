import math
from typing import ClassVar

import pandas as pd
import pytest
import torch
from torch import Tensor

from callbacks import DeviceStability, JpegStability
from dre.explainers import Explainer, GradCAM, Random, VanillaGradient
from dre.images.information import recompress
from dre.metrics import log_squared_error, scaled_squared_error, spearman
from tests.callbacks.studies.conditions import content, evaluation, frame, run
from tests.training import small_data

EXPLAINERS = {"grad_cam": GradCAM, "random": Random, "vanilla_gradient": VanillaGradient}


class Balanced(Explainer):
    """A map whose values sum to exactly zero, and which follows the image."""

    def explain(self, images: Tensor, targets: Tensor) -> Tensor:
        grey = images.mean(dim=1, keepdim=True)
        half = grey[..., : grey.shape[-1] // 2]
        return torch.cat([half, -half.flip(3)], dim=3)


def points_of(study, root) -> pd.DataFrame:
    return pd.DataFrame(content(study, root)["points"]).set_index(["explainer", "quantity"])


class Precise(Random):
    """Note whether there was autocast."""

    autocast: ClassVar[list[bool]] = []

    def explain(self, images, targets):
        self.autocast.append(torch.is_autocast_enabled("cpu"))
        return super().explain(images, targets)


class OneDeviceTwice(DeviceStability):
    """Compare the CPU with itself: what is tested is copying, moving, explaining and comparing, not a second device."""

    def other_device(self, device):
        return torch.device("cpu")


@pytest.mark.parametrize("channels", [1, 3])
def test_a_jpeg_file_changes_an_image_a_little_and_not_its_shape(channels):
    images = torch.rand(2, channels, 24, 40, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.avg_pool2d(images, 9, stride=1, padding=4)
    shown = recompress(smooth, 75)
    assert shown.shape == smooth.shape
    assert shown.dtype == smooth.dtype
    assert 0 < (shown - smooth).abs().mean() < 0.02
    assert (recompress(smooth, 5) - smooth).abs().mean() > (shown - smooth).abs().mean()
    assert torch.equal(recompress(smooth[1:], 75)[0], shown[1])
    grey = torch.full((1, channels, 16, 16), 128 / 255)
    assert torch.equal(recompress(grey), grey)


@pytest.mark.parametrize("quality", [0, 96])
def test_an_impossible_quality_is_refused(quality):
    with pytest.raises(ValueError, match=f"`quality` of a JPEG file lies between 1 and 95, got {quality}"):
        JpegStability(quality=quality)


def test_jpeg_numbers_are_those_of_a_direct_computation(five_shards, tmp_path):
    study, module = JpegStability(images=6), evaluation(EXPLAINERS)
    data = small_data(five_shards, eval_batch_size=4)
    run(study, data, tmp_path, module, drawn=())
    values = frame(study, tmp_path).set_index(["key", "explainer", "quantity"])["value"]
    explainer = VanillaGradient(module.classifier)
    for batch in data.test_dataloader():
        batch = data.on_after_batch_transfer(batch, 0)
        for image, key in zip(batch["images"][:, None], batch["key"], strict=True):
            if key not in values.index.get_level_values(0):
                continue
            with torch.no_grad():
                target = module.classifier(image).argmax(dim=1)  # of the original, for both
            before, after = explainer(image, target), explainer(recompress(image, 75), target)
            expected = {
                "error_sum": scaled_squared_error(after, before, "sum"),
                "log_error_sum": log_squared_error(after, before, "sum"),
                "log_error": log_squared_error(after, before),
                "spearman": spearman(after, before),
            }
            for name, value in expected.items():
                assert values[key, "vanilla_gradient", f"jpeg_{name}"] == pytest.approx(float(value), rel=1e-6)


def test_means_medians_and_the_logarithm_of_the_mean_are_logged(five_shards, tmp_path):
    study = JpegStability(images=9)
    logged = run(study, small_data(five_shards), tmp_path, evaluation(EXPLAINERS), drawn=())
    values = frame(study, tmp_path).set_index(["explainer", "quantity"]).sort_index()["value"]
    for name in ("grad_cam", "vanilla_gradient"):
        errors = values[name, "jpeg_error_sum"]
        assert logged[f"test/{name}/jpeg_error_sum_log"] == pytest.approx(-math.log10(errors.mean()), rel=1e-5)
        logarithms = values[name, "jpeg_log_error_sum"]
        assert logged[f"test/{name}/jpeg_log_error_sum"] == pytest.approx(logarithms.mean(), rel=1e-5)
        assert logged[f"test/{name}/jpeg_log_error_sum_median"] == pytest.approx(logarithms.median(), rel=1e-5)


def test_equal_maps_are_counted_as_infinite_and_not_averaged(five_shards, tmp_path):
    study = JpegStability(images=5)
    logged = run(study, small_data(five_shards), tmp_path, evaluation(EXPLAINERS))
    found = points_of(study, tmp_path)
    for quantity in ("jpeg_log_error_sum", "jpeg_log_error"):
        row = found.loc[("random", quantity)]
        assert (row["count"], row["undefined"], row["infinite"]) == (0, 0, 5)
        assert pd.isna(row["mean"])
    assert found.loc[("random", "jpeg_error_sum"), "mean"] == 0
    assert logged["test/random/jpeg_spearman"] == 1
    assert not any(
        name.startswith("test/random/jpeg_log") or name.endswith("random/jpeg_error_sum_log") for name in logged
    )


def test_maps_without_a_sum_are_counted_as_undefined(five_shards, tmp_path):
    study = JpegStability(images=5)
    run(study, small_data(five_shards), tmp_path, evaluation({"balanced": Balanced, "random": Random}))
    found = points_of(study, tmp_path)
    row = found.loc[("balanced", "jpeg_log_error_sum")]
    assert (row["count"], row["undefined"]) == (0, 5)
    assert found.loc[("balanced", "jpeg_log_error"), "count"] == 5


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to compare with")
def test_without_a_gpu_the_comparison_of_devices_is_left_out_with_one_line(five_shards, tmp_path, caplog):
    caplog.set_level("INFO")
    study = DeviceStability(images=2)
    assert run(study, small_data(five_shards), tmp_path, evaluation(EXPLAINERS)) == {}
    assert "device_stability is left out: there is no GPU to compare the CPU with" in caplog.text
    assert not list(tmp_path.glob("device_stability*"))


def test_a_gpu_is_compared_with_the_cpu():
    assert DeviceStability().other_device(torch.device("cuda", 0)) == torch.device("cpu")


def test_the_machinery_finds_one_device_equal_to_itself(five_shards, tmp_path):
    study = OneDeviceTwice(images=3)
    logged = run(study, small_data(five_shards), tmp_path, evaluation(EXPLAINERS), drawn=())
    found = points_of(study, tmp_path)
    assert (found.xs("device_log_error", level="quantity")["infinite"] == 3).all()
    assert {logged[f"test/{name}/device_spearman"] for name in EXPLAINERS} == {1.0}
    assert content(study, tmp_path)["settings"]["devices"] == ["cpu", "cpu"]


def test_both_devices_explain_in_float32_where_the_run_has_mixed_precision(five_shards, tmp_path):
    Precise.autocast.clear()
    module = evaluation({"precise": Precise})
    run(OneDeviceTwice(images=2), small_data(five_shards), tmp_path, module, drawn=(), precision="bf16-mixed")
    *evaluated, a, b, c, d = Precise.autocast
    assert all(evaluated)
    assert not any([a, b, c, d])  # two images on both devices


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_cpu_and_gpu_agree_on_smooth_maps(five_shards, tmp_path):
    study = DeviceStability(images=3)
    logged = run(study, small_data(five_shards), tmp_path, evaluation(EXPLAINERS))
    assert logged["test/grad_cam/device_spearman"] > 0.999
