"""Plain image folders: read photographs with a labels.csv, or a tree of class folders, as if they were shards.

A photograph's key is its file name without suffix where a labels.csv lists it, and its path below the split without
suffix in a tree. The segmentation mask of NAME.jpg is NAME.mask.png beside it.

The module has more than 300 lines because each layout of a folder has a reader, and each reader says what it refuses.
"""

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data.photos import Photo, check_keys, is_hidden, key_of, names_by_index
from data.samples import IMAGE_SUFFIXES
from dre.images.segmentation_masks import SUFFIX

LABELS = "labels.csv"

SPLITS = ("train", "val", "test")
"""Sub-folders of these names divide a tree into splits; a tree without them is divided by `data.held_out`."""

SIDES = ("x0", "y0", "x1", "y1")

FileBoxes = list[tuple[float, ...]]

PIECE = 1000
"""Photographs in one pseudo-shard."""

Part = Callable[[list[Photo], Path], list[Photo]]
"""Takes some of the photographs of a folder."""


def everything(photos: list[Photo], root: Path) -> list[Photo]:
    """Return all photographs of a folder."""
    return photos


class FolderShard:
    """Read a run of photographs in a folder.

    Args:
        photos: In the order in which they are read.
    """

    def __init__(self, photos: Sequence[Photo]) -> None:
        self.photos = photos
        self.name = str(photos[0].path.parent)
        self.samples = len(photos)

    @classmethod
    def cut(cls, photos: Sequence[Photo]) -> "list[FolderShard]":
        """Cut a list of photographs into pseudo-shards."""
        return [cls(photos[start : start + PIECE]) for start in range(0, len(photos), PIECE)]

    def fetch(self) -> None:
        """Do nothing: it lies on a disk of this machine."""

    def index(self) -> None:
        """Do nothing: its photographs are listed."""

    def list_keys(self) -> list[str]:
        """Name its photographs, in order."""
        return [photo.key for photo in self.photos]

    def stream(self) -> Iterator[dict[str, Any]]:
        """Read all photographs, in order."""
        return map(self.read, range(self.samples))

    def read(self, position: int) -> dict[str, Any]:
        """Read one photograph as webdataset would give it."""
        photo = self.photos[position]
        raw = {
            "__key__": photo.key,
            "__url__": str(photo.path.parents[photo.key.count("/")]),
            photo.suffix: _bytes_of(photo.path),
            "json": json.dumps(photo.facts()),
        }
        return raw if photo.mask is None else raw | {SUFFIX: _bytes_of(photo.mask)}


def list_photos(root: Path, split: str, part: Part = everything) -> list[Photo]:
    """List the photographs of a split in a folder without manifest.

    Args:
        root: The folder.
        split: Which one, where split folders or a labels.csv divide them.
        part: Takes some of the photographs of a folder that nothing divides.

    Raises:
        FileNotFoundError: A file that a labels.csv lists is missing.
        ValueError: There is no such split, or no image in it.
    """
    if not is_divided(root):
        return part(read_tree(root), root)
    splits, where = _list_splits(root), root / LABELS if (root / LABELS).is_file() else root
    if split not in splits:
        raise ValueError(f"{where} has no split {split!r}; it has {', '.join(sorted(splits)) or 'none'}")
    return splits[split]


def folder_class_names(root: Path) -> list[str] | None:
    """Name the classes of a folder without manifest by index, over all its splits."""
    return names_by_index(_list_splits(root) if is_divided(root) else {"": read_tree(root)})


def is_divided(root: Path) -> bool:
    """Return whether split folders or a labels.csv divide the photographs of a folder."""
    return (root / LABELS).is_file() or any((root / name).is_dir() for name in SPLITS)


def _list_splits(root: Path) -> dict[str, list[Photo]]:
    return read_labels(root) if (root / LABELS).is_file() else read_splits(root)


