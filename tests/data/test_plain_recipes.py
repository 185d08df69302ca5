import csv
import re

import pytest

from data.held_out import HeldOut
from data.manifest import Manifest
from data.prepare import main
from data.shards import open_shards
from tests.data.layouts import prepare, refusal, samples_of, shared_rows
from tests.data.trees import labelled_folder, photo


def tree(root, *names):
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        photo(number).save(root / name)
    return root


def write_boxes(path, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["file", "x0", "y0", "x1", "y1"], *rows])
    return path


def test_real_photographs_in_class_folders_with_boxes(tmp_path):
    rows = [*shared_rows("birds", 8, "train"), *shared_rows("birds", 6, "val")]
    for row in rows:
        row.place(tmp_path / "source" / row.split / row.name / row.path.name)
    boxes = [(f"{row.split}/{row.name}/{row.path.name}", *box) for row in rows for box in row.boxes]
    prepare("folder", tmp_path / "source", tmp_path / "out", "--boxes", str(write_boxes(tmp_path / "b.csv", boxes)))
    classes = sorted({row.name for row in rows})
    assert Manifest.load(tmp_path / "out").classes == classes
    for split in ("train", "val"):
        assert samples_of(tmp_path / "out", split) == {
            f"{row.name}/{row.path.stem}": (
                classes.index(row.name),
                [list(box) for box in row.boxes],
                row.path.read_bytes(),
            )
            for row in rows
            if row.split == split
        }


def test_command_line_packs_a_tree_with_boxes(tmp_path):
    source = tree(tmp_path / "tree", "a/1.png", "a/2.v2.png", "b/1.png")
    boxes = write_boxes(tmp_path / "boxes.csv", [("a/1.png", 1, 2, 3, 4), ("a/1.png", 2, 2, 9, 9)])
    prepare("folder", source, tmp_path / "out", "--split", "val", "--boxes", str(boxes))
    assert Manifest.load(tmp_path / "out").classes == ["a", "b"]
    found = {key: (label, boxes) for key, (label, boxes, _) in samples_of(tmp_path / "out", "val").items()}
    assert found == {"a/1": (0, [[1, 2, 3, 4], [2, 2, 9, 9]]), "a/2_v2": (0, []), "b/1": (1, [])}


def test_command_line_packs_labels_and_copies_credits(tmp_path, capsys):
    source = labelled_folder(tmp_path / "source")
    (source / "ATTRIBUTION.csv").write_text("file,author\n")
    (source / "README.md").write_text("theirs")
    out = tmp_path / "out"
    prepare("labels_csv", source, out, "--licence", "CC0")
    assert "train: 12 images in 1 shards" in capsys.readouterr().out
    manifest = Manifest.load(out)
    assert (manifest.licence, manifest.recipe, manifest.source) == ("CC0", "labels_csv", "not stated")
    assert sorted(manifest.files) == ["ATTRIBUTION.csv", "train.keys.txt", "val.keys.txt"]
    assert (out / "ATTRIBUTION.csv").read_text() == "file,author\n"
    (out / "README.md").write_text("ours")
    prepare("labels_csv", source, out, "--licence", "CC0")
    assert (out / "README.md").read_text() == "ours"


def test_broken_images_are_refused_or_skipped_by_name(tmp_path, capsys):
    source = tree(tmp_path / "tree", "a/1.png", "a/2.png", "b/1.png")
    (source / "a" / "2.png").write_bytes(b"")
    command = ["folder", "--source", str(source), "--out", str(tmp_path / "out"), "--split", "train"]
    assert main(command) == 1
    assert capsys.readouterr().err == f"error: {source}/a/2.png: not a readable image (cannot identify image file)\n"
    assert main([*command, "--skip-broken"]) == 0
    output = capsys.readouterr()
    assert output.err == f"skipped: {source}/a/2.png: not a readable image (cannot identify image file)\n"
    assert "train: 2 images in 1 shards" in output.out


def test_a_tree_without_splits_is_divided_unless_one_split_is_named(tmp_path, capsys):
    source = tree(tmp_path / "tree", *(f"a/{number}.png" for number in range(20)))
    assert main(["folder", "--source", str(source), "--out", str(tmp_path / "out"), "--val-share", "0.5"]) == 0
    output = capsys.readouterr()
    assert "no split folders" in output.err
    assert "of its 20 images" in output.err
    found = {split: open_shards([tmp_path / "out"], split, "size")[0].list_keys() for split in ("train", "val")}
    assert sorted(found["train"] + found["val"]) == sorted(f"a/{number}" for number in range(20))
    unpacked = [key for shard in open_shards([source], "val", "size", HeldOut(0.5).val) for key in shard.list_keys()]
    assert sorted(found["val"]) == sorted(unpacked)  # as the folder itself is divided
    assert main(["folder", "--source", str(source), "--out", str(tmp_path / "one"), "--split", "train"]) == 0
    assert "train: 20 images" in capsys.readouterr().out
    assert main(["folder", "--source", str(source), "--out", str(tmp_path / "bad"), "--val-share", "1.5"]) == 1
    assert "`val_share` is a share in [0, 1], got 1.5" in capsys.readouterr().err


