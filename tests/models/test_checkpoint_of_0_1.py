"""A checkpoint of 0.1, stored before modules and options were renamed: it loads, explains and trains on."""

import pytest
import timm
import torch
from pytorch_lightning import Trainer

from dre.explainers import DRE
from dre.models import Classifier, load_estimator, read_checkpoint
from dre.models.checkpoints import read_taps
from dre.modules import MaskTraining
from tests.command_line import REPOSITORY

CHECKPOINT = REPOSITORY / "tests" / "fixtures" / "checkpoint_0_1.ckpt"
"""DRE for timm's test_resnet with the weights below and six classes, after one step of each stage."""


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> Classifier:
    """Return the classifier that it was trained for, with weights that every machine computes alike."""
    network = timm.create_model("test_resnet", num_classes=6)
    weights = {}
    for name, tensor in network.state_dict().items():
        steps = torch.arange(tensor.numel()).remainder(7)
        values = (steps + 1) / 8 if name.endswith("running_var") else (steps - 3) / 64
        weights[name] = tensor if tensor.dtype == torch.int64 else values.view(tensor.shape).to(tensor.dtype)
    path = tmp_path_factory.mktemp("weights") / "plain.pth"
    torch.save(weights, path)
    return Classifier("test_resnet", weights=str(path), num_classes=6)


def test_it_explains_as_it_did(classifier):
    images = torch.arange(3 * 64 * 96).remainder(251).view(1, 3, 64, 96) / 250
    saliency = DRE(classifier, str(CHECKPOINT))(images, torch.tensor([2]))
    expected = [
        [0.8875, 0.7322, 0.0702, 0.3243],
        [0.8849, 0.7638, 0.1024, 0.3651],
        [0.5453, 0.4267, 0.0674, 0.0521],
        [0.1117, 0.1112, 0.0431, 0.0024],
    ]  # of 0.1 itself, four digits
    torch.testing.assert_close(saliency[0, 0, ::16, ::24], torch.tensor(expected), rtol=0, atol=1e-4)


def test_its_fields_have_kept_their_names(classifier):
    content = read_checkpoint(CHECKPOINT)
    assert content["classifier"].items() <= classifier.identity().items()
    assert (content["epoch"], content["global_step"]) == (1, 2)
    settings = load_estimator(CHECKPOINT, classifier, "dre").settings
    assert (settings.variant, list(settings.widths), settings.evidence) == ("dre", [4, 4, 4], True)


def test_the_layers_that_0_1_tapped_are_read_again_and_said_where_they_are_others(classifier, tmp_path, monkeypatch):
    content = read_checkpoint(CHECKPOINT)
    own = [tap.name for tap in classifier.taps]
    assert [tap.name for tap in read_taps(content, classifier, CHECKPOINT)] == own  # of a plain residual network
    others = [own[0], own[1], own[2], "layer4"]
    monkeypatch.setattr("dre.models.checkpoints.names_of_0_1", lambda *_: others)
    with pytest.warns(UserWarning, match=r"does not name the layers that its generator reads; as in 0\.1 .*layer4$"):
        assert [tap.name for tap in read_taps(content, classifier, CHECKPOINT)] == others


def test_a_checkpoint_names_the_layers_that_its_generator_reads(classifier, tmp_path):
    content = torch.load(CHECKPOINT, weights_only=True)
    own = [tap.name for tap in classifier.taps]
    images, targets = torch.rand(1, 3, 64, 64), torch.tensor([2])

    def explained(names):
        torch.save({**content, "taps": names}, tmp_path / "last.ckpt")
        return DRE(classifier, str(tmp_path / "last.ckpt"))(images, targets)

    torch.testing.assert_close(explained(own), DRE(classifier, str(CHECKPOINT))(images, targets))
    others = ["layer1.0.bn1", *own[1:]]
    assert not torch.equal(explained(others), explained(own))
    assert [tap.name for tap in load_estimator(tmp_path / "last.ckpt", classifier, "dre").taps] == own
    for names, said in ((["nothing"] * 4, "are not there: no module 'nothing'"), (7, "is damaged: the layers")):
        with pytest.raises(ValueError, match=said):
            explained(names)


def test_a_training_takes_up_its_weights(classifier):
    training = MaskTraining(classifier, widths=[4, 4, 4], filter_gain=2.0, evidence=True)
    training.trainer = Trainer(max_epochs=3, logger=False, enable_checkpointing=False)
    training.on_load_checkpoint(content := read_checkpoint(CHECKPOINT))
    missing, unexpected = training.load_state_dict(content["state_dict"], strict=False)
    assert not unexpected
    assert all(name.startswith("classifier.") for name in missing)  # which no checkpoint holds
    name, weights = next(iter(content["state_dict"].items()))
    assert torch.equal(training.state_dict()[name], weights)
