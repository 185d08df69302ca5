import csv
from dataclasses import replace

import pytest
from timm.data import ImageNetInfo

import data.recipes.imagenet as imagenet
from data.manifest import Manifest
from tests.data.layouts import generated_rows, prepare, refusal, samples_of, shared_rows

WNIDS = ("n01440764", "n01484850", "n15075141")
INDICES = {"n01440764": 0, "n01484850": 2, "n15075141": 999}
KAGGLE = ("ILSVRC/Data/CLS-LOC", "ILSVRC/Annotations/CLS-LOC")


def rows_of(kind, tmp_path):
    """Give rows named by wnid, with whole-numbered boxes as the annotations have them; a training image without any."""
    if kind == "shared":
        rows = [*shared_rows("imagenet", 25, "train"), *shared_rows("imagenet", 25, "val")]
    else:
        train = generated_rows(tmp_path / "photos", 6, "train", WNIDS)
        rows = [*train, *generated_rows(tmp_path / "photos", 5, "val", WNIDS)]
        rows[0] = replace(rows[0], boxes=())
        rows[-1] = replace(rows[-1], boxes=(*rows[-1].boxes, (3.0, 3.0, 9.0, 9.0)))
    return [replace(row, boxes=tuple(tuple(map(round, box)) for box in row.boxes)) for row in rows]


def name_of(row, number):
    return f"{row.name}_{number}" if row.split == "train" else f"ILSVRC2012_val_{number:08d}"


def place_images(root, rows, is_sorted=False):
    """Copy the photographs as ILSVRC has them: training images by class, validation images flat unless sorted."""
    for number, row in enumerate(rows):
        in_class = row.split == "train" or is_sorted
        row.place(root / row.split / (row.name if in_class else "") / f"{name_of(row, number)}.JPEG")


def write_xml(root, rows):
    """Write the annotations as ILSVRC has them, none for images without boxes."""
    for number, row in enumerate(rows):
        if row.boxes:
            path = root / row.split / (row.name if row.split == "train" else "") / f"{name_of(row, number)}.xml"
            path.parent.mkdir(parents=True, exist_ok=True)
            width, height = row.size
            objects = "".join(
                f"<object><name>{row.name}</name><pose>Unspecified</pose><truncated>0</truncated><difficult>0</difficult>"
                f"<bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
                for x0, y0, x1, y1 in row.boxes
            )
            path.write_text(
                f"<annotation><folder>{row.split}</folder><filename>{path.stem}</filename><size><width>{width}</width>"
                f"<height>{height}</height><depth>3</depth></size><segmented>0</segmented>{objects}</annotation>"
            )


