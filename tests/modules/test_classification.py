import copy
import math

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import nn

from callbacks import RunCheckpoints
from dre.models import Classifier, read_checkpoint, read_classifier_checkpoint
from tests.classification import (
    NORMED,
    NORMED_PIXELS,
    QUARTERS,
    classification,
    labelled_data,
    quarters,
    with_batch_norm,
)
from tests.modules import distributed_classification
from tests.ranks import run_ranks
from tests.training import SaveEverywhere, quiet_trainer, small_data, small_training


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return quarters(tmp_path_factory.mktemp("quarters"))


class Watch(pl.Callback):
    """Keep the losses, the rates and, after each step, the weights."""

    def __init__(self):
        self.losses, self.rates, self.states = [], [], []

    def on_train_batch_start(self, trainer, *_):
        self.rates.append([group["lr"] for group in trainer.optimizers[0].param_groups])

    def on_train_batch_end(self, trainer, module, outputs, *_):
        self.losses.append(outputs["loss"].item())
        self.states.append(copy.deepcopy(module.network.state_dict()))


def trained(root, folder, model=None, **options):
    """Train, two epochs when not told otherwise; give the module, its trainer, and what was watched."""
    model, watch = model or classification(), Watch()
    trainer = quiet_trainer(folder, callbacks=[RunCheckpoints(monitor="val/top1"), watch], **options)
    trainer.fit(model, labelled_data(root, model))
    return model, trainer, watch


def same(first, second) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


def test_a_few_steps_teach_it_what_the_classes_are(pictures, tmp_path):
    _, trainer, watch = trained(pictures, tmp_path, max_epochs=5)
    assert watch.losses[-1] < watch.losses[0] - 0.3
    assert trainer.callback_metrics["val/top1"] > 0.9  # chance is a quarter
    assert trainer.callback_metrics["train/top1"] > 0.9
    assert (tmp_path / "checkpoints" / "best.ckpt").is_file()


@pytest.mark.parametrize("stop_after", [2, 4, 6])  # in mid-epoch, at its end, in the second epoch
def test_a_resumed_run_ends_where_the_unbroken_one_does(pictures, tmp_path, stop_after):
    whole = with_batch_norm()
    quiet_trainer(tmp_path, callbacks=[SaveEverywhere(tmp_path)]).fit(whole, labelled_data(pictures, whole))
    resumed = with_batch_norm()
    path = tmp_path / f"batch_{stop_after}.ckpt"
    quiet_trainer(tmp_path).fit(resumed, labelled_data(pictures, resumed), ckpt_path=path, weights_only=True)
    torch.testing.assert_close(resumed.state_dict(), whole.state_dict(), rtol=0, atol=0)


def test_the_average_follows_the_weights_slowly(pictures, tmp_path):
    model, _, watch = trained(pictures, tmp_path, with_batch_norm(average_decay=0.6))
    expected = {name: value.double() for name, value in watch.states[0].items()}
    for step, state in enumerate(watch.states[1:], start=1):
        decay = min(0.6, 1 - (1 + step) ** (-2 / 3))
        for name, value in state.items():
            whole = not value.is_floating_point()  # batches that were counted
            expected[name] = value.double() if whole else decay * expected[name] + (1 - decay) * value
    actual = {name: value.double() for name, value in model.average.module.state_dict().items()}
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)  # float32 lerps
    assert not same(model.average.module.state_dict(), model.network.state_dict())


