import inspect
import json
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import pytest
import torch

from callbacks import RunCheckpoints, Throughput
from dre.engine.class_masks import ClassMaskTerms
from dre.engine.objectives import EQUATION_2, PUBLISHED_MGNET, Constraints, objective
from dre.engine.shapley import ShapleySettings
from dre.explainers import DRE, FastSHAP, MGnet, NNExplainer
from dre.models import Classifier, load_estimator
from dre.models.checkpoints import read_recipe
from dre.modules import MaskTraining
from tests.modules import distributed_training
from tests.networks import SmallNetwork, small_classifier
from tests.ranks import free_port, run_ranks
from tests.training import PIXELS, SaveEverywhere, quiet_trainer, short_data, small_data, small_training, torchrun


def weights(model: MaskTraining) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.estimator.state_dict().items()}


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}


def test_each_stage_trains_its_own_part_and_never_the_classifier(five_shards, tmp_path):
    model = small_training()
    start = weights(model)
    classifier = {name: value.clone() for name, value in model.classifier.state_dict().items()}
    quiet_trainer(tmp_path, callbacks=[SaveEverywhere(tmp_path)]).fit(model, short_data(five_shards))
    content = torch.load(tmp_path / "epoch_5.ckpt", weights_only=True)["state_dict"]  # five batches: the end of stage 1
    after_stage_1 = {name.removeprefix("estimator."): value for name, value in content.items()}
    assert changed(start, after_stage_1) == {"filter"}
    assert changed(after_stage_1, weights(model)) == {"generator"}
    torch.testing.assert_close(model.classifier.state_dict(), classifier)


STEPS = {"dre": (2, 1, 1), "mgnet": (3, 1, 2), "fast_shap": (4, 1, 0), "nn_explainer": (3, 3, 2)}
"""Passes of each image of a step: through the classifier, through the generator, and back through the classifier."""


@pytest.mark.parametrize("variant", STEPS)
def test_a_training_step_costs_so_many_passes_of_each_image(five_shards, tmp_path, variant):
    model = small_training(embedding_epochs=0, variant=variant)
    passes = {"classifier": 0, "generator": 0, "backward": 0}

    def count(name):
        return lambda module, given, *_: passes.__setitem__(name, passes[name] + len(given[0]))

    model.classifier.network.register_forward_hook(count("classifier"))
    model.classifier.network.stem.register_full_backward_hook(count("backward"))
    model.estimator.generator.head.register_forward_hook(count("generator"))
    quiet_trainer(tmp_path, max_epochs=1, limit_train_batches=3, limit_val_batches=0).fit(
        model, short_data(five_shards)
    )
    assert tuple(passes.values()) == tuple(3 * 4 * one for one in STEPS[variant])  # three batches of four
    assert all(parameter.grad is None for parameter in model.classifier.parameters())


@pytest.mark.parametrize("label", [0, -1, 7])
def test_the_target_is_the_classifiers_own_argmax_and_labels_are_not_read(five_shards, tmp_path, label):
    plain, shuffled = small_training(), small_training()
    quiet_trainer(tmp_path).fit(plain, short_data(five_shards))
    data = short_data(five_shards)
    transfer = data.on_after_batch_transfer
    data.on_after_batch_transfer = lambda batch, index: {
        **transfer(batch, index),
        "labels": torch.full_like(batch["labels"], label),  # of five classes
    }
    quiet_trainer(tmp_path).fit(shuffled, data)
    torch.testing.assert_close(weights(shuffled), weights(plain), rtol=0, atol=0)


