"""Class activation maps: CAM against Grad-CAM, transformers and channels-last networks, refusals."""

import pytest
import timm
import torch
from torch import nn

from dre.explainers import CAM, GradCAM, GradCAMPlusPlus
from dre.models import Classifier
from tests.networks import SmallNetwork, small_batch, small_classifier


def small_transformer() -> Classifier:
    torch.manual_seed(0)
    network = timm.models.VisionTransformer(
        img_size=32, patch_size=4, embed_dim=12, depth=4, num_heads=2, num_classes=5
    )
    return Classifier.wrap(network.eval(), mean=[0.5], std=[0.5], size=(32, 32))


@pytest.mark.parametrize("name", ["small", "tf_efficientnet_lite0", "torchvision/resnet18"])
def test_cam_is_grad_cam_times_the_cells_of_the_map(name):
    classifier = small_classifier() if name == "small" else Classifier(name)
    images, targets = small_batch(2)
    cells = 2 * 3  # 64 x 96 pixels at stride 32
    cam, grad_cam = CAM(classifier)(images, targets), GradCAM(classifier)(images, targets)
    assert cam.max() > 0
    torch.testing.assert_close(cam, grad_cam * cells, rtol=1e-3, atol=1e-5 * cam.max().item())


def test_cam_by_hand():
    classifier = small_classifier()
    images, targets = small_batch(1)
    maps = classifier.activations(images)[0].detach()[0]
    heat = torch.zeros(maps.shape[1:])
    for channel, weight in enumerate(classifier.network.head.weight[targets[0]]):
        heat += weight * maps[channel]
    expected = torch.nn.functional.interpolate(heat.relu()[None, None], size=(64, 96), mode="bilinear")
    torch.testing.assert_close(CAM(classifier)(images, targets), expected)


class MaximumHead(SmallNetwork):
    def forward(self, images):
        return self.head(self.stage4(self.stage3(self.stage2(self.stem(images)))).amax(dim=(2, 3)))


@pytest.mark.parametrize(
    ("network", "size"),
    [
        (MaximumHead(), 64),
        (nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 64, 5)), 8),
        (
            timm.models.VisionTransformer(img_size=16, patch_size=4, embed_dim=8, depth=4, num_heads=2, num_classes=3),
            16,
        ),
    ],
)
def test_cam_refuses_another_head(network, size):
    classifier = Classifier.wrap(network.eval(), size=(size, size), name="odd one")
    with pytest.raises(ValueError, match=r"CAM needs a linear head .* of odd one reads '.*' .*"):
        CAM(classifier)


def test_cam_refuses_a_network_without_feature_map():
    classifier = Classifier.wrap(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), size=(2, 2))
    with pytest.raises(ValueError, match="CAM needs a feature map, and Sequential has none"):
        CAM(classifier)


@pytest.mark.parametrize("kind", [GradCAM, GradCAMPlusPlus])
def test_tokens_of_a_transformer_become_a_grid_without_the_class_token(kind):
    classifier = small_transformer()
    images, targets = torch.rand(2, 3, 32, 32), torch.tensor([1, 4])
    tokens, logits = classifier.activations(images)
    assert tokens.shape == (2, 65, 12)
    (gradient,) = torch.autograd.grad(logits[[0, 1], targets].sum(), tokens)
    maps, slopes = torch.zeros(2, 12, 8, 8), torch.zeros(2, 12, 8, 8)
    for row in range(8):
        for column in range(8):
            maps[:, :, row, column] = tokens.detach()[:, 1 + 8 * row + column]
            slopes[:, :, row, column] = gradient[:, 1 + 8 * row + column]
    heat = (kind.weights(maps, slopes) * maps).sum(1, keepdim=True).relu()
    expected = torch.nn.functional.interpolate(heat, size=(32, 32), mode="bilinear")
    saliency = kind(classifier)(images, targets)
    assert saliency.max() > 0
    torch.testing.assert_close(saliency, expected)


def test_grad_cam_of_timm_vit_tiny_and_swin():
    for name in ("vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"):
        saliency = GradCAM(Classifier(name, num_classes=3))(torch.rand(1, 3, 224, 224), torch.tensor([1]))
        assert saliency.shape == (1, 1, 224, 224)
        assert saliency.std() > 0
