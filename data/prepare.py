"""Pack images into shards: `python -m data.prepare RECIPE --source DIR --out DIR`.

Recipes: imagenet, cub200, places365, mnist, cifar10, cifar100, labels_csv, folder; see docs/datasets.md. After a stop
the same command goes on. `python -m data.prepare index --source SHARDS --out DIR` writes a manifest for shards that
there are already, and leaves them as they are.
"""

import argparse
import hashlib
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Generator, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from rich.progress import track
from webdataset.shardlists import expand_urls

from data.cache import ShardCache
from data.folder import read_text
from data.manifest import (
    ATTRIBUTION,
    FILE,
    FILE_NAME,
    Manifest,
    ShardInfo,
    check_name,
    checksum,
    keys_file,
    read_attributions,
)
from data.packing import Packing
from data.photos import Photo
from data.recipes import RECIPES
from data.recipes.recipe import Recipe
from data.roots import LocalRoot
from data.samples import check_parts, load_sample
from data.shards import TarShard
from data.transfer import PIPE, Remote, fetch, is_remote
from data.verify import TINY
from data.writer import About, write_dataset
from dre.images.segmentation_masks import SUFFIX
from dre.runs.process import mask_credentials

STOPPED = 130
"""Exit status after Ctrl-C."""

INDEXING = "index"
INDEX_HELP = "write a manifest for shards that there are already, without packing them again"
SPLIT_WORDS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
"""Words in the names of shards, and the split that they mean."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; a refusal is one line on standard error and exit status 1."""
    options = _parser().parse_args(arguments)
    try:
        manifest = index(options) if options.recipe == INDEXING else prepare(options)
    except (ValueError, OSError) as error:
        print(f"error: {mask_credentials(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; run the same command again to go on", file=sys.stderr)
        return STOPPED
    for line in (line for shard in manifest.skipped.values() for line in shard.values()):
        print(f"skipped: {line}", file=sys.stderr)
    masks = manifest.count_masks()
    for split, images in manifest.count().items():
        having = f", {masks[split]} with masks" if masks[split] else ""
        print(f"{split}: {images} images in {len(manifest.splits[split])} shards{having}")
    return 0


def prepare(options: argparse.Namespace) -> Manifest:
    """Read the photographs that the options name, pack them and copy what credits them.

    Raises:
        FileNotFoundError: The source is not a folder, or lacks what its recipe reads.
        ValueError: `--out` is a file, the source or another data set, or the source is not as its recipe expects.
    """
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


class Unindexed(TarShard):
    """Read a shard of which nobody has counted the samples."""

    def _check_count(self, seen: int) -> None:
        """Accept any number."""


def index(options: argparse.Namespace) -> Manifest:
    """Read shards that there are already, and write a manifest and the lists of keys; the shards stay where they are.

    Raises:
        ValueError: A shard cannot be read, a sample has no image or no class, or two images have one key.
        FileNotFoundError: There are no shards at a source.
    """
    if (options.out / FILE_NAME).exists():
        raise ValueError(f"--out {options.out} holds a {FILE_NAME} already; name another folder")
    addresses = [address for source in options.source for address in _addresses(source)]
    splits: dict[str, list[ShardInfo]] = {}
    keys: dict[str, dict[str, str]] = {}
    for address in track(addresses, description="indexing"):
        split = options.split or _split_of(address)
        info, found = _index_shard(address, Remote(options.cache), options.out)
        listed = keys.setdefault(split, {})
        twice = next((key for key in found if key in listed), None)
        if twice is not None:
            raise ValueError(f"the key {twice!r} is in {listed[twice]} and in {address}: keys must differ in a split")
        listed.update(dict.fromkeys(found, address))
        splits.setdefault(split, []).append(info)
    classes = None if options.classes is None else read_text(options.classes).splitlines()
    lists = {keys_file(split): "".join(f"{key}\n" for key in listed).encode() for split, listed in keys.items()}
    files = {name: hashlib.sha256(content).hexdigest() for name, content in sorted(lists.items())}
    name = options.name or options.out.resolve().name
    manifest = Manifest(name, options.origin, options.licence, classes, splits, INDEXING, files=files)
    options.out.mkdir(parents=True, exist_ok=True)
    for file, content in lists.items():
        (options.out / file).write_bytes(content)
    manifest.save(options.out)
    return manifest