def test_the_checkpoint_holds_the_estimator_and_loads_without_running_code(five_shards, tmp_path):
    model = small_training()
    quiet_trainer(tmp_path, callbacks=[RunCheckpoints()]).fit(model, short_data(five_shards))
    path = tmp_path / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    assert content["state_dict"].keys() == {f"estimator.{name}" for name in model.estimator.state_dict()}
    assert content["classifier"] == model.classifier.identity()
    assert (tmp_path / "checkpoints" / "best.ckpt").is_file()
    explainer = DRE(small_classifier(), checkpoint=str(path))
    images = torch.rand(2, 3, 64, 64)
    expected = DRE.from_estimator(model.classifier, model.estimator.eval())(images, torch.tensor([0, 1]))
    torch.testing.assert_close(explainer(images, torch.tensor([0, 1])), expected)


def test_the_checkpoint_holds_the_whole_recipe_as_plain_values(five_shards, tmp_path):
    options = {"constraints": Constraints(area=8.0), "lr": 0.005, "image_noise": 0.01, "blur_sigma": 3.16}
    model = small_training(**options)
    quiet_trainer(tmp_path, callbacks=[RunCheckpoints()]).fit(model, short_data(five_shards))
    path = tmp_path / "checkpoints" / "last.ckpt"
    recipe = read_recipe(path)
    arguments = inspect.signature(MaskTraining.__init__).parameters
    assert recipe.keys() == arguments.keys() - {"self", "classifier"}
    assert recipe["constraints"] == asdict(Constraints(area=8.0))
    assert json.loads(json.dumps(recipe)) == recipe
    again = {name: value for name, value in recipe.items() if name != "constraints"}
    assert small_training(**again, constraints=Constraints(**recipe["constraints"])).recipe == recipe
    content = torch.load(path, weights_only=True)
    del content["recipe"], content["checksum"]
    torch.save(content, path)
    with pytest.warns(UserWarning, match="no checksum"):
        assert read_recipe(path) is None
    with pytest.warns(UserWarning, match="no checksum"):
        assert isinstance(DRE(small_classifier(), checkpoint=str(path)), DRE)


def test_image_noise_is_added_before_the_mask_and_alone(five_shards, tmp_path, monkeypatch):
    """Masks and fills are those without it; what lies under the mask is noisy, in [0, 1]."""
    seen = []

    def spy(name, classifier, images, mask, background, *others):
        seen.append((images.detach(), mask.detach(), background.detach()))
        return objective(name, classifier, images, mask, background, *others)

    monkeypatch.setattr("dre.modules.mask_losses.objective", spy)
    for amount in (0.0, 0.015):
        model = small_training(embedding_epochs=0, image_noise=amount)
        quiet_trainer(tmp_path, max_epochs=1, limit_train_batches=1, limit_val_batches=0).fit(
            model, short_data(five_shards)
        )
    (clean, mask, fill), (noisy, same_mask, same_fill) = seen
    assert torch.equal(mask, same_mask)
    assert torch.equal(fill, same_fill)
    inner = (clean > 0.1) & (clean < 0.9)
    assert (noisy - clean)[inner].std() == pytest.approx(0.015, rel=0.05)
    assert 0 <= noisy.amin() <= noisy.amax() <= 1


