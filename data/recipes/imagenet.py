"""ImageNet-1k recipe: read the folders of ILSVRC with XML boxes, or Kaggle's copy with its two LOC tables.

The class index is the place of a wnid among the 1,000 in sorted order, as every ImageNet classifier has it. Boxes are
taken as they are written, x1 and y1 as the outer edge.
"""

import re
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Set
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

from timm.data import ImageNetInfo

from data.folder import list_images, read_rows
from data.photos import Photo, key_of
from data.recipes.recipe import Collection, Recipe, add_choice, collect, find

IMAGES_OF = {"train": 1_281_167, "val": 50_000}
"""The splits, and how many images they have when they are complete."""

FOLDERS = ("ILSVRC/Data/CLS-LOC", "Data/CLS-LOC", ".")
ANNOTATIONS = ("ILSVRC/Annotations/CLS-LOC", "Annotations/CLS-LOC", "annotations")
TABLE = "LOC_{}_solution.csv"
WNID = re.compile(r"n\d{8}")
"""Some published XML files have words for dogs in its place, which contradict nothing."""

Objects = list[tuple[str, tuple[float, ...]]]
"""The annotated objects of one image: wnid and box."""


@dataclass(frozen=True, slots=True)
class Annotations:
    """Read the objects of the images of a split.

    Args:
        where: The table, or the folder of XML files.
        names: The images that are annotated, by the stem of their file.
        objects_of: Gives the objects of one of them.
    """

    where: Path
    names: Set[str]
    objects_of: Callable[[str], Objects]


def read_imagenet(source: Path, options: Namespace) -> Collection:
    """Read train/ by its class folders, and val/ by class folders or flat; boxes from the tables, else from XML.

    Raises:
        FileNotFoundError: There is no folder of images, or none of a split below `--annotations`.
        ValueError: A split is not whole and `--partial` not given, or an image has no class of ImageNet-1k.
    """
    info = ImageNetInfo("imagenet-1k")
    wnids = {wnid: index for index, wnid in enumerate(info.label_names())}
    names = [info.index_to_description(index).split(",")[0] for index in range(len(wnids))]
    if options.annotations and not any((options.annotations / split).is_dir() for split in options.splits):
        raise FileNotFoundError(f"--annotations {options.annotations} has no folder {' or '.join(options.splits)}")
    splits, notes = {}, []
    for split in options.splits:
        folder = find(source, [f"{images}/{split}" for images in FOLDERS], f"{split} images of ImageNet")
        paths = list_images(folder)
        annotations = _find_annotations(source, split, options.annotations)
        if annotations is None:
            notes.append(f"{split}: no boxes, neither {TABLE.format(split)} nor a folder of XML files")
            objects: dict[Path, Objects] = {}
        else:
            objects = {path: annotations.objects_of(path.stem) for path in paths if path.stem in annotations.names}
            notes += _compare(annotations, objects, folder, split)
        splits[split] = [_photo(path, folder, wnids, names, objects.get(path, [])) for path in paths]
        if len(splits[split]) < IMAGES_OF[split] and not options.partial:
            raise ValueError(
                f"{folder} holds {len(splits[split]):,} images, ImageNet-1k has {IMAGES_OF[split]:,}; complete the "
                "source, or pass --partial to pack what is there"
            )
    return collect(splits, names, options, *notes)


def _photo(path: Path, folder: Path, wnids: dict[str, int], names: list[str], objects: Objects) -> Photo:
    annotated = {wnid for wnid, _ in objects}
    wnid = path.parent.name if path.parent != folder else next(iter(annotated), None)
    if wnid is None:
        raise ValueError(
            f"{path} has no class: it lies in no class folder, and neither {TABLE.format(folder.name)} nor an XML file "
            "below --annotations names one"
        )
    if wnid not in wnids:
        raise ValueError(f"{path} has the class {wnid!r}, which is none of ImageNet-1k; for other sets take `folder`")
    if path.parent == folder and len(annotated) > 1:
        raise ValueError(f"{path} is annotated with several classes, {', '.join(sorted(annotated))}")
    boxes = tuple(box for name, box in objects if name == wnid)
    return Photo(key_of(path.stem), path, wnids[wnid], boxes, names[wnids[wnid]])


