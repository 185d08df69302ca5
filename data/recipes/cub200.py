"""CUB-200-2011 recipe: read the files of the official archive with its boxes, its split and its segmentations."""

from argparse import Namespace
from collections.abc import Container, Sequence
from functools import partial
from pathlib import Path

from data.photos import Photo, key_of
from data.recipes.recipe import Collection, Recipe, add_choice, collect, find, present, read_lines

SPLITS = {"1": "train", "0": "test"}
"""What train_test_split.txt means."""

LISTS = {"image_class_labels.txt": 2, "bounding_boxes.txt": 5, "train_test_split.txt": 2}
"""What is said about each image, and in how many columns."""


SEGMENTATIONS = ("segmentations", "../segmentations")
"""Where their own archive is unpacked: beside `images`, or beside the folder of the lists."""

MAJORITY = 128
"""Lowest grey level that is bird: the segmentations are grey, a share of 255 for the annotators who agree."""


def read_cub200(source: Path, options: Namespace) -> Collection:
    """Read images.txt and the four lists that belong to it; class indices are those of classes.txt, from 0.

    Raises:
        FileNotFoundError: A list is missing, or an image without `--partial`.
        ValueError: The lists do not agree about an image, or the segmentations are of other images.
    """
    root = find(source, ("images.txt", "CUB_200_2011/images.txt"), "CUB-200-2011").parent
    classes = _read_classes(_list(root, "classes.txt"))
    images = _by_number(root, "images.txt", 2)
    labels, boxes, splits = (_by_number(root, file, columns, images) for file, columns in LISTS.items())
    photos: dict[str, list[Photo]] = {name: [] for name in SPLITS.values()}
    masks = _find_masks(root, [file for (file,) in images.values()])
    for number, (file,) in images.items():
        path = root / "images" / file
        try:
            label = _class_of(labels[number][0], path.parent.name, classes)
            x, y, width, height = map(float, boxes[number])
            split = SPLITS[splits[number][0]]
            boxes_of = ((x, y, x + width, y + height),)
            photo = Photo(key_of(path.stem), path, label, boxes_of, classes[label], masks.get(file), MAJORITY)
        except (KeyError, ValueError, IndexError) as error:
            raise ValueError(f"the lists in {root} do not agree about image {number}, {file} ({error!r})") from error
        photos[split].append(photo)
    found = {split: present(some, root / "images.txt", options.partial) for split, some in photos.items()}
    return collect(found, classes, options, *_notes(found, options))


def _find_masks(root: Path, files: Sequence[str]) -> dict[str, Path]:
    """Return the segmentation of each image that has one; refuse those of other images."""
    folder = next((root / name for name in SEGMENTATIONS if (root / name).is_dir()), None)
    if folder is None:
        return {}
    paths = {file: (folder / file).with_suffix(".png") for file in files}
    found = {file: path for file, path in paths.items() if path.is_file()}
    if not found:
        raise ValueError(
            f"{folder} holds the segmentation of none of {len(files)} images, as {paths[files[0]].name} would be; do "
            "they belong to other images?"
        )
    return found


def _notes(found: dict[str, list[Photo]], options: Namespace) -> list[str]:
    """Say how many images of a split have no segmentation, where some images of the source have one."""
    without = {split: sum(photo.mask is None for photo in photos) for split, photos in found.items()}
    if all(without[split] == len(photos) for split, photos in found.items()):
        return ["no folder segmentations: the birds are boxes"]
    return [
        f"{split}: {count} of {len(found[split])} images have no segmentation; their birds are boxes"
        for split, count in without.items()
        if count and split in options.splits
    ]


def _read_classes(path: Path) -> list[str]:
    rows = read_lines(path, 2)
    for place, (number, name) in enumerate(rows, start=1):
        if number != str(place):
            raise ValueError(f"{path} gives {name} the number {number} in line {place}; expected 1, 2, 3, ... in order")
    return [name for _, name in rows]


def _class_of(number: str, folder: str, classes: list[str]) -> int:
    """Return the index of a class from its number; refuse one that is none, or of which the image's folder is not."""
    label = int(number) - 1
    if not 0 <= label < len(classes):
        raise ValueError(f"class {number} is none of 1..{len(classes)}")
    if folder in classes and folder != classes[label]:
        raise ValueError(f"class {number} is {classes[label]}, the folder is {folder}")
    return label


def _by_number(root: Path, file: str, columns: int, images: Container[str] | None = None) -> dict[str, list[str]]:
    """Read a list by the numbers of its images; refuse a number twice, and one that is not among `images`."""
    found: dict[str, list[str]] = {}
    for number, *rest in read_lines(_list(root, file), columns):
        if number in found:
            raise ValueError(f"{root / file} lists the image {number} twice; remove one of the lines")
        if images is not None and number not in images:
            raise ValueError(f"{root / file} lists the image {number}, which images.txt does not; are they of one set?")
        found[number] = rest
    return found


def _list(root: Path, file: str) -> Path:
    return find(root, (file,), "list of CUB-200-2011")


CUB200 = Recipe(
    "cub200",
    "CUB-200-2011: images.txt and the lists beside it, boxes, segmentations and the official split (train, test)",
    "CUB-200-2011, California Institute of Technology, https://www.vision.caltech.edu/datasets/cub_200_2011/",
    "photographs of Flickr users who keep their rights; for non-commercial research and education",
    read_cub200,
    partial(add_choice, splits=tuple(SPLITS.values())),
)