@pytest.mark.parametrize(  # in stage 1, at its end, in the middle of stage 2
    ("stop_after", "options"),
    [(2, {}), (5, {}), (7, {}), (7, {"variant": "fast_shap"}), (7, {"variant": "nn_explainer"})],
)
def test_a_resumed_run_ends_where_the_unbroken_one_does(five_shards, tmp_path, stop_after, options):
    whole = small_training(**options)
    quiet_trainer(tmp_path, callbacks=[SaveEverywhere(tmp_path)]).fit(whole, short_data(five_shards))
    resumed = small_training(**options)
    path = tmp_path / f"batch_{stop_after}.ckpt"
    quiet_trainer(tmp_path).fit(resumed, short_data(five_shards), ckpt_path=path, weights_only=True)
    torch.testing.assert_close(weights(resumed), weights(whole), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("options", "loss", "constraints"),
    [
        ({}, "cross_entropy", Constraints()),
        ({"constraints": Constraints(area=8.0)}, "cross_entropy", Constraints(area=8.0)),
        ({"variant": "mgnet"}, "published_mgnet", PUBLISHED_MGNET),
        ({"variant": "mgnet", "objective": "eq2"}, "eq2", EQUATION_2),
        (
            {
                "filter_gain": 2.0,
                "evidence": True,
                "mask_sampling": "random_area",
                "objective": "generalised_cross_entropy",
            },
            "generalised_cross_entropy",
            Constraints(),
        ),
        ({"eta": 1.5, "h": 0.5, "embedding_loss": "bce", "upsample": "transposed"}, "cross_entropy", Constraints()),
        ({"mask_sampling": "tuned", "monotone": False}, "cross_entropy", Constraints()),
        (
            {"evidence": "balanced", "contrast_share": 0.5, "fills": ["blur25", "image_mean", "black", "noise"]},
            "cross_entropy",
            Constraints(),
        ),
        ({"evidence": "balanced", "residual_weight": 0.5, "fills": ["coloured_noise"]}, "cross_entropy", Constraints()),
        ({"variant": "fast_shap", "fast_shap": ShapleySettings(subsets=4, score="logit")}, None, None),
        ({"variant": "nn_explainer", "nn_explainer": ClassMaskTerms(others=1), "fills": ["black"]}, None, None),
    ],
)
def test_variants_and_ablations_train(five_shards, tmp_path, options, loss, constraints):
    model = small_training(**options)
    plain = None if constraints is None else asdict(constraints)
    assert (model.recipe["objective"], model.recipe["constraints"]) == (loss, plain)
    start = weights(model)
    trainer = quiet_trainer(tmp_path, callbacks=[RunCheckpoints()])
    trainer.fit(model, short_data(five_shards))
    assert changed(start, weights(model)) == {"filter", "generator"}
    assert math.isfinite(trainer.callback_metrics["val/faithfulness"])
    assert 0 <= trainer.callback_metrics["val/explainability"] <= 1
    path = str(tmp_path / "checkpoints" / "last.ckpt")
    for kind in (DRE, MGnet, FastSHAP, NNExplainer):
        if kind.variant == model.estimator.settings.variant:
            kind(small_classifier(), checkpoint=path)
        else:
            with pytest.raises(ValueError, match=rf"holds a generator of variant .*, asked for '{kind.variant}'"):
                kind(small_classifier(), checkpoint=path)
    assert MaskTraining.load_from_checkpoint(path, classifier=small_classifier()).recipe == model.recipe


def test_a_checkpoint_from_before_a_setting_existed_means_its_default(five_shards, tmp_path):
    quiet_trainer(tmp_path, callbacks=[RunCheckpoints()]).fit(small_training(), short_data(five_shards))
    path = tmp_path / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    del content["estimator"]["filter_gain"], content["estimator"]["evidence"]
    torch.save(content, path)
    model = small_training()
    quiet_trainer(tmp_path, max_epochs=3).fit(model, short_data(five_shards), ckpt_path=path, weights_only=True)
    with pytest.raises(ValueError, match=r"filter_gain = 0\.0, this run has filter_gain = 2\.0"):
        small_training(filter_gain=2.0).on_load_checkpoint(content)
    content["taps"][0] = "stem.1"
    with pytest.raises(ValueError, match=r"trained on the layers \['stem\.1', .*give --model\.classifier\.taps"):
        small_training().on_load_checkpoint(content)