@pytest.mark.parametrize("average_decay", [0.9, 0.0])
def test_the_weights_that_count_are_validated_and_read_by_the_classifier(pictures, tmp_path, average_decay):
    model, trainer, _ = trained(pictures, tmp_path, classification(average_decay=average_decay))
    classifier = Classifier(weights=str(tmp_path / "checkpoints" / "last.ckpt"))
    counts = model.network if average_decay == 0 else model.average.module
    torch.testing.assert_close(classifier.network.state_dict(), counts.state_dict())
    right, losses = [], []
    data = labelled_data(pictures, model)
    data.setup()
    for batch in data.val_dataloader():
        batch = data.on_after_batch_transfer(batch, 0)
        logits = classifier(batch["images"])
        right += (logits.argmax(1) == batch["labels"]).tolist()
        losses += F.cross_entropy(logits, batch["labels"], reduction="none").tolist()
    assert trainer.callback_metrics["val/top1"] == pytest.approx(sum(right) / len(right))
    assert trainer.callback_metrics["val/loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-5)


def test_top5_counts_the_first_five(pictures, tmp_path):
    model = classification(num_classes=7)
    data = labelled_data(pictures, model)
    (values,) = quiet_trainer(tmp_path).validate(model, data, verbose=False)
    batches = [data.on_after_batch_transfer(batch, 0) for batch in data.val_dataloader()]
    with torch.no_grad():
        places = [model(batch["images"]).argsort(dim=1, descending=True) for batch in batches]
    found = torch.cat([order[:, :5] == batch["labels"][:, None] for order, batch in zip(places, batches, strict=True)])
    assert values["val/top5"] == pytest.approx(found.any(dim=1).float().mean().item())
    assert values["val/top1"] == pytest.approx(found[:, 0].float().mean().item())
    assert "val/top5" not in quiet_trainer(tmp_path).validate(classification(), data, verbose=False)[0]


def test_the_checkpoint_is_the_classifier_with_names_and_preprocessing(pictures, tmp_path):
    model, _, _ = trained(pictures, tmp_path, with_batch_norm())
    path = str(tmp_path / "checkpoints" / "last.ckpt")
    images = torch.rand(3, 3, 32, 32)
    model.eval()
    with torch.no_grad():
        expected = model(images)
        plain, folded = Classifier(weights=path, fold=False), Classifier(NORMED, weights=path)
        torch.testing.assert_close(plain(images), expected, rtol=1e-5, atol=1e-5)  # another order of normalising
        torch.testing.assert_close(folded(images), expected, rtol=0, atol=1e-4 * expected.abs().max().item())
    assert any(isinstance(module, nn.BatchNorm2d) for module in plain.network.modules())
    assert (plain.name, plain.num_classes, plain.class_names) == (NORMED, 4, QUARTERS)
    assert plain.preprocessing == NORMED_PIXELS
    assert plain.fingerprint == folded.fingerprint


def test_a_classifier_of_another_network_or_size_is_refused(pictures, tmp_path):
    trained(pictures, tmp_path)
    path = str(tmp_path / "checkpoints" / "last.ckpt")
    with pytest.raises(ValueError, match=r"last\.ckpt holds weights of dre/mnist_cnn, not of resnet18"):
        Classifier("resnet18", weights=path)
    with pytest.raises(ValueError, match=r"last\.ckpt knows 4 classes, `num_classes` is 10"):
        Classifier("dre/mnist_cnn", weights=path, num_classes=10)
    with pytest.raises(ValueError, match="`name` is left out"):
        Classifier(weights="package")
    with pytest.raises(ValueError, match="holds no mask generator"):
        read_checkpoint(path)


def test_broken_and_foreign_checkpoints_are_refused(pictures, five_shards, tmp_path):
    trained(pictures, tmp_path)
    content = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    content["state_dict"]["average.module.head.bias"][0] = math.nan
    del content["checksum"]  # as in files of 0.1
    torch.save(content, tmp_path / "nan.ckpt")
    with pytest.raises(ValueError, match=r"nan\.ckpt has weights that are not finite, as head\.bias"):
        Classifier(weights=str(tmp_path / "nan.ckpt"))
    trainer = quiet_trainer(tmp_path, max_epochs=1, limit_train_batches=1, limit_val_batches=0)
    trainer.fit(small_training(embedding_epochs=0), small_data(five_shards))
    trainer.save_checkpoint(tmp_path / "masks.ckpt")
    with pytest.raises(ValueError, match=r"masks\.ckpt holds no training of a classifier"):
        read_classifier_checkpoint(tmp_path / "masks.ckpt")
    with pytest.raises(ValueError, match=r"masks\.ckpt does not fit resnet18"):
        Classifier("resnet18", weights=str(tmp_path / "masks.ckpt"))


def test_training_can_start_from_another_classifiers_weights(pictures, tmp_path):
    before, _, _ = trained(pictures, tmp_path)
    path = str(tmp_path / "checkpoints" / "last.ckpt")
    kept, replaced = classification(weights=path), classification(weights=path, num_classes=9)
    state = before.average.module.state_dict()
    torch.testing.assert_close(kept.network.state_dict(), state, rtol=0, atol=0)
    body = {name for name in state if not name.startswith("head")}
    assert all(torch.equal(replaced.network.state_dict()[name], state[name]) for name in body)
    assert replaced.network.head.weight.shape == (9, 1024)


@pytest.mark.parametrize(
    ("frozen", "learns"),
    [
        (["backbone"], {"classifier"}),
        (["conv_stem", "bn1", "blocks.0"], {"blocks", "conv_head", "norm_head", "classifier"}),
    ],
)
def test_frozen_modules_stay_as_they_are(pictures, tmp_path, frozen, learns):
    model = with_batch_norm(frozen=frozen)
    before = copy.deepcopy(model.network.state_dict())
    trained(pictures, tmp_path, model)
    changed = {name for name, value in model.network.state_dict().items() if not torch.equal(value, before[name])}
    assert {name.split(".")[0] for name in changed} <= learns
    assert any(name.startswith("classifier") for name in changed)
    assert not any(name.startswith(tuple(frozen)) for name in changed)


def test_head_and_backbone_have_their_own_rates_and_biases_do_not_decay(pictures, tmp_path):
    options = {"lr": 0.1, "head_lr": 0.5, "weight_decay": 0.01, "warm_up": 0.25, "momentum": 0.3}
    model, trainer, watch = trained(pictures, tmp_path, with_batch_norm(**options))
    groups = trainer.optimizers[0].param_groups
    assert [(group["initial_lr"], group["weight_decay"]) for group in groups] == [
        (0.1, 0.01),
        (0.1, 0.0),
        (0.5, 0.01),
        (0.5, 0.0),
    ]
    assert [len(groups[place]["params"]) for place in (2, 3)] == [1, 1]
    assert all(parameter.ndim == 1 for place in (1, 3) for parameter in groups[place]["params"])
    assert sum(len(group["params"]) for group in groups) == len(list(model.network.parameters()))
    # eight steps: two of warm-up, six of the half cosine
    factors = [1 / 3, 2 / 3] + [0.5 * (1 + math.cos(math.pi * step / 6)) for step in range(6)]
    for rates, factor in zip(watch.rates, factors, strict=True):
        assert rates == pytest.approx([0.1 * factor, 0.1 * factor, 0.5 * factor, 0.5 * factor])


def test_a_constant_rate_stays(pictures, tmp_path):
    _, _, watch = trained(pictures, tmp_path, classification(schedule="constant", warm_up=0.0))
    assert [rates[0] for rates in watch.rates] == [0.02] * 8


def test_a_resumed_run_trains_at_its_own_rates(pictures, tmp_path):
    trained(pictures, tmp_path)
    model, watch = classification(lr=0.003, weight_decay=0.7, schedule="constant", warm_up=0.0), Watch()
    trainer = quiet_trainer(tmp_path, max_epochs=3, callbacks=[watch])
    path = tmp_path / "checkpoints" / "last.ckpt"
    trainer.fit(model, labelled_data(pictures, model), ckpt_path=path, weights_only=True)
    assert [rates[0] for rates in watch.rates] == [0.003] * 4
    assert trainer.optimizers[0].param_groups[0]["weight_decay"] == 0.7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 5}, "trained with num_classes = 4, this run has num_classes = 5"),
        ({"optimizer": "adamw"}, "trained with optimizer = sgd, this run has optimizer = adamw"),
        ({"average_decay": 0.0}, "trained with averaged = True, this run has averaged = False"),
        ({"frozen": ["features"]}, r"trained with frozen = \[\], this run has frozen = \['features'\]"),
    ],
)
def test_a_checkpoint_of_other_settings_is_not_gone_on_from(pictures, tmp_path, options, message):
    trained(pictures, tmp_path)
    model = classification(**options)
    path = tmp_path / "checkpoints" / "last.ckpt"
    with pytest.raises(ValueError, match=message):
        quiet_trainer(tmp_path).fit(model, labelled_data(pictures, model), ckpt_path=path, weights_only=True)


