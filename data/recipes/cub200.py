"""CUB-200-2011: the files of the official archive, with its boxes and its split."""

from argparse import Namespace
from functools import partial
from pathlib import Path

from data.photos import Photo, key_of
from data.recipes.recipe import Collection, Recipe, add_choice, collect, find, present, read_lines

SPLITS = {"1": "train", "0": "test"}
"""What train_test_split.txt means."""


def read_cub200(source: Path, options: Namespace) -> Collection:
    """Read images.txt and the four lists that belong to it; class indices are those of classes.txt, from 0."""
    root = find(source, ("images.txt", "CUB_200_2011/images.txt"), "CUB-200-2011").parent
    classes = [name for _, name in read_lines(_list(root, "classes.txt"), 2)]
    labels = _by_image(root, "image_class_labels.txt", 2)
    boxes = _by_image(root, "bounding_boxes.txt", 5)
    splits = _by_image(root, "train_test_split.txt", 2)
    photos: dict[str, list[Photo]] = {name: [] for name in SPLITS.values()}
    for number, file in read_lines(root / "images.txt", 2):
        path = root / "images" / file
        try:
            label = int(labels[number][0]) - 1
            x, y, width, height = map(float, boxes[number])
            split = SPLITS[splits[number][0]]
            photo = Photo(key_of(path.stem), path, label, ((x, y, x + width, y + height),), classes[label])
        except (KeyError, ValueError, IndexError) as error:
            raise ValueError(f"the lists in {root} do not agree about image {number}, {file} ({error!r})") from error
        photos[split].append(photo)
    found = {split: present(some, root / "images.txt", options.partial) for split, some in photos.items()}
    return collect(found, classes, options)


def _by_image(root: Path, file: str, columns: int) -> dict[str, list[str]]:
    return {number: rest for number, *rest in read_lines(_list(root, file), columns)}


def _list(root: Path, file: str) -> Path:
    return find(root, (file,), "list of CUB-200-2011")


CUB200 = Recipe(
    "cub200",
    "CUB-200-2011: images.txt and the lists beside it, boxes and the official split (train, test)",
    "CUB-200-2011, California Institute of Technology, https://www.vision.caltech.edu/datasets/cub_200_2011/",
    "photographs of Flickr users who keep their rights; for non-commercial research and education",
    read_cub200,
    partial(add_choice, splits=tuple(SPLITS.values())),
)