@pytest.mark.parametrize("without", [(), ("recipe", "checksum")])
def test_a_training_is_built_again_from_its_checkpoint_and_its_classifier(five_shards, tmp_path, without):
    model = small_training(lr=1e-3, evidence="balanced", constraints=Constraints(area=2.0), fills=["black", "blur"])
    quiet_trainer(tmp_path, callbacks=[RunCheckpoints()]).fit(model, short_data(five_shards))
    path = tmp_path / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    torch.save({key: value for key, value in content.items() if key not in without}, path)
    again = MaskTraining.load_from_checkpoint(tmp_path, classifier=small_classifier())
    torch.testing.assert_close(weights(again), weights(model), rtol=0, atol=0)
    if not without:
        assert again.recipe == model.recipe
        assert (again.loss.constraints, again.rates.lr) == (Constraints(area=2.0), 1e-3)
    assert MaskTraining.load_from_checkpoint(path, classifier=small_classifier(), lr=0.5).rates.lr == 0.5
    with pytest.raises(ValueError, match=r"last\.ckpt explains SmallNetwork, not SmallNetwork: another weights"):
        MaskTraining.load_from_checkpoint(path, classifier=small_classifier(seed=3))
    with pytest.raises(ValueError, match=r"no recipe that this version can follow: .*`lr` must not be negative"):
        MaskTraining.load_from_checkpoint(path, classifier=small_classifier(), lr=-1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask_sampling": "random_area", "variant": "mgnet"}, "random_area"),
        ({"mask_sampling": "tuned", "variant": "mgnet"}, "mask_sampling: tuned"),
        ({"monotone": False, "variant": "mgnet"}, "monotone: false"),
        ({"evidence": "balanced", "variant": "nn_explainer"}, "evidence: balanced.* nn_explainer does not have"),
        ({"objective": "eq2", "variant": "fast_shap"}, "objective: eq2.* no option of the variant fast_shap"),
        ({"fast_shap": ShapleySettings(subsets=4)}, "fast_shap: .*no option of the variant dre, whose own are mask_"),
        ({"area_softness": 0.0}, "area_softness"),
        ({"contrast_share": 0.5, "variant": "mgnet"}, "contrast_share.*mgnet_fake_share"),
        ({"fills": []}, r"`fills` must name at least one of blur, .*, got \[\]"),
        ({"fills": ["blur", "mean"]}, r"`fills` must name at least one of blur, .*, got \['mean'\]"),
    ],
)
def test_masks_of_a_random_area_refuse_what_they_cannot_use(options, message):
    with pytest.raises(ValueError, match=message):
        small_training(**options)


def test_mixed_precision_trains_with_masks_in_float32(five_shards, tmp_path):
    model = small_training()
    types = []
    model.estimator.to_scores.register_forward_hook(lambda *arguments: types.append(arguments[-1].dtype))
    trainer = quiet_trainer(tmp_path, precision="bf16-mixed")
    trainer.fit(model, short_data(five_shards))
    assert set(types) == {torch.float32}
    assert math.isfinite(trainer.callback_metrics["val/faithfulness"])


def test_accumulated_gradients_are_those_of_the_whole_batch_and_its_size_is_logged(five_shards, tmp_path):
    steps = {}
    for name, batch, accumulated in (("whole", 20, 1), ("parts", 10, 2)):
        model = small_training(embedding_epochs=0, blur_share=1.0)  # no noise, whose draws follow the batches
        for module in model.estimator.modules():  # statistics of half a batch are not those of the whole
            if isinstance(module, torch.nn.BatchNorm2d):
                module.forward = partial(batch_norm_of_running_statistics, module)
        trainer = quiet_trainer(
            tmp_path, max_epochs=1, callbacks=[Throughput(every=1)], accumulate_grad_batches=accumulated
        )
        trainer.fit(model, short_data(five_shards, batch_size=batch))
        assert trainer.callback_metrics["train/images_per_step"] == 20
        assert trainer.global_step == 1
        steps[name] = dict(model.estimator.generator.named_parameters())
    for name, value in steps["whole"].items():  # Adam's first step is the rate times the gradient's sign
        agree = (value - steps["parts"][name]).abs() < 1e-3
        assert agree.float().mean() > 0.98, name  # rounding turns the sign of gradients near zero


def batch_norm_of_running_statistics(module, maps):
    return torch.nn.functional.batch_norm(
        maps, module.running_mean, module.running_var, module.weight, module.bias, training=False
    )