def test_a_checkpoint_of_other_classes_is_not_gone_on_from(pictures, tmp_path):
    trained(pictures, tmp_path / "run")
    quarters(tmp_path / "other")
    for split in ("train", "val"):
        (tmp_path / "other" / split / "lower_right").rename(tmp_path / "other" / split / "lower_rihgt")
    model = classification()
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    with pytest.raises(ValueError, match="class 1 is 'lower_right' in the checkpoint and 'lower_rihgt' in the data"):
        quiet_trainer(tmp_path).fit(model, labelled_data(tmp_path / "other", model), ckpt_path=path, weights_only=True)


def test_data_of_more_classes_are_refused_and_of_fewer_are_noted(pictures, tmp_path):
    few, many = classification(num_classes=3), classification(num_classes=6)
    with pytest.raises(
        ValueError, match=r"data name 4 classes, dre/mnist_cnn has 3 outputs; set --model\.num_classes 4"
    ):
        quiet_trainer(tmp_path).fit(few, labelled_data(pictures, few))
    with pytest.warns(UserWarning, match=r"data name 4 classes, dre/mnist_cnn has 6 outputs"):
        quiet_trainer(tmp_path).validate(many, labelled_data(pictures, many), verbose=False)
    assert many.class_names == (*QUARTERS, "", "")