def test_resize_and_shard_size_reach_the_shards(tmp_path):
    source = tree(tmp_path / "tree", *(f"{number}.png" for number in range(5)))
    prepare("folder", source, tmp_path / "out", "--resize", "10", "--shard-size", "2", "--split", "train")
    shards = open_shards([tmp_path / "out"], "train", "sha256")
    assert [shard.samples for shard in shards] == [2, 2, 1]
    assert all("jpg" in raw for shard in shards for raw in shard.stream())


@pytest.mark.parametrize(
    ("names", "boxes", "message"),
    [
        ([], [], "holds no images; expected files that end in jpg"),
        (["a/1.png", "b/"], [], r"tree/b holds no images, but lies among the class folders"),
        (["train/a/1.png", "train/b/"], [], r"tree/train/b holds no images"),
        (["a/1.png"], [("a/2.png", 1, 1, 2, 2)], r"boxes for 1 files, as for 'a/2\.png', which are no images"),
        (["train/a/1.png"], [("a/1.png", 1, 1, 2, 2)], r"as for 'a/1\.png', which are no images below"),
        (["train/a/1.png"], [("train/a/2.png", 1, 1, 2, 2)], r"as for 'a/2\.png', which are no images below"),
        (["a/1.png"], [("a/1.png", 1, 1, "x", 2)], "bad row .*expected columns file, x0, y0, x1, y1"),
        (["a/1.png"], [("a/1.png", 1, 1, 1, 2)], "is inverted or empty"),
        (["a/1.png", "a/1.jpg"], [], "have the same key 'a/1'; rename one"),
    ],
)
def test_bad_folders_are_refused(tmp_path, names, boxes, message, capsys):
    root = tmp_path / "tree"
    root.mkdir()
    for name in names:
        (root / name).mkdir(parents=True) if name.endswith("/") else tree(root, name)
    path = write_boxes(tmp_path / "boxes.csv", boxes)
    command = ["folder", "--source", str(root), "--out", str(tmp_path / "out"), "--boxes", str(path)]
    assert main(command) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error), error


def test_missing_source_is_refused(tmp_path, capsys):
    assert "is not a folder" in refusal(capsys, "folder", tmp_path / "nowhere", tmp_path / "out")
    message = refusal(capsys, "labels_csv", tmp_path, tmp_path / "out")
    assert message.startswith("error: no labels.csv in")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (",1,dog,\n", "\n", r"labels\.csv: row 2, 'train_001\.jpg', does not have the 5 columns"),
        (",1,dog,\n", ",1,dog,,more\n", "row 2, .* does not have the 5 columns"),
        (",1,dog,\n", ",-5,dog,\n", r"train_001\.jpg: class_index -5 is below 0"),
        (",1,dog,\n", ",one,dog,\n", r"train_001\.jpg: invalid literal for int"),
        (",1,dog,\n", ",0,dog,\n", "class 0 is called 'dog' here and 'cat' elsewhere"),
        ("train_001.jpg", "val_001.jpg", "lists 'val_001.jpg' in the splits 'train' and 'val'; keep one"),
        (",train,1,", ",,1,", r"the split '', of .*train_001\.jpg for one, cannot name files"),
        (",train,1,", ",../train,1,", r"the split '\.\./train', of .* cannot name files"),
        ("train_001.jpg", "train_999.jpg", r"lists 'train_999\.jpg', which is neither in"),
        ("train_001.jpg", "train_000.jpg", "have the same key 'train_000'"),
        ("file,split", "name,split", r"labels\.csv has no column file; it has \['name', 'split'"),
        ("cat", "\udcff", r"labels\.csv is not a readable CSV file \('utf-8' .*\); save it as UTF-8"),
    ],
)
def test_bad_labels_are_refused(tmp_path, capsys, old, new, message):
    source = labelled_folder(tmp_path / "source")
    path = source / "labels.csv"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1), errors="surrogateescape")
    assert re.search(message, refusal(capsys, "labels_csv", source, tmp_path / "out"))


def test_labels_without_rows_are_refused(tmp_path, capsys):
    source = labelled_folder(tmp_path / "source", 0, 0)
    assert "labels.csv lists no images" in refusal(capsys, "labels_csv", source, tmp_path / "out")


def test_output_that_is_no_folder_of_its_own_is_refused_and_kept(tmp_path, capsys):
    source = labelled_folder(tmp_path / "source")
    (source / "ATTRIBUTION.csv").write_text("file,author\ntrain_000.jpg,An\\303\\240s\n")
    before = {path: path.read_bytes() for path in source.rglob("*.*")}
    assert main(["labels_csv", "--source", str(source), "--out", str(source)]) == 1
    assert main(["labels_csv", "--source", str(source), "--out", str(source / "labels.csv")]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert [line.rpartition(" is ")[2] for line in lines] == [
        "the source; name another folder",
        "a file; name another folder",
    ]
    assert {path: path.read_bytes() for path in source.rglob("*.*")} == before


def test_shards_smaller_than_a_photograph_hold_one_each(tmp_path):
    source = tree(tmp_path / "tree", *(f"{number}.png" for number in range(3)))
    prepare("folder", source, tmp_path / "out", "--shard-megabytes", "1e-9", "--split", "train")
    assert [info.samples for info in Manifest.load(tmp_path / "out").splits["train"]] == [1, 1, 1]