def _find_annotations(source: Path, split: str, given: Path | None) -> Annotations | None:
    """Return the annotations of a split, or `None` where there are none."""
    table = source / TABLE.format(split)
    if given is None and table.is_file():
        rows = _read_table(table)
        return Annotations(table, rows.keys(), rows.__getitem__)
    for folder in [given] if given is not None else [source / name for name in ANNOTATIONS]:
        if (folder / split).is_dir():
            names = {path.stem for path in (folder / split).rglob("*.xml") if not path.name.startswith(".")}
            return Annotations(folder / split, names, partial(_from_xml, folder / split))
    return None


def _compare(annotations: Annotations, objects: dict[Path, Objects], folder: Path, split: str) -> list[str]:
    """Refuse annotations of other images or classes; give a note for each kind of those that are not used."""
    where, notes = annotations.where, []
    if annotations.names and not objects:
        raise ValueError(
            f"{where} annotates {len(annotations.names)} images, as {min(annotations.names)!r}, none of which lies in "
            f"{folder}; do they belong to other images?"
        )
    if unused := len(annotations.names) - len({path.stem for path in objects}):
        notes.append(f"{split}: {unused} images that {where} annotates are not in {folder}")
    others = {path: named for path, found in objects.items() if (named := _other_classes(path, folder, found))}
    if others and (where.is_file() or len(others) == len(objects)):
        path, named = next(iter(others.items()))
        raise ValueError(
            f"{where} contradicts the class folders at {len(others)} images: {path} shows {', '.join(named)} there; "
            "do they belong to other images?"
        )
    if others:  # a few of the published XML files
        notes.append(f"{split}: {len(others)} images in {where} show other classes than their folders; no boxes there")
    return notes


def _other_classes(path: Path, folder: Path, objects: Objects) -> list[str]:
    """Name the classes of an image in a class folder of which it shows no object."""
    named = sorted({wnid for wnid, _ in objects if WNID.fullmatch(wnid)})
    return [] if path.parent == folder or path.parent.name in named else named


def _read_table(path: Path) -> dict[str, Objects]:
    """Read Kaggle's table: an image, then wnid, x0, y0, x1, y1 of each object, all between blanks."""
    objects: dict[str, Objects] = {}
    for row in read_rows(path, ("ImageId", "PredictionString")):
        if row["ImageId"] in objects:
            raise ValueError(f"{path} has two rows for {row['ImageId']!r}; remove one of them")
        try:
            fields = row["PredictionString"].split()
            boxes = [tuple(map(float, fields[start + 1 : start + 5])) for start in range(0, len(fields), 5)]
            objects[row["ImageId"]] = list(zip(fields[::5], boxes, strict=True))
            if len(fields) % 5:
                raise ValueError(f"{len(fields)} fields are not five for each object")
        except ValueError as error:
            raise ValueError(f"{path}: bad row {row} ({error!r}); expected ImageId, PredictionString") from error
    return objects


def _from_xml(folder: Path, name: str) -> Objects:
    """Read the XML file of an image, flat or in its class folder; most training images have none."""
    path = folder / f"{name}.xml"
    if not path.is_file():
        path = folder / name.split("_")[0] / f"{name}.xml"
    if not path.is_file():
        return []
    try:
        return [_object(item) for item in ElementTree.parse(path).iter("object")]
    except (ElementTree.ParseError, ValueError) as error:
        raise ValueError(f"{path} is not a readable annotation ({error})") from error


def _object(item: ElementTree.Element) -> tuple[str, tuple[float, ...]]:
    sides = ("xmin", "ymin", "xmax", "ymax")
    return _text(item, "name"), tuple(float(_text(item, f"bndbox/{side}")) for side in sides)


def _text(item: ElementTree.Element, name: str) -> str:
    text = item.findtext(name)
    if text is None:
        raise ValueError(f"no {name}")
    return text


def _add_options(parser: ArgumentParser) -> None:
    add_choice(parser, tuple(IMAGES_OF))
    parser.add_argument("--annotations", type=Path, help="folder with train/ and val/ of XML files, elsewhere")


IMAGENET = Recipe(
    "imagenet",
    "ImageNet-1k: folders of ILSVRC with XML boxes, or Kaggle's copy with LOC_*.csv (train, val)",
    "ImageNet ILSVRC 2012, https://image-net.org",
    "ImageNet terms of access: non-commercial research and education, images not to be passed on",
    read_imagenet,
    _add_options,
)
