"""Recipes for one's own images: a folder with a labels.csv, or a tree of class folders."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from data.folder import LABELS, SPLITS, FileBoxes, read_boxes, read_labels, read_splits, read_tree
from data.held_out import VAL_SHARE, HeldOut
from data.photos import Photo, is_hidden
from data.recipes.recipe import Collection, Recipe

NOT_STATED = "not stated"


def read_labelled(source: Path, options: Namespace) -> Collection:
    """Read the files that a labels.csv lists.

    Raises:
        FileNotFoundError: There is no labels.csv, or a file that it lists is missing.
        ValueError: A column is missing, no image is listed, or two have one key.
    """
    if not (source / LABELS).is_file():
        raise FileNotFoundError(f"no {LABELS} in {source}; for a tree of class folders use the recipe `folder`")
    return Collection(read_labels(source, options.split_column))


def read_folder(source: Path, options: Namespace) -> Collection:
    """Read a tree of images, by split folders where there are any.

    Raises:
        ValueError: A class folder has no images, two images have one key, or boxes belong to no image.
    """
    known = [name for name in SPLITS if (source / name).is_dir()]
    boxes_of = read_boxes(options.boxes) if options.boxes else {}
    splits = read_splits(source, boxes_of) if known else _divided(source, boxes_of, options)
    below = splits.items() if known else [("", [photo for photos in splits.values() for photo in photos])]
    for split, photos in below:
        root = source / split
        names = {photo.class_name for photo in photos}
        folders = (path for path in root.iterdir() if path.is_dir() and not is_hidden(path.name))
        empty = sorted(path for path in folders if path.name not in names)
        if empty and names != {""}:
            raise ValueError(f"{empty[0]} holds no images, but lies among the class folders; fill or remove it")
    if known or set(splits) != {"train", "val"}:
        return Collection(splits)
    note = HeldOut(options.val_share).note([*splits["train"], *splits["val"]], source)
    return Collection(splits, notes=(f"{note}; --split train packs all as one split",))


def _divided(source: Path, boxes_of: dict[str, FileBoxes], options: Namespace) -> dict[str, list[Photo]]:
    """Divide a tree without split folders, unless all of it is to be one split."""
    photos = read_tree(source, boxes_of)
    if options.split or len(photos) == 1:
        return {options.split or "train": photos}
    sides = HeldOut(options.val_share)
    return {"train": sides.train(photos, source), "val": sides.val(photos, source)}


def _add_labels_options(parser: ArgumentParser) -> None:
    parser.add_argument("--split-column", default="split", help="column that names the split (default split)")


def _add_folder_options(parser: ArgumentParser) -> None:
    parser.add_argument("--split", help="one split for all images of a tree without split folders")
    parser.add_argument(
        "--val-share",
        "--val_share",
        type=float,
        default=VAL_SHARE,
        help="share of the images of such a tree that become the split val (default %(default)s)",
    )
    parser.add_argument("--boxes", type=Path, help="CSV with the columns file (path below the source), x0, y0, x1, y1")


LABELS_CSV = Recipe(
    "labels_csv", "images with a labels.csv", NOT_STATED, NOT_STATED, read_labelled, _add_labels_options
)
FOLDER = Recipe(
    "folder", "a tree of class folders, or a flat folder", NOT_STATED, NOT_STATED, read_folder, _add_folder_options
)
