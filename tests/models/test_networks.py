import os
from pathlib import Path

import pytest
import timm
import torch
import torchvision
import yaml
from torch import nn

from data.datamodule import ShardDataModule
from data.loader import to_float
from dre.models import Classifier
from dre.models.heads import find_head, head_size, load_for_training
from dre.models.networks import build
from dre.models.trained import TRAINED_KEY, TrainedNetwork
from dre.modules import ClassifierTraining
from dre.types import Preprocessing
from tests.command_line import REPOSITORY

SHARED = Path(os.environ.get("DRE_DATA", "../shared/data"))


def test_the_digit_network_is_the_papers():
    classifier = Classifier("dre/mnist_cnn")
    assert classifier.preprocessing == Preprocessing((28, 28), 28, "bilinear", channels=1)
    assert classifier.num_classes == 10
    shapes = {name: tuple(value.shape) for name, value in classifier.network.named_parameters()}
    assert shapes["features.0.weight"] == (32, 1, 5, 5)
    assert shapes["features.3.weight"] == (64, 32, 5, 5)
    assert shapes["head.weight"] == (10, 1024)
    maps, logits = classifier.activations(torch.rand(2, 1, 28, 28))
    assert maps.shape == (2, 64, 4, 4)  # what Grad-CAM reads
    assert logits.shape == (2, 10)
    assert not classifier.taps


@pytest.mark.parametrize("head", [7, 1000])
@pytest.mark.parametrize("name", ["resnet18", "torchvision/squeezenet1_1", "convnext_atto"])
def test_known_weights_get_a_head_of_the_size_of_the_data(tmp_path, name, head):
    known = build(name).module
    torch.save(known.state_dict(), tmp_path / "known.pth")
    network = load_for_training(name, str(tmp_path / "known.pth"), head, None)
    state, place = network.module.state_dict(), find_head(known)
    assert head_size(network.module) == head
    kept = [name for name in state if head == 1000 or not name.startswith(place)]
    assert len(kept) == len(state) - 2 * (head != 1000)
    assert all(torch.equal(state[name], known.state_dict()[name]) for name in kept)


def test_a_network_that_ends_in_two_heads_cannot_get_a_new_one(tmp_path):
    name = "deit_tiny_distilled_patch16_224"  # the mean of two heads, in eval mode
    torch.save(timm.create_model(name).state_dict(), tmp_path / "known.pth")
    with pytest.raises(ValueError, match=f"{name} does not run on images"):
        load_for_training(name, str(tmp_path / "known.pth"), 7, None)


def test_the_preprocessing_can_be_another_than_the_networks_own():
    wanted = Preprocessing(size=(96, 64), resize=100)
    assert load_for_training("resnet18", None, 3, wanted).preprocessing == wanted


def test_googlenet_reads_published_files_as_torchvision_does(tmp_path):
    published = torchvision.models.GoogLeNet(aux_logits=True, transform_input=True, init_weights=False).eval()
    for module in published.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    torch.save(published.state_dict(), tmp_path / "googlenet.pth")
    classifier = Classifier("torchvision/googlenet", weights=str(tmp_path / "googlenet.pth"), fold=False)
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected = published(classifier.normalise(images))
        torch.testing.assert_close(classifier(images), expected, rtol=1e-4, atol=1e-5)  # channels last in memory


def test_weights_that_do_not_say_whose_they_are_need_a_name(tmp_path):
    torch.save(build("dre/mnist_cnn").module.state_dict(), tmp_path / "plain.pth")
    with pytest.raises(ValueError, match=r"plain\.pth does not say which network it belongs to"):
        Classifier(weights=str(tmp_path / "plain.pth"))
    assert Classifier("dre/mnist_cnn", weights=str(tmp_path / "plain.pth")).class_names is None


SAME = {"pad_type": "same", "pretrained_cfg_overlay": {"mean": [0.5] * 3, "std": [0.5] * 3}}


def test_options_reach_timm_and_belong_to_the_classifiers_identity(tmp_path):
    plain = Classifier("mobilenetv2_050", fold=False)
    torch.save(plain.network.state_dict(), tmp_path / "weights.pth")
    padded = Classifier("mobilenetv2_050", weights=str(tmp_path / "weights.pth"), fold=False, options=SAME)
    assert padded.fingerprint == plain.fingerprint  # the same weights, and yet another function of the pixels
    assert padded.identity() != plain.identity()
    assert (padded.mean.flatten().tolist(), padded.std.flatten().tolist()) == ([0.5] * 3, [0.5] * 3)
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = timm.create_model("mobilenetv2_050", pad_type="same").eval()
        expected.load_state_dict(plain.network.state_dict())
        torch.testing.assert_close(padded(images), expected((images - 0.5) / 0.5))
        assert not torch.allclose(padded.network(images), plain.network(images))  # padding makes a difference


