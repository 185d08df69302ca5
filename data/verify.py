"""Read every sample of packed data sets and name all that is broken: `python -m data.verify ROOT [ROOT ...]`.

A shard is compared with its manifest (size, sha256, number of samples, keys) and each sample is decoded as a run would
do it. The exit status is 1 where anything is broken.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import accumulate

from rich.progress import track

from data.manifest import Manifest, keys_file
from data.roots import Root, open_root
from data.samples import BrokenSampleError, Transform, load_sample
from data.shards import TarShard
from data.transfer import Remote
from dre.types import Preprocessing

TINY = Transform(Preprocessing(size=(8, 8), resize=8, interpolation="nearest"))
"""Decodes an image in full and costs little beside it."""


@dataclass(frozen=True, slots=True)
class Report:
    """What was found in one shard.

    Args:
        keys: Of all samples, in order.
        broken: One line for everything that is wrong.
    """

    keys: list[str]
    broken: list[str]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; what is broken goes to standard output, a refusal to standard error."""
    parser = argparse.ArgumentParser(prog="python -m data.verify", description="Read every sample of packed data sets.")
    parser.add_argument("roots", nargs="+", help="folders or URLs with a manifest.json")
    parser.add_argument("--cache", default=Remote().cache, help="where shards of URLs are kept (default %(default)s)")
    parser.add_argument("--workers", type=int, default=min(8, os.cpu_count() or 1), help="threads that read shards")
    options = parser.parse_args(arguments)
    try:
        if options.workers < 1:
            raise ValueError(f"--workers must be at least 1, got {options.workers}")
        broken = sum(verify(open_root(root, Remote(options.cache)), options.workers) for root in options.roots)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 1 if broken else 0


def verify(root: Root, workers: int = 1) -> int:
    """Read the data set in `root`, print what is broken and a line for each split; give the number of broken things."""
    manifest, total = root.manifest(), 0
    for split, infos in manifest.splits.items():
        starts = accumulate((info.samples for info in infos), initial=0)
        shards = [TarShard(root, info, split, start) for info, start in zip(infos, starts, strict=False)]
        with ThreadPoolExecutor(workers) as pool:
            reports = pool.map(partial(check_shard, classes=manifest.classes), shards)
            found = list(track(reports, description=f"reading {split}", total=len(infos)))
        lines = [line for report in found for line in report.broken]
        lines += _compare_keys(root, split, manifest, [key for report in found for key in report.keys])
        print(*lines, sep="\n", end="\n" if lines else "")
        images = sum(len(report.keys) for report in found)
        print(f"{split}: {images} images in {len(infos)} shards, {len(lines) or 'nothing'} broken")
        total += len(lines)
    return total


def check_shard(shard: TarShard, classes: Sequence[str] | None = None) -> Report:
    """Compare a shard with its manifest and decode all that can be read of it."""
    report = Report([], [])
    try:
        shard.root.verify(shard.info, "sha256")
    except FileNotFoundError as error:
        return Report([], [str(error)])
    except ValueError as error:
        report.broken.append(str(error))
    report.broken.extend(_read(shard, classes, report.keys))
    return report


def _read(shard: TarShard, classes: Sequence[str] | None, keys: list[str]) -> Iterator[str]:
    """Add the keys of all samples to `keys`; give a line for each that is broken, and for a shard that ends early."""
    try:
        for raw in shard.stream():
            keys.append(str(raw["__key__"]))
            try:
                sample = load_sample(raw, TINY)
            except BrokenSampleError as error:
                yield str(error)
                continue
            if sample.label < -1 or (classes is not None and sample.label >= len(classes)):
                yield f"{shard.name}/{sample.key}: class {sample.label} is none of {len(classes or ())}"
    except Exception as error:  # tarfile raises errors of many types for malformed bytes
        yield f"{shard.name}: {error.args[0] if error.args else type(error).__name__} (after {len(keys)} samples)"


def _compare_keys(root: Root, split: str, manifest: Manifest, keys: list[str]) -> Iterator[str]:
    """Give a line for keys that occur twice, and for a list of keys that is not the one of the shards."""
    if len(set(keys)) < len(keys):
        twice = next(key for place, key in enumerate(keys) if key in keys[:place])
        yield f"{split}: {len(keys) - len(set(keys))} keys occur twice, as {twice!r} does"
    try:
        listed = root.keys(split)
    except (ValueError, OSError) as error:
        yield str(error)
        return
    if listed != keys and keys_file(split) in manifest.files:
        yield f"{root.name}/{keys_file(split)} is missing or does not list the keys of the shards"


if __name__ == "__main__":
    sys.exit(main())
