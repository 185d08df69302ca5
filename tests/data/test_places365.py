import pytest

from data.manifest import Manifest
from tests.data.layouts import generated_rows, prepare, refusal, samples_of, shared_rows

NAMES = ("/a/airfield", "/a/airplane_cabin", "/a/apartment_building/outdoor")


def rows_of(kind, tmp_path):
    if kind == "shared":
        return [*shared_rows("places", 60, "train"), *shared_rows("places", 40, "val")]
    return [
        *generated_rows(tmp_path / "photos", 7, "train", NAMES),
        *generated_rows(tmp_path / "photos", 5, "val", NAMES),
    ]


def build(root, rows, images=("data_256_standard", "val_256"), lists=""):
    """Write lists and images as the official archives do: training images below their category, the others flat."""
    names = sorted({row.name for row in rows})
    found = {"train": [], "val": []}
    files = {}
    for number, row in enumerate(rows):
        index = names.index(row.name)
        if row.split == "train":
            file = f"{row.name}/{number:08d}.jpg"
            key = file[1:-4]
        else:
            file = f"Places365_val_{number:08d}.jpg"
            key = file[:-4]
        path = row.place(root / images[row.split == "val"] / file.lstrip("/"))
        found[row.split].append(f"{file} {index}")
        files[row.split, key] = (index, path)
    (root / lists).mkdir(exist_ok=True)
    (root / lists / "categories_places365.txt").write_text("".join(f"{name} {i}\n" for i, name in enumerate(names)))
    (root / lists / "places365_train_standard.txt").write_text("\n".join(found["train"]) + "\n")
    (root / lists / "places365_val.txt").write_text("\n".join(found["val"]) + "\n")
    return names, files


@pytest.fixture
def tree(tmp_path):
    build(tmp_path / "source", rows_of("generated", tmp_path))
    return tmp_path / "source"


@pytest.mark.parametrize("kind", ["generated", "shared"])
@pytest.mark.parametrize(
    ("images", "lists", "options"),
    [
        (("data_256_standard", "val_256"), "", ()),
        (("data_256", "val_256"), "filelist_places365-standard", ()),
        (("data_large_standard", "val_large"), "", ("--size", "large")),
    ],
)
def test_photographs_and_classes_are_those_of_the_lists(tmp_path, kind, images, lists, options):
    names, files = build(tmp_path / "source", rows_of(kind, tmp_path), images, lists)
    prepare("places365", tmp_path / "source", tmp_path / "out", "--partial", *options)
    manifest = Manifest.load(tmp_path / "out")
    assert manifest.classes == names
    assert "MIT" in manifest.source
    for split in ("train", "val"):
        assert samples_of(tmp_path / "out", split) == {
            key: (index, [], path.read_bytes()) for (where, key), (index, path) in files.items() if where == split
        }


def test_the_two_sizes_are_told_apart(tree, tmp_path, capsys):
    message = refusal(capsys, "places365", tree, tmp_path / "out", "--size", "large")
    assert "no train images of Places365" in message
    assert "looked for data_large_standard, data_large" in message


@pytest.mark.parametrize("file", ["categories_places365.txt", "places365_train_standard.txt", "places365_val.txt"])
def test_missing_list_is_refused(tree, tmp_path, capsys, file):
    (tree / file).unlink()
    message = refusal(capsys, "places365", tree, tmp_path / "out")
    assert f"looked for {file}, filelist_places365-standard/{file}" in message


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("places365_val.txt", ".jpg 2", ".jpg 3", "the class 3; categories_places365.txt knows 0..2"),
        ("places365_val.txt", ".jpg 2", ".jpg x", "the class x; categories_places365.txt knows 0..2"),
        ("places365_val.txt", ".jpg 2", ".jpg", "expected 2 columns"),
        ("categories_places365.txt", " 1", " 7", "does not number its 3 classes from 0: '1' is missing"),
    ],
)
def test_bad_lists_are_refused(tree, tmp_path, capsys, file, old, new, message):
    text = (tree / file).read_text()
    assert old in text
    (tree / file).write_text(text.replace(old, new, 1))
    assert message in refusal(capsys, "places365", tree, tmp_path / "out")


def test_missing_images_are_refused_or_left_out(tree, tmp_path, capsys):
    for path in (tree / "data_256_standard" / "a" / "airfield").iterdir():
        path.unlink()
    assert "lists 7 images of which 3 are missing" in refusal(capsys, "places365", tree, tmp_path / "out")
    prepare("places365", tree, tmp_path / "out", "--partial")
    assert Manifest.load(tmp_path / "out").count() == {"train": 4, "val": 5}


def test_class_without_images_is_refused(tree, tmp_path, capsys):
    with (tree / "categories_places365.txt").open("a") as file:
        file.write("/z/zen_garden 3\n")
    message = refusal(capsys, "places365", tree, tmp_path / "out")
    assert "1 of 4 classes have no images in the split 'train', the first is '/z/zen_garden'" in message


def test_validation_images_alone(tree, tmp_path):
    (tree / "places365_train_standard.txt").unlink()
    prepare("places365", tree, tmp_path / "out", "--splits", "val")
    assert Manifest.load(tmp_path / "out").count() == {"val": 5}
