import re
import shutil

import numpy as np
import pytest
from PIL import Image

from data.datamodule import ShardDataModule
from data.manifest import Manifest
from data.shards import open_shards
from dre.images.segmentation_masks import read_mask
from tests.data.layouts import generated_rows, prepare, refusal, samples_of, shared_rows
from tests.data.trees import SMALL

SPLITS = {"train": "train", "val": "test"}
"""The shared photographs call the official test split val."""


def rows_of(kind, tmp_path):
    if kind == "shared":
        return [*shared_rows("birds", 40, "train"), *shared_rows("birds", 30, "val")]
    names = ["001.Black_footed_Albatross", "002.Laysan_Albatross"]
    return [
        *generated_rows(tmp_path / "photos", 6, "train", names),
        *generated_rows(tmp_path / "photos", 4, "val", names),
    ]


def build(root, rows):
    """Write the archive's files; images are numbered from 1 in an order of their own, as the lists allow."""
    classes = sorted({(row.index, row.name) for row in rows})
    place_of = {index: place for place, (index, _) in enumerate(classes, start=1)}
    lists = {"classes.txt": [f"{place} {name}" for place, (_, name) in enumerate(classes, start=1)]}
    for number, row in enumerate(reversed(rows), start=1):
        row.place(root / "images" / row.name / row.path.name)
        ((x0, y0, x1, y1),) = row.boxes
        lines = {
            "images.txt": f"{row.name}/{row.path.name}",
            "image_class_labels.txt": f"{place_of[row.index]}",
            "train_test_split.txt": f"{int(row.split == 'train')}",
            "bounding_boxes.txt": f"{x0} {y0} {x1 - x0} {y1 - y0}",
        }
        for file, line in lines.items():
            lists.setdefault(file, []).append(f"{number} {line}")
    for file, lines in lists.items():
        (root / file).write_text("\n".join(lines) + "\n")
    return [name for _, name in classes]


@pytest.fixture
def tree(tmp_path):
    build(tmp_path / "CUB_200_2011", rows_of("generated", tmp_path))
    return tmp_path / "CUB_200_2011"


@pytest.mark.parametrize("kind", ["generated", "shared"])
def test_photographs_boxes_classes_and_split_are_those_of_the_archive(tmp_path, kind):
    rows = rows_of(kind, tmp_path)
    classes = build(tmp_path / "source" / "CUB_200_2011", rows)
    prepare("cub200", tmp_path / "source", tmp_path / "out")
    manifest = Manifest.load(tmp_path / "out")
    assert manifest.classes == classes
    assert (manifest.recipe, "Caltech" in manifest.source or "California" in manifest.source) == ("cub200", True)
    assert "non-commercial" in manifest.licence
    for split, official in SPLITS.items():
        found = samples_of(tmp_path / "out", official)
        mine = [row for row in rows if row.split == split]
        assert set(found) == {row.path.stem for row in mine}
        for row in mine:
            label, boxes, data = found[row.path.stem]
            assert (classes[label], data) == (row.name, row.path.read_bytes())
            assert boxes == [pytest.approx(row.boxes[0], abs=1e-9)]


def test_packed_birds_train_and_test(tree, tmp_path):
    prepare("cub200", tree, tmp_path / "out")
    data = ShardDataModule(str(tmp_path / "out"), val_split="test", batch_size=4, workers=0, preprocessing=SMALL)
    data.setup()
    assert (data.expected_images("train"), data.expected_images("val")) == (6, 4)
    (batch,) = data.val_dataloader()
    assert batch["objects"].flatten(1).any(1).all()


@pytest.mark.parametrize("folder", ["CUB_200_2011/segmentations", "segmentations"])
def test_segmentations_are_what_most_annotators_drew(tree, tmp_path, capsys, folder):
    levels = {}
    for place, path in enumerate(sorted((tree / "images").rglob("*.jpg"))):
        with Image.open(path) as picture:
            grey = np.random.default_rng(place).choice([0, 51, 102, 153, 204, 255], picture.size[::-1])
        if place:  # the first image has none
            levels[path.stem] = grey
            target = tmp_path / folder / path.parent.name / f"{path.stem}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(grey.astype(np.uint8)).save(target)
    prepare("cub200", tree, tmp_path / "out", "--shard-size", "20")
    manifest = Manifest.load(tmp_path / "out")
    assert sum(manifest.count_masks().values()) == 9
    assert re.search(r"note: t\w+: 1 of \d images have no segmentation; their birds are boxes", capsys.readouterr().err)
    for split in ("train", "test"):
        for raw in open_shards([tmp_path / "out"], split, "sha256")[0].stream():
            if raw["__key__"] in levels:
                mask = read_mask(raw["mask.png"], levels[raw["__key__"]].shape)
                assert np.array_equal(mask, levels[raw["__key__"]] >= 153)  # three of five


