"""Sweeps in bfloat16 beside float32: `python -m benchmarks.sweep_precision [--images 8] [--compile]`.

CPU time of a forward pass, in turns in one process, and how far M_F of two explainers moves on demo photographs. With
`--compile` a pass by `torch.compile` stands beside them; compiling takes minutes.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from statistics import median

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.pic import photographs
from benchmarks.timing import ratio
from dre.engine.allocation import keep_freed_memory
from dre.engine.perturbation import SweepEngine
from dre.explainers import EdgeDetector, GradCAM
from dre.metrics import Faithfulness
from dre.models import Classifier
from dre.runs.process import machine

EXPLAINERS = {"grad_cam": GradCAM, "edge_detector": EdgeDetector}


def cpu_seconds(actions: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Call every action in turn; the CPU seconds of each, which a busy machine moves less than its clock."""
    taken: dict[str, list[float]] = {name: [] for name in actions}
    for number in range(repeats + 1):  # the first round warms up
        for name, action in actions.items():
            start = time.process_time()
            action()
            if number:
                taken[name].append(time.process_time() - start)
    return taken


def m_f(engine: SweepEngine, images: Tensor, targets: Tensor, saliency: Tensor, keys: list[str], steps: int) -> Tensor:
    """Return M_F of each image."""
    metric = Faithfulness(steps=steps)
    read = engine.run(images, targets, saliency, list(metric.sweeps.values()), keys)
    metric.update(**dict(zip(metric.sweeps, read, strict=True)))
    return metric.latest


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--steps", type=int, default=10, help="areas of M_F")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    classifier = Classifier("tf_efficientnet_lite0", weights="package")
    images, keys = photographs(arguments.images)
    engines = {name: SweepEngine(classifier, precision=name) for name in ("float32", "bfloat16")}
    targets = classifier(images).argmax(dim=1)
    eight = images[:8].contiguous(memory_format=torch.channels_last), targets[:8]
    actions: dict[str, Callable[[], object]] = {
        name: partial(engine.logits, *eight) for name, engine in engines.items()
    }
    if arguments.compile:
        compiled = torch.compile(classifier.network)
        actions["float32, compiled"] = lambda: compiled(classifier.normalise(eight[0]))
    taken = cpu_seconds(actions, arguments.repeats)
    table = Table(f"forward pass of {len(eight[0])} images", "CPU ms an image", "times as fast")
    for name, times in taken.items():
        table.add_row(name, f"{1000 * median(times) / len(eight[0]):.1f}", f"{ratio(taken['float32'], times):.2f}")
    console = Console(width=110)
    console.print(table)
    table = Table("M_F x 100", "float32", "bfloat16 - float32", "single images, standard deviation", "largest")
    for name, build in EXPLAINERS.items():
        saliency = build(classifier)(images, targets, keys)
        asked = images, targets, saliency, keys, arguments.steps
        exact, moved = (m_f(one, *asked).double() * 100 for one in engines.values())
        change = moved - exact
        cells = [exact.mean(), change.mean(), change.std(), change.abs().max()]
        table.add_row(name, *(f"{float(cell):.2f}" for cell in cells))
        print(name, flush=True)
    table.caption = f"{arguments.images} photographs at 224 px, {arguments.steps} areas; {machine()}"
    console.print(table)


if __name__ == "__main__":
    main()