@pytest.mark.slow
def test_a_compiled_generator_trains_to_the_same_weights(five_shards, tmp_path):
    plain, compiled = small_training(embedding_epochs=0), small_training(embedding_epochs=0, compiled=True)
    for model in (plain, compiled):
        trainer = quiet_trainer(tmp_path, max_epochs=1, limit_train_batches=1, callbacks=[RunCheckpoints()])
        trainer.fit(model, short_data(five_shards))
    for name, value in weights(plain).items():  # one step of Adam at 1e-2, whose sign rounding may turn near zero
        torch.testing.assert_close(weights(compiled)[name], value, rtol=0, atol=2.1e-2)
        assert ((weights(compiled)[name] - value).abs() < 1e-3).float().mean() > 0.95, name
    DRE(small_classifier(), checkpoint=str(tmp_path / "checkpoints" / "last.ckpt"))


def test_where_nothing_can_be_compiled_a_line_says_so(five_shards, tmp_path, monkeypatch):
    def refuse(function):
        raise RuntimeError("no C++ compiler\nand a long story")

    monkeypatch.setattr(torch, "compile", refuse)
    with pytest.raises(ValueError, match=r"^torch\.compile does not work here \(no C\+\+ compiler\); leave out"):
        quiet_trainer(tmp_path).fit(small_training(compiled=True), short_data(five_shards))


def test_learning_rates_follow_the_paper():
    of_embeddings, of_generator = small_training(embedding_epochs=2).rates.factors(max_epochs=12)
    assert [of_embeddings(epoch) for epoch in range(4)] == [1, 1, 0, 0]
    assert [of_generator(epoch) for epoch in range(9)] == [0, 0, 1, 1, 1, 0.5, 0.5, 0.5, 0.25]
    _, constant = small_training(embedding_epochs=2, schedule="constant").rates.factors(max_epochs=12)
    assert [constant(epoch) for epoch in range(9)] == [0, 0, 1, 1, 1, 1, 1, 1, 1]


