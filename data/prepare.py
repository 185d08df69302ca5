"""Pack images into shards: `python -m data.prepare RECIPE --source DIR --out DIR`.

Recipes: imagenet, cub200, places365, mnist, cifar10, cifar100, labels_csv, folder; see docs/datasets.md. After a stop
the same command goes on.
"""

import argparse
import os
import shutil
import sys
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path

from rich.progress import track

from data.manifest import ATTRIBUTION, Manifest, read_attributions
from data.packing import Packing
from data.photos import Photo
from data.recipes import RECIPES
from data.recipes.recipe import Recipe
from data.writer import About, write_dataset

STOPPED = 130
"""Exit status after Ctrl-C."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; a refusal is one line on standard error and exit status 1."""
    options = _parser().parse_args(arguments)
    try:
        manifest = prepare(options)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; run the same command again to go on", file=sys.stderr)
        return STOPPED
    for line in (line for shard in manifest.skipped.values() for line in shard.values()):
        print(f"skipped: {line}", file=sys.stderr)
    for split, images in manifest.count().items():
        print(f"{split}: {images} images in {len(manifest.splits[split])} shards")
    return 0


def prepare(options: argparse.Namespace) -> Manifest:
    """Read the photographs that the options name, pack them and copy what credits them."""
    source, out, recipe = options.source, options.out, RECIPES[options.recipe]
    if not source.is_dir():
        raise FileNotFoundError(f"--source {source} is not a folder")
    if out.exists() and (not out.is_dir() or out.samefile(source)):
        raise ValueError(f"--out {out} is {'the source' if out.is_dir() else 'a file'}; name another folder")
    found = recipe.read(source, options)
    for note in found.notes:
        print(f"note: {note}", file=sys.stderr)
    attributions = read_attributions(source)
    manifest = write_dataset(
        found.splits,
        out,
        About(
            options.name or out.resolve().name,
            options.origin or recipe.origin,
            options.licence or recipe.licence,
            recipe.name,
            found.classes,
        ),
        Packing(options.shard_size, options.shard_megabytes, options.resize, options.skip_broken, options.workers),
        files={} if attributions is None else {ATTRIBUTION: attributions},
        track=_show_progress,
    )
    if (source / "README.md").is_file() and not (out / "README.md").exists():
        shutil.copyfile(source / "README.md", out / "README.md")
    return manifest


def _show_progress(photos: Iterable[Photo], total: int) -> Generator[Photo, None, None]:
    yield from track(photos, description="packing", total=total)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m data.prepare", description="Pack images into webdataset shards.")
    recipes = parser.add_subparsers(dest="recipe", required=True)
    for recipe in RECIPES.values():
        added = recipes.add_parser(recipe.name, help=recipe.summary, description=recipe.summary)
        _add_shared(added, recipe)
        recipe.add_options(added)
    return parser


def _add_shared(parser: argparse.ArgumentParser, recipe: Recipe) -> None:
    parser.add_argument("--source", type=Path, required=True, help="folder with the images")
    parser.add_argument("--out", type=Path, required=True, help="folder for shards and manifest")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--shard-megabytes", type=float, default=64, help="size of a shard (default 64)")
    size.add_argument("--shard-size", type=int, help="images in a shard, at most")
    parser.add_argument("--resize", type=int, help="shrink to this shorter side, in pixels (default: copy every file)")
    parser.add_argument("--skip-broken", action="store_true", help="leave broken images out and name them")
    parser.add_argument("--workers", type=int, default=min(8, os.cpu_count() or 1), help="threads that read images")
    parser.add_argument("--name", help="what the dataset is called (default: name of the folder --out)")
    parser.add_argument("--origin", help=f"where the images come from, for the manifest (default: {recipe.origin})")
    parser.add_argument("--licence", help=f"their terms, for the manifest (default: {recipe.licence})")


if __name__ == "__main__":
    sys.exit(main())
