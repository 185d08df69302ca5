"""Small trees of generated photographs in the layouts that `data` reads."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.datamodule import ShardDataModule
from data.folder import read_labels
from data.manifest import Manifest
from data.packing import Packing
from data.writer import About, write_dataset
from dre.images.segmentation_masks import png_of
from dre.types import Preprocessing

SMALL = Preprocessing(size=(16, 16), resize=18)


def encode(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def photo(number: int, size: tuple[int, int] = (24, 20)) -> Image.Image:
    pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def raw_sample(data: bytes, boxes=(), suffix: str = "png", **facts) -> dict:
    content = {"label": 3, "boxes": list(boxes)} | facts
    return {"__key__": "some", "__url__": "shard.tar", suffix: data, "json": json.dumps(content)}


def labelled_folder(root: Path, train: int = 12, val: int = 7, boxes: str = "2 3 10 12;1 1 4 4") -> Path:
    """Make the layout with a labels.csv; two classes; validation images have boxes."""
    (root / "images").mkdir(parents=True)
    with (root / "labels.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "split", "class_index", "class_name", "boxes"])
        for split, images in (("train", train), ("val", val)):
            for number in range(images):
                name = f"{split}_{number:03d}.jpg"
                photo(number).save(root / "images" / name)
                rows.writerow([name, split, number % 2, ("cat", "dog")[number % 2], boxes if split == "val" else ""])
    return root


def blob(number: int, size: tuple[int, int] = (24, 20)) -> np.ndarray:
    """Return a mask that no box equals."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    return (rows - 9 - number % 3) ** 2 + (columns - 8) ** 2 < 30


def masked_folder(root: Path, train: int = 12, val: int = 7, empty: int | None = None) -> Path:
    """Make the same layout, with masks beside the validation images of even numbers, one of which may be empty."""
    source = labelled_folder(root, train, val)
    for number in range(0, val, 2):
        (source / "images" / f"val_{number:03d}.mask.png").write_bytes(png_of(blob(number) & (number != empty)))
    return source


def packed(root: Path, train: int = 12, val: int = 7, shard_size: int = 4) -> Path:
    """Make the same photographs as shards."""
    source = labelled_folder(root / "source", train, val)
    pack(read_labels(source), root / "packed", shard_size)
    return root / "packed"


def pack(splits, out: Path, shard_size: int = 4) -> Manifest:
    return write_dataset(splits, out, About("small", "generated", "none", "tests"), Packing(shard_size))


def module(root: Path, **options) -> ShardDataModule:
    data = ShardDataModule(str(root), **{"workers": 0, "batch_size": 4, "preprocessing": SMALL} | options)
    data.setup()
    return data


def keys_of(loader) -> list[list[str]]:
    return [batch["key"] for batch in loader]


def with_broken(tmp_path, split: str, broken: int = 1):
    """Pack photographs of which some are cut off behind their header."""
    splits = read_labels(labelled_folder(tmp_path / "source"))
    for one in splits[split][:broken]:
        one.path.write_bytes(one.path.read_bytes()[:700])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("data.packing._check_readable", lambda data: Image.open(io.BytesIO(data)).size[::-1])
        pack(splits, tmp_path / "packed")
    return tmp_path / "packed"
