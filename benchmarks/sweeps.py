"""Cost of a perturbation sweep over each fill beside one over a blur: `python -m benchmarks.sweeps [--images 8]`.

M_F at 11 areas of Grad-CAM's maps of demo photographs, all fills in turns in one process, passes included. The fill
`noisy_linear` solves a linear system for each mask; the others are made once an image.
"""

import argparse
from collections.abc import Callable
from functools import partial
from statistics import median

import torch
from torch import Tensor

from benchmarks.pic import photographs
from benchmarks.timing import in_turns, ratio
from dre.engine.allocation import keep_freed_memory
from dre.engine.perturbation import SweepEngine
from dre.explainers import GradCAM
from dre.metrics.m_f import FEWER_STEPS, area_sweep
from dre.models import Classifier
from dre.reporting.terminal import TextTable
from dre.runs.process import machine
from dre.types import Fill

TARGETS: dict[str, float] = {"noisy_linear": 3.0}
FILLS: tuple[Fill, ...] = ("blur", "image_mean", "black", "noise", "noisy_linear")


def sweep(
    classifier: Callable[[Tensor], Tensor],
    images: Tensor,
    targets: Tensor,
    saliency: Tensor,
    keys: list[str],
    fill: Fill,
) -> None:
    """Score the masked copies of M_F over one fill."""
    SweepEngine(classifier).run(images, targets, saliency, [area_sweep(FEWER_STEPS, fill)], keys)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    classifier = Classifier("tf_efficientnet_lite0", weights="package")
    images, keys = photographs(arguments.images)
    with torch.no_grad():
        targets = classifier(images).argmax(dim=1)
    saliency = GradCAM(classifier)(images, targets)
    times = in_turns(
        {str(fill): partial(sweep, classifier, images, targets, saliency, keys, fill) for fill in FILLS},
        arguments.repeats,
        warm_up=1,
    )
    table = TextTable("fill", "ms a map", "ms a masked copy", "times a blur", "at most")
    for name, taken in times.items():
        a_map = 1000 * median(taken) / arguments.images
        bound = f"{TARGETS[name]:g}" if name in TARGETS else ""
        copies = FEWER_STEPS + 1
        table.add_row(name, f"{a_map:.0f}", f"{a_map / copies:.1f}", f"{ratio(taken, times['blur']):.2f}", bound)
    table.title = f"M_F at {FEWER_STEPS} areas, EfficientNet-Lite0, {arguments.images} photographs at 224 px"
    table.caption = machine()
    print(table)


if __name__ == "__main__":
    main()
