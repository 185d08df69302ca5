"""Places365-Standard recipe: read the official lists with images of 256 x 256 pixels or the larger ones."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from data.photos import Photo, key_of
from data.recipes.recipe import Collection, Recipe, add_choice, collect, find, present, read_lines

LISTS = {"train": "places365_train_standard.txt", "val": "places365_val.txt"}
CATEGORIES = "categories_places365.txt"
FOLDERS = {"train": ("data_{}_standard", "data_{}"), "val": ("val_{}",)}
"""Where the official archives put the images of a split; torchvision renames the first one."""


def read_places365(source: Path, options: Namespace) -> Collection:
    """Read the two lists; class indices and names are those of categories_places365.txt."""
    classes = _read_classes(_list(source, CATEGORIES))
    return collect({split: _read_split(source, split, classes, options) for split in options.splits}, classes, options)


def _read_classes(path: Path) -> list[str]:
    indices = {index: name for name, index in read_lines(path, 2)}
    try:
        return [indices[str(index)] for index in range(len(indices))]
    except KeyError as error:
        raise ValueError(f"{path} does not number its {len(indices)} classes from 0: {error} is missing") from error


def _read_split(source: Path, split: str, classes: list[str], options: Namespace) -> list[Photo]:
    images = find(source, [name.format(options.size) for name in FOLDERS[split]], f"{split} images of Places365")
    listed, photos = _list(source, LISTS[split]), []
    for file, label in read_lines(listed, 2):
        path = images / file.lstrip("/")
        key = "/".join((*path.relative_to(images).parts[:-1], key_of(path.stem)))
        if not label.isdecimal() or int(label) >= len(classes):
            raise ValueError(f"{listed} gives {file} the class {label}; {CATEGORIES} knows 0..{len(classes) - 1}")
        photos.append(Photo(key, path, int(label), (), classes[int(label)]))
    return present(photos, listed, options.partial)


def _list(source: Path, file: str) -> Path:
    folders = ("", "filelist_places365-standard/", "places365standard_devkit/")
    return find(source, [folder + file for folder in folders], "list of Places365")


def _add_options(parser: ArgumentParser) -> None:
    add_choice(parser, tuple(LISTS))
    parser.add_argument("--size", choices=("256", "large"), default="256", help="which images (default 256)")


PLACES365 = Recipe(
    "places365",
    "Places365-Standard: the official lists, images of 256 px or large (train, val)",
    "Places365-Standard, MIT CSAIL, http://places2.csail.mit.edu/",
    "images belong to their photographers; for non-commercial research and education, not to be passed on",
    read_places365,
    _add_options,
)
