"""Base class of recipes: turn one published layout of files into photographs with classes and boxes."""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from data.folder import read_text
from data.photos import Photo


@dataclass(frozen=True, slots=True)
class Collection:
    """Hold what a recipe found in a source.

    Args:
        splits: The photographs of each split.
        classes: Name of each class index, where the recipe knows them all.
        notes: What was not found and can be done without, one line each.
    """

    splits: dict[str, list[Photo]]
    classes: list[str] | None = None
    notes: tuple[str, ...] = ()


def no_options(parser: ArgumentParser) -> None:
    """Add nothing to the command line."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Read one published layout.

    Args:
        name: What the command line calls it.
        summary: One line for its help.
        origin: Where the images come from.
        licence: Under which terms.
        read: Lists the photographs of a source; refuses a source that has no such layout.
        add_options: Adds the recipe's own options to its command line.
    """

    name: str
    summary: str
    origin: str
    licence: str
    read: Callable[[Path, Namespace], Collection]
    add_options: Callable[[ArgumentParser], None] = no_options


def add_choice(parser: ArgumentParser, splits: Sequence[str]) -> None:
    """Add the options of sets whose classes and splits are known."""
    parser.add_argument(
        "--splits", nargs="+", choices=splits, default=list(splits), help=f"which ones (default {' '.join(splits)})"
    )
    parser.add_argument(
        "--partial", action="store_true", help="pack what is there: listed images and whole classes may be missing"
    )


def find(source: Path, candidates: Sequence[str], what: str) -> Path:
    """Return the first of some files or folders that exists below a source.

    Raises:
        FileNotFoundError: None of them exists.
    """
    for name in candidates:
        if (source / name).exists():
            return source / name
    raise FileNotFoundError(f"no {what} in {source}: looked for {', '.join(candidates)}")


def present(photos: Sequence[Photo], listed_in: Path, partial: bool) -> list[Photo]:
    """Leave out photographs whose file is missing, where that is allowed.

    Raises:
        FileNotFoundError: A file is missing, and `partial` is off.
    """
    there = [photo for photo in photos if photo.path.is_file()]
    if len(there) < len(photos) and not partial:
        missing = next(photo.path for photo in photos if not photo.path.is_file())
        raise FileNotFoundError(
            f"{listed_in} lists {len(photos)} images of which {len(photos) - len(there)} are missing, as {missing} is; "
            "complete the source, or pass --partial to pack what is there"
        )
    return there


def collect(splits: dict[str, list[Photo]], classes: list[str], options: Namespace, *notes: str) -> Collection:
    """Return the splits that were asked for.

    Raises:
        ValueError: A class has no images in one of them, and no partial set was asked for.
    """
    selected = {split: splits[split] for split in splits if split in options.splits}
    for split, photos in selected.items():
        seen = {photo.label for photo in photos}
        empty = [name for index, name in enumerate(classes) if index not in seen]
        if empty and not options.partial:
            raise ValueError(
                f"{len(empty)} of {len(classes)} classes have no images in the split {split!r}, the first is "
                f"{empty[0]!r}; complete the source, or pass --partial to pack what is there"
            )
    return Collection(selected, classes, notes)


def read_lines(path: Path, columns: int) -> list[list[str]]:
    """Read a list whose lines hold so many columns between blanks; the last column may hold blanks itself.

    Raises:
        ValueError: A line has fewer columns.
    """
    rows = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        row = line.split(maxsplit=columns - 1)
        if row and len(row) != columns:
            raise ValueError(f"{path}, line {number}: expected {columns} columns, got {line!r}")
        if row:
            rows.append(row)
    return rows
