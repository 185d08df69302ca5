"""Data set verification: read every sample and name all that is broken: `python -m data.verify ROOT [ROOT ...]`.

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
from dre.images.segmentation_masks import SUFFIX
from dre.runs.process import ALLOW, mask_credentials, refuse_pipes
from dre.types import Preprocessing

TINY = Transform(Preprocessing(size=(8, 8), resize=8, interpolation="nearest"))
"""Decodes an image in full and costs little beside it."""


@dataclass(slots=True)
class Report:
    """Hold what was found in one shard.

    Args:
        keys: Of all samples, in order.
        broken: One line for everything that is wrong.
        ended_early: Whether some of its samples could not be reached.
        masks: How many of them have a segmentation mask.
    """

    keys: list[str]
    broken: list[str]
    ended_early: bool = False
    masks: int = 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; what is broken goes to standard output, a refusal to standard error."""
    parser = argparse.ArgumentParser(prog="python -m data.verify", description="Read every sample of packed data sets.")
    parser.add_argument("roots", nargs="+", help="folders or URLs with a manifest.json")
    parser.add_argument("--cache", default=Remote().cache, help="where shards of URLs are kept (default %(default)s)")
    parser.add_argument("--workers", type=int, default=min(8, os.cpu_count() or 1), help="threads that read shards")
    parser.add_argument(ALLOW, action="store_true", help="let roots be commands (pipe:...), which run on this machine")
    options = parser.parse_args(arguments)
    try:
        refuse_pipes(options.roots, options.allow_pipe)
        if options.workers < 1:
            raise ValueError(f"--workers must be at least 1, got {options.workers}")
        broken = sum(verify(open_root(root, Remote(options.cache)), options.workers) for root in options.roots)
    except (ValueError, OSError) as error:
        print(f"error: {mask_credentials(str(error))}", file=sys.stderr)
        return 1
    return 1 if broken else 0


def verify(root: Root, workers: int = 1) -> int:
    """Read the data set in `root`, print what is broken and a line for each split; give the number of broken things.

    Raises:
        ValueError: The manifest is damaged or lists no images.
        FileNotFoundError: There is no manifest.
    """
    manifest, total = root.manifest(), 0
    if not sum(manifest.count().values()):
        raise ValueError(f"the manifest of {root.name} lists no images: there is nothing to verify; pack them again")
    for split, infos in manifest.splits.items():
        starts = accumulate((info.samples for info in infos), initial=0)
        shards = [TarShard(root, info, split, start) for info, start in zip(infos, starts, strict=False)]
        with ThreadPoolExecutor(workers) as pool:
            reports = pool.map(partial(check_shard, classes=manifest.classes), shards)
            found = list(track(reports, description=f"reading {split}", total=len(infos)))
        lines = [line for report in found for line in report.broken]
        lines += _compare_keys(root, split, manifest, found)
        print(*lines, sep="\n", end="\n" if lines else "")
        images = sum(len(report.keys) for report in found)
        masks = sum(report.masks for report in found)
        having = f" ({masks} with masks)" if masks else ""
        print(f"{split}: {images} images{having} in {len(infos)} shards, {len(lines) or 'nothing'} broken")
        total += len(lines)
    return total


def check_shard(shard: TarShard, classes: Sequence[str] | None = None) -> Report:
    """Compare a shard with its manifest and decode all that can be read of it."""
    report = Report([], [])
    try:
        shard.root.verify(shard.info, "sha256")
    except FileNotFoundError as error:
        return Report([], [str(error)], ended_early=True)
    except ValueError as error:
        report.broken.append(str(error))
    _read(shard, classes, report)
    if shard.info.masks and report.masks != shard.info.masks and not report.ended_early:
        report.broken.append(f"{shard.name}: {report.masks} masks, its manifest says {shard.info.masks}; pack it again")
    return report


def _read(shard: TarShard, classes: Sequence[str] | None, report: Report) -> None:
    """Add the keys of all samples; give a line for each that is broken, and for a shard that ends early."""
    try:
        for raw in shard.stream(lambda error: report.broken.append(str(error))):
            report.keys.append(str(raw["__key__"]))
            report.masks += SUFFIX in raw
            try:
                sample = load_sample(raw, TINY)
            except BrokenSampleError as error:
                report.broken.append(str(error))
                continue
            if sample.label < -1 or (classes is not None and sample.label >= len(classes)):
                report.broken.append(f"{shard.name}/{sample.key}: class {sample.label} is none of {len(classes or ())}")
    except Exception as error:  # tarfile raises errors of many types for malformed bytes
        why = error.args[0] if error.args else type(error).__name__
        report.broken.append(f"{shard.name}: {why} (after {len(report.keys)} samples)")
        report.ended_early = True


def _compare_keys(root: Root, split: str, manifest: Manifest, reports: Sequence[Report]) -> Iterator[str]:
    """Return a line for keys that occur twice, and for a list of keys that is not the one of the shards."""
    keys = [key for report in reports for key in report.keys]
    if len(set(keys)) < len(keys):
        twice = next(key for place, key in enumerate(keys) if key in keys[:place])
        yield f"{split}: {len(keys) - len(set(keys))} keys occur twice, as {twice!r} does"
    try:
        listed = root.keys(split)
    except (ValueError, OSError) as error:
        yield str(error)
        return
    if keys_file(split) not in manifest.files:
        return
    starts = accumulate((info.samples for info in manifest.splits[split]), initial=0)
    read = [(start, report.keys) for start, report in zip(starts, reports, strict=False) if not report.ended_early]
    if listed is None or any(listed[start : start + len(keys)] != keys for start, keys in read):
        yield f"{root.name}/{keys_file(split)} is missing or does not list the keys of the shards"


if __name__ == "__main__":
    sys.exit(main())