def _addresses(source: str) -> list[str]:
    """List the shards of a source: a folder, a file, a pattern such as train-{0000..0099}.tar, or a list of them."""
    if source.startswith(PIPE):
        raise ValueError(f"--source {mask_credentials(source)!r} is a command; name files, folders or URLs")
    if mask_credentials(source) != source:
        raise ValueError(
            f"--source {mask_credentials(source)} has a credential, which a manifest would hold; give the address "
            "without it, and let the environment say who you are"
        )
    if Path(source).is_dir():
        found = sorted(map(str, Path(source).glob("*.tar")))
        if not found:
            raise FileNotFoundError(f"--source {source} holds no .tar files")
        return found
    if source.endswith(".txt"):
        return [one for line in read_text(Path(source)).split() for one in _addresses(line)]
    expanded: list[str] = expand_urls(source)
    return expanded


def _split_of(address: str) -> str:
    """Guess the split from the name of a shard."""
    name = Path(urlsplit(address).path).name.lower()
    found = {split for word, split in SPLIT_WORDS.items() if re.search(rf"(?:^|[^a-z]){word}(?:$|[^a-z])", name)}
    if len(found) != 1:
        raise ValueError(f"the name {Path(address).name!r} does not say which split it belongs to; give --split")
    return found.pop()


def _index_shard(address: str, remote: Remote, out: Path) -> tuple[ShardInfo, list[str]]:
    """Describe one shard and list its keys; one that is fetched stays in the cache."""
    place, _, file = address.rpartition("/")
    check_name(file, FILE, "a shard (rename the file)")
    if not is_remote(address):
        path = Path(address)
        if not path.is_file():
            raise FileNotFoundError(f"there is no shard {address}")
        folder = path.resolve().parent
        return _describe(path, "" if folder == out.resolve() else str(folder))
    cache = Path(remote.cache).expanduser()
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder_name:
        path = Path(folder_name) / Path(file).name
        fetch(address, path, remote)
        info, keys = _describe(path, place)
        ShardCache(remote.cache).open(info, lambda target: os.replace(path, target)).close()
    return info, keys


def _describe(path: Path, place: str) -> tuple[ShardInfo, list[str]]:
    info = ShardInfo(path.name, 0, path.stat().st_size, checksum(path), place)
    shard = Unindexed(LocalRoot(path.parent), replace(info, place=""), "", 0)
    keys: list[str] = []
    masks = 0
    for raw in shard.stream():
        load_sample(raw, TINY) if not keys else check_parts(raw)
        keys.append(str(raw["__key__"]))
        masks += SUFFIX in raw
    if not keys:
        raise ValueError(f"{path} holds no samples; an image and a .cls or .json of one name are needed")
    return replace(info, samples=len(keys), masks=masks), keys


def _show_progress(photos: Iterable[Photo], total: int) -> Generator[Photo, None, None]:
    yield from track(photos, description="packing", total=total)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m data.prepare", description="Pack images into webdataset shards.")
    recipes = parser.add_subparsers(dest="recipe", required=True)
    _add_index(recipes.add_parser(INDEXING, help=INDEX_HELP, description=INDEX_HELP))
    for recipe in RECIPES.values():
        added = recipes.add_parser(recipe.name, help=recipe.summary, description=recipe.summary)
        _add_shared(added, recipe)
        recipe.add_options(added)
    return parser


def _add_index(parser: argparse.ArgumentParser) -> None:
    sources = "folders of .tar files, files, URLs, patterns (train-{0000..0099}.tar), or .txt files that list them"
    parser.add_argument("--source", nargs="+", required=True, help=sources)
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for the manifest; the shards stay where they are"
    )
    parser.add_argument("--split", help="split of all shards (default: train, val or test, as their names say)")
    parser.add_argument("--classes", type=Path, help="text file with the name of each class, one a line")
    parser.add_argument("--cache", default=Remote().cache, help="where shards of URLs are kept (default %(default)s)")
    parser.add_argument("--name", help="what the dataset is called (default: name of the folder --out)")
    parser.add_argument("--origin", default="not stated", help="where the images come from")
    parser.add_argument("--licence", default="not stated", help="their terms")


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
