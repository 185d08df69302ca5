"""Recipes for one's own images: a folder with a labels.csv, or a tree of class folders."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from data.folder import LABELS, SPLITS, read_boxes, read_labels, read_splits, read_tree
from data.photos import is_hidden
from data.recipes.recipe import Collection, Recipe

NOT_STATED = "not stated"


def read_labelled(source: Path, options: Namespace) -> Collection:
    """Read the files that a labels.csv lists."""
    if not (source / LABELS).is_file():
        raise FileNotFoundError(f"no {LABELS} in {source}; for a tree of class folders use the recipe `folder`")
    return Collection(read_labels(source, options.split_column))


def read_folder(source: Path, options: Namespace) -> Collection:
    """Read a tree of images, by split folders where there are any; refuse a class folder without images."""
    known = [name for name in SPLITS if (source / name).is_dir()]
    boxes_of = read_boxes(options.boxes) if options.boxes else {}
    splits = read_splits(source, boxes_of) if known else {options.split: read_tree(source, boxes_of)}
    for split, photos in splits.items():
        root = source / split if known else source
        names = {photo.class_name for photo in photos}
        folders = (path for path in root.iterdir() if path.is_dir() and not is_hidden(path.name))
        empty = sorted(path for path in folders if path.name not in names)
        if empty and names != {""}:
            raise ValueError(f"{empty[0]} holds no images, but lies among the class folders; fill or remove it")
    return Collection(splits)


def _add_labels_options(parser: ArgumentParser) -> None:
    parser.add_argument("--split-column", default="split", help="column that names the split (default split)")


def _add_folder_options(parser: ArgumentParser) -> None:
    parser.add_argument("--split", default="train", help="name of the split where the tree has no split folders")
    parser.add_argument("--boxes", type=Path, help="CSV with the columns file (path below the source), x0, y0, x1, y1")


LABELS_CSV = Recipe(
    "labels_csv", "images with a labels.csv", NOT_STATED, NOT_STATED, read_labelled, _add_labels_options
)
FOLDER = Recipe(
    "folder", "a tree of class folders, or a flat folder", NOT_STATED, NOT_STATED, read_folder, _add_folder_options
)
