import pytest
import timm
import torch
import torchvision
from torch import nn

from dre.models import Classifier
from dre.models.heads import find_head, head_size, load_for_training
from dre.models.networks import build
from dre.types import Preprocessing


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