def read_splits(root: Path, boxes_of: Mapping[str, FileBoxes] | None = None) -> dict[str, list[Photo]]:
    """List the photographs of a folder with split sub-folders; a class has one index in all of them.

    Raises:
        ValueError: A split folder has no images, two images have one key, or boxes belong to none.
    """
    splits = [name for name in SPLITS if (root / name).is_dir()]
    names = sorted(set().union(*(class_names(list_images(root / split), root / split) for split in splits)))
    parts: dict[str, dict[str, FileBoxes]] = {split: {} for split in splits}
    for file, boxes in (boxes_of or {}).items():
        split, _, rest = file.partition("/")
        if split not in parts:
            refuse_unknown({file: boxes}, root)
        parts[split][rest] = boxes
    return {split: read_tree(root / split, parts[split], names) for split in splits}


def list_images(folder: Path) -> list[Path]:
    """List the image files at any depth below a folder, in order, without hidden ones and masks.

    Raises:
        ValueError: There are none, or a mask belongs to none of them.
    """
    return list(_images_and_masks(folder))


def _images_and_masks(folder: Path) -> dict[Path, Path | None]:
    """Return the images that `list_images` lists, each with its mask where it has one."""
    found = (path for path in folder.rglob("*") if path.suffix[1:].lower() in IMAGE_SUFFIXES)
    paths = sorted(path for path in found if not is_hidden(path.relative_to(folder).as_posix()))
    masks = {path for path in paths if path.name.lower().endswith(f".{SUFFIX}")}
    images = {path: mask if (mask := mask_beside(path)) in masks else None for path in paths if path not in masks}
    if stray := sorted(masks - set(images.values())):
        raise ValueError(
            f"{stray[0]} is the mask of no image: there is none of the name {stray[0].name[: -len(SUFFIX) - 1]} beside "
            "it; take it away, or rename it if it is an image"
        )
    if not images:
        raise ValueError(f"{folder} holds no images; expected files that end in {', '.join(IMAGE_SUFFIXES)}")
    return images


def mask_beside(path: Path) -> Path:
    """Return where the segmentation mask of an image would lie."""
    return path.with_name(f"{path.stem}.{SUFFIX}")


def class_names(paths: Sequence[Path], folder: Path) -> list[str]:
    """Name the sub-folders that are the classes: those right below `folder`, where all images lie in one."""
    parts = [path.relative_to(folder).parts for path in paths]
    return sorted({part[0] for part in parts}) if all(len(part) > 1 for part in parts) else []


def read_labels(root: Path, split_column: str = "split") -> dict[str, list[Photo]]:
    """Read a folder with a labels.csv, by split.

    Columns: `file`, below the folder or its `images` sub-folder; a split; and, where they apply, `class_index`,
    `class_name` or `wnid`, and `boxes` as `x0 y0 x1 y1` with `;` between boxes.

    Raises:
        FileNotFoundError: A file that it lists is missing.
        ValueError: A column is missing, an image is in two splits, or class or boxes are no numbers.
    """
    splits: dict[str, list[Photo]] = {}
    split_of: dict[Path, str] = {}
    for row in read_rows(root / LABELS, ("file", split_column)):
        photo, split = _labelled_photo(root, row), row[split_column]
        if split_of.setdefault(photo.path, split) != split:
            raise ValueError(
                f"{root / LABELS} lists {row['file']!r} in the splits {split_of[photo.path]!r} and {split!r}; keep one"
            )
        splits.setdefault(split, []).append(photo)
    if not splits:
        raise ValueError(f"{root / LABELS} lists no images")
    for photos in splits.values():
        check_keys(photos)
    return splits


