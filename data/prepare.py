"""Pack images into shards: `python -m data.prepare labels_csv|folder --source DIR --out DIR`."""

import argparse
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.progress import track

from data.credits import copy_attributions
from data.folder import LABELS, SPLITS, Photo, read_labels, read_splits, read_tree
from data.manifest import Manifest
from data.writer import write_dataset


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; a refusal is one line on standard error and exit status 1."""
    options = _parser().parse_args(arguments)
    try:
        manifest = prepare(options)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for split, shards in manifest.splits.items():
        print(f"{split}: {sum(shard.samples for shard in shards)} images in {len(shards)} shards")
    return 0


def prepare(options: argparse.Namespace) -> Manifest:
    """Read the photographs that the options name, pack them and copy what credits them."""
    source: Path = options.source
    if not source.is_dir():
        raise FileNotFoundError(f"--source {source} is not a folder")
    splits = _labelled(source, options) if options.recipe == "labels_csv" else _tree(source, options)
    manifest = write_dataset(
        splits,
        options.out,
        shard_size=options.shard_size,
        name=options.name or options.out.resolve().name,
        source=options.origin,
        licence=options.licence,
        track=_show_progress,
    )
    copy_attributions(source, options.out)
    if (source / "README.md").is_file() and not (options.out / "README.md").exists():
        shutil.copyfile(source / "README.md", options.out / "README.md")
    return manifest


def _labelled(source: Path, options: argparse.Namespace) -> dict[str, list[Photo]]:
    if not (source / LABELS).is_file():
        raise FileNotFoundError(f"no {LABELS} in {source}; for a tree of class folders use the recipe `folder`")
    return read_labels(source, options.split_column)


def _tree(source: Path, options: argparse.Namespace) -> dict[str, list[Photo]]:
    known = [name for name in SPLITS if (source / name).is_dir()]
    if known and options.boxes:
        raise ValueError("--boxes needs a tree without split folders; pack each split by itself with --split")
    if known:
        return read_splits(source)
    return {options.split: read_tree(source, options.boxes)}


def _show_progress(photos: Iterable[Photo], total: int) -> Iterable[Photo]:
    return track(photos, description="packing", total=total)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m data.prepare", description="Pack images into webdataset shards.")
    recipes = parser.add_subparsers(dest="recipe", required=True)
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--source", type=Path, required=True, help="folder with the images")
    shared.add_argument("--out", type=Path, required=True, help="folder for shards and manifest")
    shared.add_argument("--shard-size", type=int, default=1000, help="images in a shard, at most (default 1000)")
    shared.add_argument("--name", help="what the dataset is called (default: name of the folder --out)")
    shared.add_argument("--origin", default="not stated", help="where the images come from, for the manifest")
    shared.add_argument("--licence", default="not stated", help="their terms, for the manifest")
    labels = recipes.add_parser("labels_csv", parents=[shared], help="images with a labels.csv")
    labels.add_argument("--split-column", default="split", help="column that names the split (default split)")
    tree = recipes.add_parser("folder", parents=[shared], help="a tree of class folders, or a flat folder")
    tree.add_argument("--split", default="train", help="name of the split where the tree has no split folders")
    tree.add_argument("--boxes", type=Path, help="CSV with the columns file, x0, y0, x1, y1")
    return parser


if __name__ == "__main__":
    sys.exit(main())
