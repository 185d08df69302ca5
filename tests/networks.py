"""Small networks and batches that tests share."""

import copy
from functools import cache

import timm
import torch
from torch import Tensor, nn
from torchvision.models import vgg

from dre.models import Classifier, EstimatorSettings, MaskEstimator
from dre.models.estimator import Variant


class SmallNetwork(nn.Module):
    """Four stages at strides 4, 8, 16 and 32, each with a batch norm; global pooling and a linear head."""

    def __init__(self, classes: int = 5, channels: int = 3, width: int = 8) -> None:
        super().__init__()
        self.stem = self.stage(channels, width, stride=4)
        self.stage2 = self.stage(width, width)
        self.stage3 = self.stage(width, 2 * width)
        self.stage4 = self.stage(2 * width, 2 * width)
        self.head = nn.Linear(2 * width, classes)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.running_var, 0.5, 1.5)
                nn.init.normal_(module.running_mean, std=0.1)
                nn.init.uniform_(module.weight, 0.5, 1.5)

    @staticmethod
    def stage(inputs: int, outputs: int, stride: int = 2) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
        )

    def forward(self, images: Tensor) -> Tensor:
        maps = self.stage4(self.stage3(self.stage2(self.stem(images))))
        return self.head(maps.mean(dim=(2, 3)))


class NarrowVGG(vgg.VGG):
    """VGG whose head has 32 units for 4096."""

    def __init__(self, features: nn.Module, num_classes: int = 1000, **_: object) -> None:
        nn.Module.__init__(self)
        self.features, self.avgpool = features, nn.AdaptiveAvgPool2d((7, 7))
        channels = [layer.out_channels for layer in features if isinstance(layer, nn.Conv2d)][-1]
        hidden = [nn.Linear(channels * 7 * 7, 32), nn.ReLU(True), nn.Dropout()]
        self.classifier = nn.Sequential(*hidden, nn.Linear(32, 32), nn.ReLU(True), nn.Linear(32, num_classes))


def small_classifier(
    classes: int = 5, channels: int = 3, size: tuple[int, int] = (64, 64), seed: int = 0, fold: bool = True
) -> Classifier:
    """Give a copy of a classifier that is built once; the seed is where building leaves it."""
    built, state = _built(classes, channels, size, seed, fold)
    torch.set_rng_state(state)
    return copy.deepcopy(built)


@cache
@torch.inference_mode(False)
def _built(classes: int, channels: int, size: tuple[int, int], seed: int, fold: bool) -> tuple[Classifier, Tensor]:
    torch.manual_seed(seed)
    network = SmallNetwork(classes, channels).eval()
    built = Classifier.wrap(network, mean=[0.5], std=[0.5], size=size, channels=channels, fold=fold)
    return built, torch.get_rng_state()


def small_vit(channels: int = 3, seed: int = 0) -> Classifier:
    """Build a transformer of two layers for images of any whole number of cells of 16 pixels."""
    torch.manual_seed(seed)
    sizes = {"img_size": 64, "patch_size": 16, "embed_dim": 12, "depth": 2, "num_heads": 2, "num_classes": 5}
    network = timm.models.VisionTransformer(**sizes, in_chans=channels, dynamic_img_size=True)
    return Classifier.wrap(network.eval(), mean=[0.5], std=[0.5], size=(64, 64), channels=channels)


def small_estimator(classifier: Classifier, variant: Variant = "dre", seed: int = 0) -> MaskEstimator:
    torch.manual_seed(seed)
    channels = tuple(tap.channels for tap in classifier.taps)
    settings = EstimatorSettings(classifier.num_classes, channels, (8, 8, 8), variant=variant)
    return MaskEstimator(settings).eval().to(classifier.mean)


def small_batch(size: int = 3, channels: int = 3, height: int = 64, width: int = 96) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(size, channels, height, width, generator=generator), torch.arange(size) % 5


def rank_correlation(first: Tensor, second: Tensor) -> float:
    """Spearman's, of two maps; ties are ranked in row-major order in both."""

    def places(values: Tensor) -> Tensor:
        return values.flatten().argsort(stable=True).argsort()

    ranks = torch.stack([places(first), places(second)])
    return torch.corrcoef(ranks.double())[0, 1].item()