@pytest.mark.parametrize(
    ("name", "options", "line"),
    [
        ("torchvision/resnet18", {"pad_type": "same"}, "does not build torchvision/resnet18"),
        ("resnet18", {"pad_typ": "same"}, "cannot build 'resnet18' with the options .*pad_typ"),
    ],
)
def test_options_that_are_not_timms_are_refused(name, options, line):
    with pytest.raises(ValueError, match=line):
        Classifier(name, options=options)


@pytest.mark.parametrize(
    "options",
    [
        {"checkpoint_path": "MARK.pth"},
        {"pretrained": True},
        {"cache_dir": "/tmp"},
        {"pretrained_cfg": {"file": "MARK.pth"}},
        {"pretrained_cfg_overlay": {"file": "MARK.pth"}},
        {"pretrained_cfg_overlay": {"mean": {"a": 1}}},
        {"pretrained_cfg_overlay": "x"},
        {"act_layer": {"class_path": "os.system"}},
        {"act_layer": "os.system('x')"},
        {"pad_type": ["same", ["x"]]},
        {"embed_dim": 10**12},
        {"drop_rate": float("nan")},
        {7: 1},
    ],
)
def test_options_of_a_checkpoint_are_plain_values_of_a_closed_list(tmp_path, monkeypatch, options):
    monkeypatch.setattr("dre.models.networks._build_timm", lambda *_: pytest.fail("a network was built"))
    described = TrainedNetwork("resnet18", 4, None, Preprocessing(), (0.5,), (0.5,), options).to_dict()
    torch.save({TRAINED_KEY: described, "state_dict": {}}, tmp_path / "trained.ckpt")
    with pytest.raises(ValueError, match=r"^the checkpoint was made with the option .*, which is not read") as caught:
        Classifier(weights=str(tmp_path / "trained.ckpt"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"num_classes": 10**9}, "classes are too many"),
        ({"preprocessing": {"size": (10**6, 10**6)}}, "are too many"),
        ({"preprocessing": {"sizes": 3}}, "does not describe its network"),
        ({"num_classes": "x"}, "does not describe its network"),
        ({"extra": 1}, "does not describe its network"),
    ],
)
def test_a_checkpoint_that_describes_no_network_is_refused_in_one_line(tmp_path, change, line):
    described = TrainedNetwork("resnet18", 4, None, Preprocessing(), (0.5,), (0.5,)).to_dict() | change
    torch.save({TRAINED_KEY: described, "state_dict": {}}, tmp_path / "trained.ckpt")
    with pytest.raises(ValueError, match=line):
        Classifier(weights=str(tmp_path / "trained.ckpt"))


def test_a_trained_network_keeps_its_options(tmp_path):
    training = ClassifierTraining("mobilenetv2_050", num_classes=4, options=SAME)
    content = {"state_dict": training.state_dict()}
    training.on_save_checkpoint(content)
    torch.save(content, tmp_path / "trained.ckpt")
    classifier = Classifier(weights=str(tmp_path / "trained.ckpt"))
    assert classifier.options == SAME
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():  # folding rounds in float32
        torch.testing.assert_close(classifier(images), training.eval()(images), rtol=1e-3, atol=1e-5)
    with pytest.raises(ValueError, match="was trained with the options"):
        Classifier(weights=str(tmp_path / "trained.ckpt"), options={"pad_type": ""})


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared images and weights (DRE_DATA)")
def test_mobilenetv2_of_the_run_files_knows_what_it_sees():
    settings = yaml.safe_load((REPOSITORY / "configs/classifier/mobilenetv2.yaml").read_text())["init_args"]
    classifier = Classifier(**{**settings, "weights": str(SHARED / settings["weights"])})
    data = ShardDataModule(
        str(SHARED / "imagenet"), limit=64, workers=0, eval_batch_size=32, preprocessing=classifier.preprocessing
    )
    data.setup("test")
    hits = 0
    for batch in data.test_dataloader():
        with torch.no_grad():
            hits += int((classifier(to_float(batch)["images"]).argmax(dim=1) == batch["labels"]).sum())
    assert 0.5 < hits / 64 < 0.85  # 68 % of 1,000 such images; of 64, three standard errors are 17 points


def test_weights_of_another_number_of_classes_say_how_many(tmp_path):
    path = tmp_path / "seven.pth"
    torch.save(timm.create_model("test_resnet", num_classes=7).state_dict(), path)
    with pytest.raises(ValueError, match=r"\(fc\.bias, fc\.weight\) has 7 outputs, not 1000; give num_classes=7"):
        Classifier("test_resnet", weights=str(path))
    assert Classifier("test_resnet", weights=str(path), num_classes=7).num_classes == 7
