"""Speed of the training loader beside bare decoding: `python -m benchmarks.loader shards/imagenet shards/birds`.

The bare loop opens the same images by the same decoder, from memory, in as many processes as the loader has workers; an
epoch of the loader and the loop run in turns. Then a table says what each step of one sample costs. `--enlarge 500 375`
measures JPEGs of that size, which are made from the photographs by enlarging: about as many bytes and blocks to decode
as large photographs, with less detail.
"""

import argparse
import os
import random
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

import torch
from PIL import Image

from benchmarks.timing import in_turns, ratio
from data import ShardDataModule
from data.loader import collate_training
from data.samples import IMAGE_SUFFIXES, Transform, decode, load_sample
from data.streams import Drawn
from dre.engine.allocation import keep_freed_memory
from dre.images.decode import open_picture
from dre.reporting.terminal import TextTable
from dre.runs.process import machine
from dre.types import Preprocessing


def open_data(root: str, arguments: argparse.Namespace, workers: int) -> ShardDataModule:
    data = ShardDataModule(
        root,
        batch_size=arguments.batch,
        workers=workers,
        epoch_images=arguments.images,
        crop_scale=(0.08, 1.0) if arguments.random_resized else None,
        verify="size",
        reduced_decoding=arguments.reduced,
        preprocessing=Preprocessing(size=(224, 224), resize=256),
    )
    data.setup("fit")
    return data


def enlarged(root: str, size: tuple[int, int], folder: Path, count: int) -> str:
    """Write training photographs of a data set as JPEGs of (width, height); return the folder."""
    data = ShardDataModule(root, verify="size")
    data.setup("fit")
    raws = (raw for shard in data._open("train") for raw in shard.stream())
    place = folder / f"{Path(root).name}_{size[0]}x{size[1]}" / "photographs"
    place.mkdir(parents=True)
    for number, raw in enumerate(islice(raws, count)):
        picture = open_picture(image_of(raw)).convert("RGB").resize(size, Image.Resampling.BICUBIC)
        picture.save(place / f"{number:06d}.jpg", quality=90)
    return str(place.parent)


def image_of(raw: dict[str, bytes]) -> bytes:
    return next(raw[name] for name in IMAGE_SUFFIXES if name in raw)


def decode_bare(images: Sequence[bytes]) -> None:
    for image in images:
        open_picture(image).load()


def measure(root: str, arguments: argparse.Namespace, workers: int) -> dict[str, list[float]]:
    """Return the seconds of an epoch of the loader, start of its workers included, and of the bare loop."""
    data = open_data(root, arguments, workers)
    loader = data.train_dataloader()
    images = [image_of(raw) for shard in data._open("train") for raw in shard.stream()]
    images = (images * (arguments.images // len(images) + 1))[: len(loader) * arguments.batch]
    parts = [images[worker::workers] for worker in range(workers)]
    with ProcessPoolExecutor(workers, get_context("fork"), initializer=_take, initargs=(parts,)) as pool:
        return in_turns(
            {"loader": lambda: list(map(len, loader)), "bare": lambda: list(pool.map(_decode_part, range(workers)))},
            arguments.repeats,
            warm_up=1,
        )


_PARTS: list[list[bytes]] = []


def _take(parts: list[list[bytes]]) -> None:
    _PARTS[:] = parts


def _decode_part(part: int) -> None:
    decode_bare(_PARTS[part])


def steps_of(root: str, arguments: argparse.Namespace) -> dict[str, Callable[[], object]]:
    """Return the steps of `arguments.batch` samples in one process, each with all that comes before it."""
    data = open_data(root, arguments, 0)
    shard = data._open("train")[0]
    places = range(min(arguments.batch, shard.samples))
    raws = [shard.read(place) for place in places]
    transform: Transform = data.train_dataloader().stream.transform

    def load() -> Drawn:
        return Drawn([load_sample(raw, transform, random.Random(f"0/{place}")) for place, raw in enumerate(raws)])

    return {
        "decode in a bare loop": lambda: decode_bare([image_of(raw) for raw in raws]),
        "stand upright, RGB": lambda: [decode(image_of(raw), 3) for raw in raws],
        "json, boxes, crop, resize, flip": load,
        "stack": lambda: collate_training(load()),
        "read from the shard": lambda: ([shard.read(place) for place in places], collate_training(load())),
    }


def cpu_seconds(action: Callable[[], object]) -> float:
    """CPU time of one call, its processes included once they have ended: other programs hardly change it."""
    start, ended = time.process_time(), resource.getrusage(resource.RUSAGE_CHILDREN)
    action()
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    own = time.process_time() - start
    return own + children.ru_utime + children.ru_stime - ended.ru_utime - ended.ru_stime


def profile(root: str, arguments: argparse.Namespace) -> TextTable:
    """Say what each step adds, in milliseconds of CPU time an image, the least of the rounds."""
    steps = steps_of(root, arguments)
    rounds = [{name: cpu_seconds(step) for name, step in steps.items()} for _ in range(3 * arguments.repeats)]
    loader = open_data(root, arguments, 1).train_dataloader()
    epochs = [cpu_seconds(lambda: list(map(len, loader))) for _ in range(arguments.repeats)]
    table = TextTable("step", "ms of CPU", "all so far", title=f"{root}, one process")
    before = 0.0
    for name in steps:
        now = min(each[name] for each in rounds) / arguments.batch * 1000
        table.add_row(name, f"{now - before:.3f}", f"{now:.3f}")
        before = now
    now = min(epochs) / (len(loader) * arguments.batch) * 1000
    table.add_row("an epoch by a worker, its start and the main process included", f"{now - before:.3f}", f"{now:.3f}")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("roots", nargs="+", help="packed data sets with a split `train`")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--cpu", action="store_true", help="CPU time alone, where the machine is busy")
    parser.add_argument("--images", type=int, default=2000, help="of an epoch")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--enlarge", type=int, nargs=2, metavar=("WIDTH", "HEIGHT"), help="of JPEGs made for this")
    parser.add_argument("--reduced", action="store_true", help="with `reduced_decoding` of the data module")
    parser.add_argument("--random-resized", action="store_true", help="random resized crops, not crops alone")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()  # as train.py does
    with tempfile.TemporaryDirectory() as folder:
        if arguments.enlarge:
            size, most = tuple(arguments.enlarge), 2 * max(arguments.batch, 256)
            arguments.roots = [enlarged(root, size, Path(folder), most) for root in arguments.roots]
        if not arguments.cpu:
            print(compare(arguments))
        for root in arguments.roots:
            print(profile(root, arguments))


def compare(arguments: argparse.Namespace) -> TextTable:
    """Return the rates of all data sets in wall time."""
    table = TextTable("data", "workers", "bare, images/s", "loader, images/s", "loader / bare", title="training loader")
    started = time.perf_counter()
    for root in arguments.roots:
        for workers in arguments.workers:
            seconds = measure(root, arguments, workers)
            images = arguments.images // arguments.batch * arguments.batch
            rates = [images / sorted(seconds[name])[len(seconds[name]) // 2] for name in ("bare", "loader")]
            share = ratio(seconds["bare"], seconds["loader"])
            table.add_row(root, str(workers), *(f"{rate:.0f}" for rate in rates), f"{100 * share:.0f} %")
    cores = len(os.sched_getaffinity(0))
    table.caption = f"{machine()}; may use {cores} of them; {time.perf_counter() - started:.0f} s"
    return table


if __name__ == "__main__":
    main()
