"""Passes of a notebook with and without freed memory kept: `python -m benchmarks.notebook`.

Each setting runs in a process of its own, in turns: CPU time of `dre.explain` for an image, beside that of bare forward
passes, and the memory that the process holds at the end.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from statistics import median

import torch

import dre
from dre.engine.allocation import SWITCH
from dre.models import Classifier
from dre.reporting.terminal import TextTable
from dre.runs.process import machine

SETTINGS = {"kept": "1", "given back": "0"}
PAGE = os.sysconf("SC_PAGE_SIZE")


def resident_megabytes() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * PAGE / 1e6


def cpu_milliseconds(action: Callable[[], object], calls: int, images: int) -> float:
    action()
    start = time.process_time()
    for _ in range(calls):
        action()
    return 1000 * (time.process_time() - start) / calls / images


def measure(arguments: argparse.Namespace) -> None:
    """Print the figures of this process: milliseconds of a pass and of an explanation, and megabytes."""
    torch.set_num_threads(arguments.threads)
    classifier = Classifier("tf_efficientnet_lite0", weights="package")
    images = torch.rand(arguments.batch, 3, 224, 224)
    explain = partial(dre.explain, classifier, images, method="grad_cam")
    explain()  # settles what happens to freed memory
    with torch.no_grad():
        bare = cpu_milliseconds(lambda: classifier(images), arguments.calls, arguments.batch)
    ours = cpu_milliseconds(explain, arguments.calls, arguments.batch)
    print(bare, ours, resident_megabytes())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--calls", type=int, default=20)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        measure(arguments)
        return
    found: dict[str, list[list[float]]] = {name: [] for name in SETTINGS}
    for _ in range(arguments.repeats):
        for name, value in SETTINGS.items():
            command = [sys.executable, "-m", "benchmarks.notebook", "--inside", *sys.argv[1:]]
            run = subprocess.run(command, env=os.environ | {SWITCH: value}, capture_output=True, text=True, check=True)
            found[name].append([float(word) for word in run.stdout.split()])
    table = TextTable("freed memory", "ms a forward", "ms of dre.explain", "resident MB")
    middle = {name: [median(column) for column in zip(*runs, strict=True)] for name, runs in found.items()}
    for name, (bare, ours, megabytes) in middle.items():
        table.add_row(name, f"{bare:.1f}", f"{ours:.1f}", f"{megabytes:.0f}")
    ratios = [middle["given back"][place] / middle["kept"][place] for place in range(2)]
    table.add_row("given back / kept", f"{ratios[0]:.2f}", f"{ratios[1]:.2f}", "")
    table.title = f"CPU time an image, EfficientNet-Lite0 at 224 px, Grad-CAM, batches of {arguments.batch}"
    table.caption = machine()
    print(table)


if __name__ == "__main__":
    main()
