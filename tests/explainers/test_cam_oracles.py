"""Class activation maps and guided backpropagation against captum and pytorch-grad-cam, where they are installed."""

import pytest
import torch
from torch import nn

from dre.explainers import GradCAM, GradCAMPlusPlus, GuidedBackprop
from dre.images.maps import min_max
from dre.models import Classifier
from tests.networks import small_batch, small_classifier

pytestmark = pytest.mark.oracle


def example(name: str) -> tuple[Classifier, nn.Module, torch.Tensor, torch.Tensor]:
    """Give a classifier, the layer that is read, images, and the classes with the largest logits: maps above zero."""
    torch.manual_seed(0)
    classifier = small_classifier() if name == "small" else Classifier(name)
    images, _ = small_batch()
    layer = classifier.network.get_submodule(classifier.activation_tap.module)
    return classifier, layer, images, classifier(images).argmax(1)


@pytest.mark.parametrize("name", ["small", "torchvision/resnet18"])
def test_grad_cam_of_captum(name):
    attr = pytest.importorskip("captum.attr")
    classifier, layer, images, targets = example(name)
    classifier, images = classifier.double(), images.double()
    oracle = attr.LayerGradCam(classifier, layer)
    coarse = oracle.attribute(images.clone().requires_grad_(), targets, relu_attributions=True)
    expected = attr.LayerAttribution.interpolate(coarse, (64, 96), "bilinear").detach()
    saliency = GradCAM(classifier)(images, targets)
    assert saliency.amax((1, 2, 3)).min() > 0
    torch.testing.assert_close(saliency, expected.float())  # rounded to float32 at the end


def test_guided_backprop_of_captum():
    attr = pytest.importorskip("captum.attr")
    classifier = small_classifier().double()
    images, targets = small_batch()
    images = images.double()
    expected = attr.GuidedBackprop(classifier).attribute(images.clone().requires_grad_(), targets)
    saliency = GuidedBackprop(classifier, reduce="sum")(images, targets)
    torch.testing.assert_close(saliency, expected.sum(1, keepdim=True).float())


@pytest.mark.parametrize(("ours", "theirs"), [(GradCAM, "GradCAM"), (GradCAMPlusPlus, "GradCAMPlusPlus")])
@pytest.mark.parametrize("name", ["small", "torchvision/resnet18"])
def test_grad_cam_and_its_successor_of_pytorch_grad_cam(ours, theirs, name):
    """It scales maps to 0..1 before and after it enlarges them, in float32: ours are scaled likewise."""
    package = pytest.importorskip("pytorch_grad_cam")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    classifier, layer, images, targets = example(name)
    with getattr(package, theirs)(classifier, [layer]) as oracle:
        asked = [ClassifierOutputTarget(target) for target in targets.tolist()]
        expected = torch.from_numpy(oracle(images.clone().requires_grad_(), asked))[:, None]
    saliency = ours(classifier)(images, targets)
    assert saliency.amax((1, 2, 3)).min() > 0
    torch.testing.assert_close(min_max(saliency), min_max(expected), rtol=0, atol=1e-4)  # it adds 1e-7 to the maximum
