"""Surrogate of a classifier: what is hidden, what it learns, and FastSHAP's training by it."""

import pytest
import torch
from torch import nn

from callbacks import RunCheckpoints
from dre.engine.perturbation import SweepEngine
from dre.engine.shapley import ShapleySettings, uniform_subsets
from dre.models import Classifier
from dre.modules.loss_settings import LossSettings
from dre.modules.mask_losses import LOSSES, MaskStep
from dre.modules.surrogate import SurrogateTask, divergence_from, draws_of
from tests.classification import classification, labelled_data, quarters, with_batch_norm
from tests.networks import small_batch, small_classifier, small_estimator
from tests.training import SaveEverywhere, quiet_trainer


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """A classifier of quarters, as a folder of pictures and a checkpoint."""
    folder = tmp_path_factory.mktemp("taught")
    root, model = quarters(folder / "pictures"), classification(average_decay=0.0)
    trainer = quiet_trainer(folder, max_epochs=5, callbacks=[RunCheckpoints(monitor="val/top1")])
    trainer.fit(model, labelled_data(root, model))
    return root, folder / "checkpoints" / "last.ckpt"


def test_sizes_of_subsets_are_uniform_and_superpixels_alike():
    drawn = uniform_subsets(20_000, 4, torch.Generator().manual_seed(0))
    sizes = drawn.sum(dim=1).long().bincount(minlength=5) / len(drawn)
    torch.testing.assert_close(sizes, torch.full((5,), 0.2), atol=0.015, rtol=0)
    torch.testing.assert_close(drawn.mean(dim=0), torch.full((4,), 0.5), atol=0.02, rtol=0)


def test_whole_superpixels_are_hidden_whatever_the_batch():
    task = SurrogateTask(nn.Identity())
    images = torch.ones(3, 2, 40, 32)
    hidden = task.hide(images, draws_of(["a", "b", "c"], "here"))
    for row in range(3):
        assert torch.equal(task.hide(images[row : row + 1], draws_of(["abc"[row]], "here"))[0], hidden[row])
    assert hidden.unique().tolist() == [0, 1]
    assert torch.equal(hidden[:, 0], hidden[:, 1])
    cell = hidden[:, :, :13, :16]  # 40 pixels are three superpixels, none larger than 16
    assert all(len(one.unique()) == 1 for one in cell)
    assert not torch.equal(hidden, task.hide(images, draws_of(["a", "b", "c"], "there")))


def test_divergence_is_that_of_kullback_and_leibler():
    logits, wanted = torch.randn(4, 5), torch.randn(4, 5)
    p, q = wanted.softmax(1), logits.softmax(1)
    torch.testing.assert_close(divergence_from(logits, wanted), (p * (p / q).log()).sum(1))
    assert divergence_from(logits, logits + 3).abs().max() < 1e-6


def surrogate(path, **options):
    return classification(weights=str(path), num_classes=None, surrogate=True, lr=0.03, average_decay=0.0, **options)


def test_it_comes_nearer_to_what_is_predicted_of_whole_images(taught, tmp_path):
    root, path = taught
    model = surrogate(path)
    data = labelled_data(root, model)
    trainer = quiet_trainer(tmp_path, max_epochs=12, callbacks=[RunCheckpoints(monitor="val/top1")])
    (before,) = trainer.validate(model, data, verbose=False)
    trainer.fit(model, data)
    assert trainer.callback_metrics["val/loss"] < 0.8 * before["val/loss"]
    batch = data.on_after_batch_transfer(next(iter(data.val_dataloader())), 0)
    images = (batch["images"] - model.mean) / model.std
    classifier = Classifier(weights=str(path))
    torch.testing.assert_close(model.task.predict(images), classifier(batch["images"]))  # what it learns stays
    assert not any(name.startswith("task") for name in model.state_dict())
    trained = Classifier(weights=str(tmp_path / "checkpoints" / "last.ckpt"))
    torch.testing.assert_close(trained(batch["images"]), model(batch["images"]))