def write_tables(root, rows):
    """Write Kaggle's two tables; a trailing blank ends each prediction string there."""
    for split in ("train", "val"):
        with (root / f"LOC_{split}_solution.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["ImageId", "PredictionString"])
            for number, row in enumerate(rows):
                if row.split == split and row.boxes:
                    objects = "".join(f"{row.name} {x0} {y0} {x1} {y1} " for x0, y0, x1, y1 in row.boxes)
                    table.writerow([name_of(row, number), objects])


def build(layout, root, rows):
    if layout == "kaggle":
        place_images(root / KAGGLE[0], rows)
        write_tables(root, rows)
        return ()
    place_images(root / KAGGLE[0] if layout == "ilsvrc" else root, rows, is_sorted=layout == "sorted")
    write_xml(root / KAGGLE[1] if layout == "ilsvrc" else root.parent / "elsewhere", rows)
    return () if layout == "ilsvrc" else ("--annotations", str(root.parent / "elsewhere"))


@pytest.fixture
def tree(tmp_path):
    build("kaggle", tmp_path / "source", rows_of("generated", tmp_path))
    return tmp_path / "source"


@pytest.mark.parametrize("kind", ["generated", "shared"])
@pytest.mark.parametrize("layout", ["ilsvrc", "kaggle", "flat", "sorted"])
def test_photographs_labels_and_boxes_are_those_of_the_layout(tmp_path, kind, layout):
    rows = rows_of(kind, tmp_path)
    options = build(layout, tmp_path / "source", rows)
    prepare("imagenet", tmp_path / "source", tmp_path / "out", "--partial", *options)
    manifest = Manifest.load(tmp_path / "out")
    assert len(manifest.classes) == 1000
    assert manifest.classes[2] == "great white shark"
    assert "image-net.org" in manifest.source
    for split in ("train", "val"):
        expected = {
            name_of(row, number): (
                INDICES[row.name] if kind == "generated" else row.index,
                [list(box) for box in row.boxes],
                row.path.read_bytes(),
            )
            for number, row in enumerate(rows)
            if row.split == split
        }
        assert samples_of(tmp_path / "out", split) == expected


def test_without_annotations_there_are_no_boxes_and_a_note(tmp_path, capsys):
    rows = rows_of("generated", tmp_path)
    place_images(tmp_path / "source", rows, is_sorted=True)
    prepare("imagenet", tmp_path / "source", tmp_path / "out", "--partial", "--splits", "val")
    assert capsys.readouterr().err == "note: val: no boxes, neither LOC_val_solution.csv nor a folder of XML files\n"
    assert all(boxes == [] for _, boxes, _ in samples_of(tmp_path / "out", "val").values())


def test_incomplete_sets_are_refused(tree, tmp_path, capsys, monkeypatch):
    message = refusal(capsys, "imagenet", tree, tmp_path / "out")
    assert "holds 6 images, ImageNet-1k has 1,281,167; complete the source, or pass --partial" in message
    monkeypatch.setattr(imagenet, "IMAGES_OF", {"train": 6, "val": 5})
    message = refusal(capsys, "imagenet", tree, tmp_path / "out")
    assert "997 of 1000 classes have no images in the split 'train', the first is 'goldfish'" in message


def test_other_folders_are_refused(tmp_path, capsys):
    message = refusal(capsys, "imagenet", tmp_path, tmp_path / "out")
    assert f"no train images of ImageNet in {tmp_path}: looked for ILSVRC/Data/CLS-LOC/train, " in message
    (row,) = generated_rows(tmp_path / "photos", 1, "train", ["cat"])
    row.place(tmp_path / "source" / "train" / "cat" / "1.JPEG")
    message = refusal(capsys, "imagenet", tmp_path / "source", tmp_path / "out", "--partial")
    assert "has the class 'cat', which is none of ImageNet-1k; for other sets take `folder`" in message


@pytest.mark.parametrize("what", ["table", "row"])
def test_flat_images_without_a_label_are_refused(tree, tmp_path, capsys, what):
    table = tree / "LOC_val_solution.csv"
    if what == "table":
        table.unlink()
    else:
        table.write_text("\n".join(table.read_text().splitlines()[:-1]) + "\n")
    message = refusal(capsys, "imagenet", tree, tmp_path / "out", "--splits", "val", "--partial")
    assert "JPEG has no class: it lies in no class folder, and neither LOC_val_solution.csv nor an XML" in message


def test_images_of_several_classes_are_refused(tree, tmp_path, capsys):
    table = tree / "LOC_val_solution.csv"
    table.write_text(table.read_text().rstrip() + " n15075141 1 1 2 2 \n")
    message = refusal(capsys, "imagenet", tree, tmp_path / "out", "--splits", "val", "--partial")
    assert "is annotated with several classes, n01484850, n15075141" in message


@pytest.mark.parametrize(("old", "new"), [("ImageId", "Image"), (" 11 17", " 11"), (" 11 17", " 11 left")])
def test_bad_tables_are_refused(tree, tmp_path, capsys, old, new):
    table = tree / "LOC_val_solution.csv"
    assert old in table.read_text()
    table.write_text(table.read_text().replace(old, new, 1))
    message = refusal(capsys, "imagenet", tree, tmp_path / "out", "--partial")
    assert "LOC_val_solution.csv has no column ImageId" in message or "LOC_val_solution.csv: bad row" in message


@pytest.mark.parametrize(("old", "new"), [("</annotation>", ""), ("<ymax>", "<top>"), ("<xmin>1", "<xmin>left")])
def test_bad_xml_files_are_refused(tmp_path, capsys, old, new):
    build("ilsvrc", tmp_path / "source", rows_of("generated", tmp_path))
    path = tmp_path / "source" / KAGGLE[1] / "val" / "ILSVRC2012_val_00000006.xml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    message = refusal(capsys, "imagenet", tmp_path / "source", tmp_path / "out", "--partial")
    assert f"{path} is not a readable annotation" in message


def test_annotations_of_other_images_are_refused(tree, tmp_path, capsys):
    table = tree / "LOC_train_solution.csv"
    text = table.read_text()
    table.write_text(text.replace("n01484850_", "n01484850_9"))
    prepare("imagenet", tree, tmp_path / "some", "--partial")
    assert f"note: train: 2 images that {table} annotates are not in" in capsys.readouterr().err
    table.write_text(text.replace("\nn", "\nother_n"))
    message = refusal(capsys, "imagenet", tree, tmp_path / "out", "--partial")
    assert f"{table} annotates 5 images, as 'other_n01440764_3', none of which lies in" in message


def test_xml_files_of_other_images_are_refused(tmp_path, capsys):
    build("ilsvrc", tmp_path / "source", rows_of("generated", tmp_path))
    for path in (tmp_path / "source" / KAGGLE[1] / "val").rglob("*.xml"):
        path.rename(path.with_name(f"other_{path.name}"))
    message = refusal(capsys, "imagenet", tmp_path / "source", tmp_path / "out", "--partial")
    assert "CLS-LOC/val annotates 5 images, as 'other_ILSVRC2012_val_00000006', none of which lies in" in message


def test_a_table_that_contradicts_the_class_folders_is_refused(tree, tmp_path, capsys):
    table = tree / "LOC_train_solution.csv"
    table.write_text(table.read_text().replace(",n01484850 ", ",n01440764 ", 1))
    message = refusal(capsys, "imagenet", tree, tmp_path / "out", "--partial")
    assert f"{table} contradicts the class folders at 1 images: " in message
    assert "n01484850_1.JPEG shows n01440764 there" in message


def test_a_contradicting_xml_file_gives_no_box_and_a_note(tmp_path, capsys):
    build("ilsvrc", tmp_path / "source", rows_of("generated", tmp_path))
    paths = sorted((tmp_path / "source" / KAGGLE[1] / "train").rglob("*.xml"))
    paths[0].write_text(paths[0].read_text().replace("n01440764</name>", "n01484850</name>"))
    prepare("imagenet", tmp_path / "source", tmp_path / "out", "--partial")
    assert "note: train: 1 images in" in capsys.readouterr().err
    for path in paths[1:]:
        path.write_text(path.read_text().replace(f"<name>{path.parent.name}", "<name>n02085620"))
    message = refusal(capsys, "imagenet", tmp_path / "source", tmp_path / "other", "--partial")
    assert "contradicts the class folders at 5 images" in message


def test_an_image_with_two_rows_is_refused(tree, tmp_path, capsys):
    table = tree / "LOC_val_solution.csv"
    table.write_text(table.read_text() + table.read_text().splitlines()[1] + "\n")
    message = refusal(capsys, "imagenet", tree, tmp_path / "out", "--partial")
    assert "LOC_val_solution.csv has two rows for 'ILSVRC2012_val_00000006'" in message


@pytest.mark.parametrize("text", ['ImageId,PredictionString\n"x,n01440764 1 2 3 4\n', '"' + "x" * 140_000])
def test_an_unclosed_quote_is_refused(tree, tmp_path, capsys, text):
    (tree / "LOC_val_solution.csv").write_text(text)
    message = refusal(capsys, "imagenet", tree, tmp_path / "out", "--partial")
    assert "LOC_val_solution.csv is not a readable CSV file" in message


def test_annotations_that_are_not_there_are_refused(tree, tmp_path, capsys):
    message = refusal(capsys, "imagenet", tree, tmp_path / "out", "--partial", "--annotations", str(tmp_path))
    assert f"--annotations {tmp_path} has no folder train or val" in message


def test_class_indices_are_places_in_the_sorted_list():
    wnids = ImageNetInfo("imagenet-1k").label_names()
    assert list(wnids) == sorted(wnids)
    assert {wnid: wnids.index(wnid) for wnid in WNIDS} == INDICES