def test_segmentations_of_other_images_are_refused_and_none_are_noted(tree, tmp_path, capsys):
    (tree / "segmentations" / "001.Black_footed_Albatross").mkdir(parents=True)
    message = refusal(capsys, "cub200", tree, tmp_path / "out")
    assert "holds the segmentation of none of 10 images" in message
    shutil.rmtree(tree / "segmentations")
    prepare("cub200", tree, tmp_path / "out")
    assert capsys.readouterr().err == "note: no folder segmentations: the birds are boxes\n"
    assert Manifest.load(tmp_path / "out").count_masks() == {"train": 0, "test": 0}


def test_source_without_the_lists_is_refused(tmp_path, capsys):
    message = refusal(capsys, "cub200", tmp_path, tmp_path / "out")
    assert f"no CUB-200-2011 in {tmp_path}: looked for images.txt, CUB_200_2011/images.txt" in message


@pytest.mark.parametrize("file", ["classes.txt", "train_test_split.txt", "bounding_boxes.txt"])
def test_missing_list_is_refused(tree, tmp_path, capsys, file):
    (tree / file).unlink()
    assert f"looked for {file}" in refusal(capsys, "cub200", tree, tmp_path / "out")


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("train_test_split.txt", "\n3 0", "", "do not agree about image 3, "),
        ("image_class_labels.txt", "3 ", "3 9", "do not agree about image 3, "),
        ("bounding_boxes.txt", "3 1.0", "3 left", "do not agree about image 3, "),
        ("image_class_labels.txt", "3 2", "3 0", "ValueError('class 0 is none of 1..2')"),
        ("image_class_labels.txt", "3 2", "4 2", "image_class_labels.txt lists the image 4 twice"),
        ("bounding_boxes.txt", "3 1.0", "99 1.0", "bounding_boxes.txt lists the image 99, which images.txt does not"),
        ("images.txt", "\n4 ", "\n3 ", "images.txt lists the image 3 twice"),
        ("classes.txt", "1 001.", "3 001.", "the number 3 in line 1; expected 1, 2, 3, ... in order"),
        ("classes.txt", "1 001.", "1 \udcff", "classes.txt is not readable text"),
        ("classes.txt", "1 001.Black_footed_Albatross", "1", "classes.txt, line 1: expected 2 columns, got '1'"),
    ],
)
def test_lists_that_disagree_are_refused(tree, tmp_path, capsys, file, old, new, message):
    text = (tree / file).read_text()
    assert old in text
    (tree / file).write_text(text.replace(old, new, 1), errors="surrogateescape")
    assert message in refusal(capsys, "cub200", tree, tmp_path / "out")


def test_labels_that_contradict_the_folders_are_refused(tree, tmp_path, capsys):
    path = tree / "image_class_labels.txt"
    rows = [line.split() for line in path.read_text().splitlines()]
    path.write_text("".join(f"{number} {3 - int(label)}\n" for number, label in rows))
    message = refusal(capsys, "cub200", tree, tmp_path / "out")
    assert "Albatross, the folder is 00" in message


def test_missing_image_is_refused_or_left_out(tree, tmp_path, capsys):
    gone = next((tree / "images" / "001.Black_footed_Albatross").glob("val_*"))
    gone.unlink()
    message = refusal(capsys, "cub200", tree, tmp_path / "out")
    assert f"lists 4 images of which 1 are missing, as {gone} is; complete the source, or pass --partial" in message
    prepare("cub200", tree, tmp_path / "out", "--partial")
    assert Manifest.load(tmp_path / "out").count() == {"train": 6, "test": 3}


def test_class_without_images_is_refused_or_left_empty(tree, tmp_path, capsys):
    with (tree / "classes.txt").open("a") as file:
        file.write("3 003.Sooty_Albatross\n")
    message = refusal(capsys, "cub200", tree, tmp_path / "out")
    assert "1 of 3 classes have no images in the split 'train', the first is '003.Sooty_Albatross'" in message
    prepare("cub200", tree, tmp_path / "out", "--partial", "--splits", "test")
    manifest = Manifest.load(tmp_path / "out")
    assert manifest.classes[2] == "003.Sooty_Albatross"
    assert list(manifest.splits) == ["test"]


def test_box_of_another_image_is_refused_by_name(tree, tmp_path, capsys):
    text = (tree / "bounding_boxes.txt").read_text()
    (tree / "bounding_boxes.txt").write_text(text.replace("3 1.0 2.0", "3 91.0 92.0"))
    capsys.readouterr()
    with pytest.raises(AssertionError):
        prepare("cub200", tree, tmp_path / "out")
    assert "lies outside the image of 32 x" in capsys.readouterr().err