def test_a_resumed_run_trains_at_its_own_rate(five_shards, tmp_path):
    quiet_trainer(tmp_path, callbacks=[RunCheckpoints()]).fit(small_training(), short_data(five_shards))
    path = tmp_path / "checkpoints" / "last.ckpt"
    model = small_training(lr=1e-4, weight_decay=0.5)
    trainer = quiet_trainer(tmp_path, max_epochs=3)
    trainer.fit(model, short_data(five_shards), ckpt_path=path, weights_only=True)
    assert [group["lr"] for group in trainer.optimizers[0].param_groups] == [0.0, 1e-4]
    assert trainer.optimizers[0].param_groups[1]["weight_decay"] == 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr_epochs": 0}, "`lr_epochs` must be at least 1, got 0"),
        ({"lr": -1.0}, "`lr` must not be negative, got -1.0"),
        ({"embedding_epochs": -1}, "`embedding_epochs` must not be negative, got -1"),
        ({"contrast_share": -0.5}, r"`contrast_share` is a share in \[0, 1\], got -0.5"),
        ({"image_noise": -0.1}, r"`image_noise` must not be negative, got -0\.1; 0 adds none"),
        ({"blur_sigma": 0.0}, r"`blur_sigma` must be positive, got 0\.0"),
        ({"blur_share": 5.0}, r"`blur_share` is a share in \[0, 1\], got 5.0"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        small_training(**options)


def test_a_run_whose_generator_would_never_train_is_refused(five_shards, tmp_path):
    with pytest.raises(ValueError, match=r"2 epochs are all of stage 1 \(2 embedding epochs\)"):
        quiet_trainer(tmp_path, max_epochs=2).fit(small_training(embedding_epochs=2), short_data(five_shards))


def test_embeddings_and_their_optimiser_state_rest_in_stage_2(five_shards, tmp_path):
    model = small_training(embedding_epochs=0)
    trainer = quiet_trainer(tmp_path, max_epochs=1)
    trainer.fit(model, short_data(five_shards))
    assert model.estimator.filter.embedding.weight not in trainer.optimizers[0].state


def test_embeddings_can_start_from_the_head():
    model = small_training(embedding_start="head")
    torch.testing.assert_close(model.estimator.filter.embedding.weight.data, model.classifier.head_weights())
    taps = ["stem.2", "stem.2", "stage2.2", "stage2.2"]  # the head reads another map than the last of these
    other = Classifier.wrap(SmallNetwork(), taps=taps, size=(64, 64))
    with pytest.raises(ValueError, match=r"no linear layer on its last tap: wanted \[5, 8\] weights, got \[5, 16\]"):
        MaskTraining(other, embedding_start="head")


def test_a_loss_that_is_not_finite_stops_the_run_with_step_and_rate(five_shards, tmp_path):
    model = small_training(embedding_epochs=0)
    torch.nn.init.constant_(model.estimator.generator.head.bias, float("nan"))
    with pytest.raises(FloatingPointError, match=r"the loss is nan at step 0 \(epoch 0\) with rate 0.01"):
        quiet_trainer(tmp_path, callbacks=[RunCheckpoints()]).fit(model, short_data(five_shards))
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize(
    "options", [{}, {"variant": "mgnet"}, {"variant": "fast_shap"}, {"variant": "nn_explainer"}], ids=str
)
def test_grey_images_train_and_pictures_of_other_channels_are_refused_with_the_reason(five_shards, tmp_path, options):
    def train(channels: int) -> MaskTraining:
        model = MaskTraining(small_classifier(channels=channels), widths=[8, 8, 8], embedding_epochs=0, **options)
        data = short_data(five_shards, batch_size=4, preprocessing=replace(PIXELS, channels=channels))
        quiet_trainer(tmp_path, max_epochs=1, limit_train_batches=2, limit_val_batches=1).fit(model, data)
        return model

    before = [value.clone() for value in small_training(**options).estimator.parameters()]
    after = list(train(1).estimator.parameters())
    assert all(value.isfinite().all() for value in after)
    assert len(after) == len(before)
    with pytest.raises(ValueError, match=r"is 4, and packed pictures have 3, or 1 in grey; .* of your own"):
        train(4)


def test_other_channels_train_on_batches_of_ones_own(tmp_path):
    model = MaskTraining(small_classifier(channels=5), widths=[8, 8, 8])
    batch = {"images": torch.rand(4, 5, 64, 64), "labels": torch.zeros(4, dtype=torch.int64), "key": list("abcd")}
    loader = torch.utils.data.DataLoader([batch], batch_size=None)
    trainer = quiet_trainer(tmp_path, max_epochs=3)
    trainer.fit(model, loader)
    assert trainer.callback_metrics["train/loss"].isfinite()


def test_a_checkpoint_of_another_classifier_variant_or_setting_is_refused(five_shards, tmp_path):
    model = small_training()
    trainer = quiet_trainer(tmp_path, callbacks=[RunCheckpoints()])
    trainer.fit(model, short_data(five_shards))
    path = tmp_path / "checkpoints" / "last.ckpt"
    with pytest.raises(ValueError, match=r"explains SmallNetwork, not SmallNetwork: another weights .*for this one"):
        load_estimator(path, small_classifier(seed=1), "dre")
    with pytest.raises(ValueError, match="holds a generator of variant 'dre', asked for 'mgnet'"):
        load_estimator(path, small_classifier(), "mgnet")
    with pytest.raises(ValueError, match=r"trained with h = 2.5, this run has h = 0.5"):
        quiet_trainer(tmp_path).fit(small_training(h=0.5), short_data(five_shards), ckpt_path=path, weights_only=True)


class Hostile:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def test_a_truncated_or_hostile_checkpoint_is_refused_and_not_run(tmp_path):
    torch.save({"estimator": Hostile(tmp_path / "ran"), "state_dict": {}}, tmp_path / "hostile.ckpt")
    with pytest.raises(ValueError, match=r"hostile\.ckpt is not a checkpoint of plain tensors"):
        load_estimator(tmp_path / "hostile.ckpt", small_classifier(), "dre")
    assert not (tmp_path / "ran").exists()
    torch.save({"state_dict": {"a": torch.zeros(1000)}}, tmp_path / "whole.ckpt")
    (tmp_path / "half.ckpt").write_bytes((tmp_path / "whole.ckpt").read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"half\.ckpt is truncated"):
        load_estimator(tmp_path / "half.ckpt", small_classifier(), "dre")
    with pytest.raises(ValueError, match=r"whole\.ckpt holds no mask generator"):
        load_estimator(tmp_path / "whole.ckpt", small_classifier(), "dre")


def test_throughput_is_logged_and_broken_samples_end_the_run(five_shards, tmp_path):
    meter = Throughput(every=1, broken_share=0.01)
    trainer = quiet_trainer(tmp_path, callbacks=[meter])
    trainer.fit(small_training(), small_data(five_shards))
    assert meter.images == 40
    assert trainer.callback_metrics["train/images_per_second"] > 0
    meter.broken = {"shard.tar/a: truncated": None}
    with pytest.raises(ValueError, match=r"1 of 20 training samples cannot be read, more than 1 %.*shard\.tar/a"):
        meter.on_train_epoch_end(trainer, None)


@pytest.mark.ddp
def test_validation_numbers_agree_on_one_two_and_three_ranks(five_shards, tmp_path):
    values = []
    for ranks in (1, 2, 3):
        run_ranks(distributed_training.main, ranks, five_shards, tmp_path / str(ranks))
        values.append(torch.load(tmp_path / str(ranks) / "validation.pt", weights_only=True))
    assert values[0].keys() == {"val/faithfulness", "val/explainability", "val/pearson_skewness"}
    for other in values[1:]:
        assert other == pytest.approx(values[0], rel=1e-5)  # sums in float64 of float32 scores


@pytest.mark.ddp
@pytest.mark.parametrize("variant", ["fast_shap", "nn_explainer"])
def test_rivals_validate_and_train_alike_on_two_ranks(five_shards, tmp_path, variant):
    run_ranks(distributed_training.main, 2, five_shards, tmp_path, variant)
    found = torch.load(tmp_path / "validation.pt", weights_only=True)
    alone = quiet_trainer(tmp_path).validate(small_training(variant=variant), small_data(five_shards), verbose=False)
    assert found == pytest.approx(alone[0], rel=1e-5)
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    torch.testing.assert_close(first, second, rtol=0, atol=0)  # every parameter had a gradient, and the mean of both


@pytest.mark.ddp
@pytest.mark.slow
def test_two_nodes_train_together(five_shards, tmp_path):
    nodes = ["--nnodes=2", "--rdzv_backend=c10d", f"--rdzv_endpoint=127.0.0.1:{free_port()}", "--rdzv_id=two"]
    words = ["-m", "tests.modules.distributed_training", str(five_shards), str(tmp_path)]
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda node: torchrun(words, 1, *nodes, "--local_addr=127.0.0.1"), (0, 1)))
    assert [node.returncode for node in done] == [0, 0], "".join(node.stderr[-2000:] for node in done)
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    torch.testing.assert_close(first, second, rtol=0, atol=0)  # averaged gradients keep the ranks in step


def test_options_of_the_loss_are_attributes_of_the_training_as_before():
    training = small_training(objective="published_mgnet", mgnet_fake_share=0.5, image_noise=0.1)
    assert (training.mgnet_fake_share, training.image_noise, training.objective) == (0.5, 0.1, "published_mgnet")
    assert training.constraints == training.loss.constraints
    with pytest.raises(AttributeError, match="nothing"):
        training.nothing  # noqa: B018
