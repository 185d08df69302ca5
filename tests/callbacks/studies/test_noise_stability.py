import pandas as pd
import pytest
import torch

from callbacks import NoiseStability
from dre.explainers import (
    Explainer,
    GradCAM,
    IntegratedGradients,
    Random,
    VanillaGradient,
)
from dre.images.randomness import noisy_copies
from dre.metrics import local_lipschitz, max_sensitivity, relative_input_stability, relative_output_stability
from tests.callbacks.studies.conditions import content, evaluation, first_keys, frame, run
from tests.training import small_data

EXPLAINERS = {"grad_cam": GradCAM, "random": Random, "vanilla_gradient": VanillaGradient}
FOUR = ("max_sensitivity", "local_lipschitz", "relative_input", "relative_output")


class Zero(Explainer):
    """A map without any evidence."""

    def explain(self, images, targets):
        return torch.zeros_like(images[:, :1])


class Unsteady(Explainer):
    """The image itself; not finite for a batch's third copy."""

    def explain(self, images, targets):
        saliency = images[:, :1].clone()
        saliency[2:3] = torch.nan
        return saliency


def values_of(study, root) -> pd.Series:
    return frame(study, root).set_index(["key", "explainer", "quantity"])["value"]


def test_the_numbers_are_those_of_a_direct_computation_image_by_image(five_shards, tmp_path):
    study, module = NoiseStability(images=3, draws=4, radius=0.05), evaluation(EXPLAINERS)
    data = small_data(five_shards, eval_batch_size=4)
    chosen = first_keys(data, 3)
    batches = [data.on_after_batch_transfer(batch, 0) for batch in data.test_dataloader()]
    images = {key: image[None] for batch in batches for key, image in zip(batch["key"], batch["images"], strict=True)}
    with torch.no_grad():  # two classes of the first image are close together, so that noise changes its prediction
        best = module.classifier(images[chosen[0]])[0].topk(2)
        module.classifier.network.head.bias.data[best.indices[1]] += best.values[0] - best.values[1] - 1e-6
    logged = run(study, data, tmp_path, module, drawn=())
    values, kept = values_of(study, tmp_path), []
    explainer = VanillaGradient(module.classifier)
    for key in chosen:
        image, copies = images[key], noisy_copies(images[key], [key], 4, 0.05)
        with torch.no_grad():
            logits = module.classifier(image)
            noisy_logits = torch.cat([module.classifier(copy[None]) for copy in copies[0]])[None]
        target = logits.argmax(dim=1)
        counts = noisy_logits.argmax(dim=2) == target
        saliency = explainer(image, target, [key])
        noisy = torch.stack([explainer(copy[None], target, [key])[0] for copy in copies[0]])[None]
        expected = {
            "max_sensitivity": max_sensitivity(saliency, noisy),
            "local_lipschitz": local_lipschitz(saliency, noisy, image, copies),
            "relative_input": relative_input_stability(saliency, noisy, image, copies, counts),
            "relative_output": relative_output_stability(saliency, noisy, logits, noisy_logits, counts),
        }
        for name, value in expected.items():
            found = values[key, "vanilla_gradient", f"noise_{name}"]
            assert found == pytest.approx(float(value), rel=1e-3, nan_ok=True), name
        kept.append(float(counts.double().mean()))
        assert values[key, "classifier", "noise_same_prediction"] == pytest.approx(kept[-1])
    assert 0 < kept[0] < 1
    medians = values.xs(("vanilla_gradient", "noise_max_sensitivity"), level=(1, 2))
    assert logged["test/vanilla_gradient/noise_max_sensitivity_median"] == pytest.approx(medians.median())
    assert {logged[f"test/random/noise_{name}"] for name in FOUR[:2]} == {0}  # one key, one draw


def test_passes_are_counted_and_are_one_explanation_for_the_image_and_one_for_each_copy(five_shards, tmp_path):
    explainers = {
        "vanilla_gradient": VanillaGradient,
        "ig": lambda classifier: IntegratedGradients(classifier, steps=4),
    }
    study, module = NoiseStability(images=2, draws=5), evaluation(explainers)
    run(study, small_data(five_shards, limit=2), tmp_path, module, drawn=())
    means = values_of(study, tmp_path).groupby(level=(1, 2)).mean()
    assert means["vanilla_gradient", "noise_forwards"] == means["vanilla_gradient", "noise_backwards"] == 6
    assert means["ig", "noise_backwards"] == 6 * 4
    assert means["classifier", "noise_forwards"] == 6
    assert content(study, tmp_path)["settings"] == {
        "explainers": ["vanilla_gradient", "ig"],
        "draws": 5,
        "radius": 0.02,
        "seed": 0,
    }


def test_what_is_not_defined_is_counted_by_reason(five_shards, tmp_path, caplog):
    caplog.set_level("INFO")
    study = NoiseStability(images=2, draws=3)
    module = evaluation({"zero": Zero, "unsteady": Unsteady, "random": Random})
    module.classifier.network.head.weight.data *= 1e9
    logged = run(study, small_data(five_shards, limit=2), tmp_path, module)
    found = {
        (row["explainer"], row["quantity"]): (row["reason"], row["count"])
        for row in content(study, tmp_path)["undefined"]
    }
    for name in FOUR:
        assert found["zero", f"noise_{name}"] == ("the map is zero", 2)
        assert found["unsteady", f"noise_{name}"] == ("the map of a noisy copy is not finite", 2)
        assert not any(key.startswith(f"test/zero/noise_{name}") for key in logged)
    assert logged["test/zero/noise_left_out"] == 1
    assert logged["test/random/noise_max_sensitivity"] == 0
    assert "noise_stability: zero has no noise_max_sensitivity of 2 images: the map is zero" in caplog.text
    assert (tmp_path / "noise_stability.png").is_file()
    for (explainer, _), (reason, _) in found.items():
        assert explainer != "random" or reason == "no noisy copy keeps the prediction"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"draws": 0}, "`draws` must be at least 1, got 0"),
        ({"radius": 0.0}, "`radius` of the noise must be positive, got 0"),
        ({"radius": 1.5}, "`radius` must be at most 1, got 1.5"),
        ({"seed": -1}, "`seed` must be at least 0, got -1"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        NoiseStability(**options)