def test_a_resumed_surrogate_ends_where_the_unbroken_one_does(taught, tmp_path):
    root, path = taught
    whole, resumed = surrogate(path), surrogate(path)
    quiet_trainer(tmp_path, callbacks=[SaveEverywhere(tmp_path)]).fit(whole, labelled_data(root, whole))
    trainer = quiet_trainer(tmp_path)
    trainer.fit(resumed, labelled_data(root, resumed), ckpt_path=tmp_path / "batch_6.ckpt", weights_only=True)
    torch.testing.assert_close(resumed.state_dict(), whole.state_dict(), rtol=0, atol=0)
    plain = classification(weights=str(path), num_classes=None, average_decay=0.0)
    with pytest.raises(ValueError, match="trained with surrogate = True, this run has surrogate = False"):
        quiet_trainer(tmp_path).fit(
            plain, labelled_data(root, plain), ckpt_path=tmp_path / "batch_6.ckpt", weights_only=True
        )


def test_it_needs_no_labels_but_weights(taught):
    _, path = taught
    model = surrogate(path)
    images = torch.rand(2, 1, 28, 28)
    model.validation_step({"images": images, "key": ["a", "b"]}, 0)
    assert model.val_loss.compute() > 0
    with pytest.raises(ValueError, match="`num_classes: 4` may put a new head on the weights"):
        classification(surrogate=True, weights=str(path), num_classes=4)
    with pytest.warns(UserWarning, match="learns what random weights predict; name trained ones"):
        classification(surrogate=True)


def test_fast_shap_reads_all_its_scores_from_the_surrogate(tmp_path):
    torch.manual_seed(0)
    classifier, (images, _) = small_classifier(), small_batch(2, height=64, width=64)
    estimator = small_estimator(classifier, "fast_shap").train()
    other = with_batch_norm(num_classes=classifier.num_classes)
    other.task = SurrogateTask(other.network)
    trainer = quiet_trainer(tmp_path, callbacks=[RunCheckpoints()])
    trainer.strategy.connect(other)
    trainer.save_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")
    settings = LossSettings(fast_shap=ShapleySettings(uniform_share=0, surrogate=str(tmp_path / "run")))
    loss = LOSSES["fast_shap"](classifier, estimator, settings, SweepEngine(classifier))
    features, logits = classifier.features(images)
    asked = logits.argmax(dim=1)
    subsets = torch.ones(2, 2, 16)
    step = MaskStep({"images": images, "key": ["a", "b"]}, features, logits, torch.Generator())
    scores = loss._scores(step, subsets, asked, torch.Size([4, 4]))
    expected = other(images).softmax(1).gather(1, asked[:, None])
    torch.testing.assert_close(scores[:, :3], expected.expand(-1, 3))  # two subsets of all, and the whole image
    nothing = other(classifier.mean.expand_as(images)).softmax(1).gather(1, asked[:, None])
    torch.testing.assert_close(scores[:, 3:], nothing)
    _, logged = loss(step)
    torch.testing.assert_close(logged["train/score_change"], (expected - nothing).abs().mean())


def test_a_classifier_of_labels_and_fills_that_no_surrogate_knows_are_refused(taught):
    classifier = small_classifier(classes=4)
    chosen = {"fast_shap": ShapleySettings(surrogate=str(taught[1]))}
    for more, line in (
        ({}, "last.ckpt was trained on labels"),
        ({"fills": ["blur"]}, "dataset mean, `fills` are blur;"),
    ):
        settings = LossSettings(**chosen, **more)
        with pytest.raises(ValueError, match=line):
            LOSSES["fast_shap"](classifier, small_estimator(classifier, "fast_shap"), settings, SweepEngine(classifier))


def test_a_surrogate_of_other_classes_is_refused(taught, tmp_path):
    classifier, model = small_classifier(), surrogate(taught[1])
    trainer = quiet_trainer(tmp_path, callbacks=[RunCheckpoints()])
    trainer.strategy.connect(model)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    settings = LossSettings(fast_shap=ShapleySettings(surrogate=str(tmp_path / "last.ckpt")))
    with pytest.raises(ValueError, match=r"last.ckpt has 4 classes, .* has 5; train one with the weights of this"):
        LOSSES["fast_shap"](classifier, small_estimator(classifier, "fast_shap"), settings, SweepEngine(classifier))