def read_tree(
    folder: Path, boxes_of: Mapping[str, FileBoxes] | None = None, names: Sequence[str] | None = None
) -> list[Photo]:
    """List the photographs below a folder; where all of them lie in sub-folders, those are the classes, by name.

    Args:
        folder: Where to look, at any depth.
        boxes_of: See `read_boxes`.
        names: All classes, in the order of their indices; those of this folder when not given.

    Raises:
        ValueError: There are no images, two of one key, or boxes of other files.
    """
    masks = _images_and_masks(folder)
    paths = list(masks)
    parts = [path.relative_to(folder).parts for path in paths]
    own = class_names(paths, folder)
    names = (names or own) if own else []
    places = {name: index for index, name in enumerate(names)}
    left = dict(boxes_of or {})
    photos = []
    for path, part in zip(paths, parts, strict=True):
        key = "/".join((*part[:-1], key_of(path.stem)))
        label, class_name = (places[part[0]], part[0]) if names else (-1, "")
        photos.append(Photo(key, path, label, tuple(left.pop("/".join(part), ())), class_name, masks[path]))
    refuse_unknown(left, folder)
    check_keys(photos)
    return photos


def read_boxes(path: Path) -> dict[str, FileBoxes]:
    """Read a CSV with the columns `file` (its path below the folder), `x0`, `y0`, `x1`, `y1`, one box a row.

    Raises:
        ValueError: A column is missing, or a side is no number.
    """
    boxes: dict[str, FileBoxes] = {}
    for row in read_rows(path, ("file", *SIDES)):
        try:
            boxes.setdefault(row["file"], []).append(tuple(float(row[side]) for side in SIDES))
        except ValueError as error:
            raise ValueError(f"{path}: bad row {row} ({error!r}); expected columns file, x0, y0, x1, y1") from error
    return boxes


def read_rows(path: Path, needed: Sequence[str]) -> list[dict[str, str]]:
    """Read a CSV file whose first line names its columns.

    Raises:
        ValueError: It is not in UTF-8 or no CSV, lacks a needed column, or has a row that is longer or shorter.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, strict=True)
            rows, columns = list(reader), list(reader.fieldnames or ())
    except (UnicodeDecodeError, csv.Error) as error:
        way_out = "save it as UTF-8" if isinstance(error, UnicodeDecodeError) else "close its quotes"
        raise ValueError(f"{path} is not a readable CSV file ({error}); {way_out}") from error
    missing = [name for name in needed if name not in columns]
    if missing:
        raise ValueError(f"{path} has no column {', '.join(missing)}; it has {columns}")
    for number, row in enumerate(rows, start=1):
        if None in row or None in row.values():
            raise ValueError(f"{path}: row {number}, {row[columns[0]]!r}, does not have the {len(columns)} columns")
    return rows


def read_text(path: Path) -> str:
    """Read a file of text in UTF-8.

    Raises:
        ValueError: It is in another encoding.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not readable text ({error}); save it as UTF-8") from error


def refuse_unknown(boxes_of: Mapping[str, FileBoxes], folder: Path) -> None:
    """Refuse boxes that are left when all images have theirs.

    Raises:
        ValueError: Boxes are left.
    """
    if boxes_of:
        raise ValueError(
            f"there are boxes for {len(boxes_of)} files, as for {next(iter(boxes_of))!r}, which are no images below "
            f"{folder}; does the box file belong to other images?"
        )


def _bytes_of(path: Path) -> bytes:
    """Read a file; one that has vanished is empty, and so a broken sample like any other."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _labelled_photo(root: Path, row: dict[str, str]) -> Photo:
    if is_hidden(row["file"]):
        raise ValueError(f"{root / LABELS} lists {row['file']!r}, which is hidden: rename it, or take its row out")
    path = root / row["file"]
    if not path.is_file():
        path = root / "images" / row["file"]
    if not path.is_file():
        raise FileNotFoundError(f"{root / LABELS} lists {row['file']!r}, which is neither in {root} nor in its images/")
    try:
        boxes = tuple(tuple(map(float, box.split())) for box in row.get("boxes", "").split(";") if box.strip())
        label = int(row.get("class_index") or -1)
        if label < -1:
            raise ValueError(f"class_index {label} is below 0; leave it empty for an image without class")
    except ValueError as error:
        raise ValueError(f"{root / LABELS}, {row['file']}: {error}") from error
    name = row.get("class_name") or row.get("wnid") or ""
    mask = mask_beside(path)
    return Photo(key_of(path.stem), path, label, boxes, name, mask if mask.is_file() else None)