@pytest.mark.parametrize(
    ("shift", "message"),
    [(3, r"image '.*' has class [4-6], the classifier knows 0\.\.3"), (-4, "image '.*' has no class")],
)
@pytest.mark.parametrize("stage", ["fit", "validate"])
def test_a_label_that_cannot_be_learnt_is_named(pictures, tmp_path, shift, message, stage):
    model = classification()
    data = labelled_data(pictures, model)
    transfer = data.on_after_batch_transfer
    data.on_after_batch_transfer = lambda batch, index: {**transfer(batch, index), "labels": batch["labels"] + shift}
    with pytest.raises(ValueError, match=message):
        getattr(quiet_trainer(tmp_path), stage)(model, data)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_smoothing": 1.5}, r"`label_smoothing` is a share in \[0, 1\], got 1\.5"),
        ({"lr": -0.1}, "`lr` must not be negative"),
        ({"num_classes": 1}, "`num_classes` must be at least 2, got 1"),
        ({"frozen": ["stem"]}, "no module 'stem' to freeze; there are features, flatten, head, and backbone"),
        ({"frozen": ["features", "head"]}, r"leaves nothing to train"),
        ({"name": "dre/mnist_cn"}, "unknown model 'dre/mnist_cn'; did you mean dre/mnist_cnn"),
        ({"weights": "pretrained"}, "nobody publishes weights of dre/mnist_cnn"),
        ({"preprocessing": NORMED_PIXELS}, r"dre/mnist_cnn does not run on images \[1, 3, 32, 32\]"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        classification(**options)


def test_a_loss_that_is_not_finite_stops_the_run(pictures, tmp_path):
    model = classification()
    nn.init.constant_(model.network.head.bias, math.nan)
    with pytest.raises(FloatingPointError, match=r"the loss is nan at step 0 \(epoch 0\) with rate .*--model\.lr"):
        trained(pictures, tmp_path, model)


def test_a_validation_loss_with_nan_is_nan():
    model = classification()
    for loss in (1.0, math.nan, 3.0):
        model.val_loss.update(loss)
    assert model.val_loss.compute().isnan()


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_mixed_precision_trains_float32_weights(pictures, tmp_path, optimizer):
    model, trainer, _ = trained(
        pictures, tmp_path, with_batch_norm(optimizer=optimizer, lr=1e-3), precision="bf16-mixed"
    )
    assert math.isfinite(trainer.callback_metrics["val/loss"])
    assert {value.dtype for value in model.average.module.parameters()} == {torch.float32}


@pytest.mark.ddp
def test_ranks_agree_on_accuracy_and_on_the_weights_that_count(pictures, tmp_path):
    values = []
    for ranks in (1, 2, 3):
        run_ranks(distributed_classification.main, ranks, pictures, tmp_path / str(ranks))
        values.append(torch.load(tmp_path / str(ranks) / "validation.pt", weights_only=True))
        states = [torch.load(tmp_path / str(ranks) / f"rank{rank}.pt", weights_only=True) for rank in range(ranks)]
        for other in states[1:]:
            torch.testing.assert_close(other, states[0], rtol=0, atol=0)
    assert values[0].keys() == {"val/loss", "val/top1", "val/top5"}
    for other in values[1:]:
        assert other == pytest.approx(values[0], rel=1e-5)  # float32 sums in another order
