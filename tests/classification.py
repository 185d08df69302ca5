"""Small classifier training that tests share: which quarter of a picture is bright."""

from pathlib import Path

import numpy as np
import pytorch_lightning as pl
from PIL import Image

from data.datamodule import ShardDataModule
from dre.modules import ClassifierTraining
from dre.types import Preprocessing

QUARTERS = ("lower_left", "lower_right", "upper_left", "upper_right")
NORMED = "mobilenetv3_small_050"
"""A small network with batch norms."""
NORMED_PIXELS = Preprocessing(size=(32, 32), resize=32)


def quarters(root: Path, train: int = 32, val: int = 18) -> Path:
    """Make a tree of class folders of noisy pictures, 28 x 28, that are bright in the quarter they are named for."""
    for split, number in (("train", train), ("val", val)):
        for place in range(number):
            name = QUARTERS[place % 4]
            draws = np.random.default_rng([place, len(split)])
            pixels = draws.integers(0, 120, (28, 28), dtype=np.uint8)
            rows, columns = slice(0, 14) if "upper" in name else slice(14, 28), slice(0, 14)
            pixels[rows, columns if "left" in name else slice(14, 28)] += 120
            (root / split / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / split / name / f"{place:03d}.png")
    return root


def classification(**options) -> ClassifierTraining:
    pl.seed_everything(0, verbose=False)
    return ClassifierTraining(**{"name": "dre/mnist_cnn", "num_classes": 4, "lr": 0.02} | options)


def with_batch_norm(**options) -> ClassifierTraining:
    return classification(name=NORMED, preprocessing=NORMED_PIXELS, **options)


def labelled_data(root: Path, model: ClassifierTraining, **options) -> ShardDataModule:
    defaults = {"workers": 0, "batch_size": 8, "flip": 0.0, "preprocessing": model.preprocessing}
    return ShardDataModule(str(root), **defaults | options)
