"""Speed of explainers beside their passes and other libraries: `python -m benchmarks.explainers [--threads 1]`.

The floor of an explainer is what its counted passes would cost as best-batched passes, several in a row, and nothing
else. Counts of steps, samples and masks are small, so that the table is done in minutes; ratios hardly depend on them.
"""

import argparse
import functools
import time
from collections.abc import Callable
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks import peers
from benchmarks.timing import in_turns, ratio
from dre import explainers
from dre.engine.allocation import keep_freed_memory
from dre.explainers import Explainer, idgi
from dre.models import Classifier
from dre.reporting.terminal import TextTable
from dre.runs.process import machine

STEPS = 16
MASKS = 64
PIECE = 8
"""Images of one pass, for ours, for the floor and for the peers."""

IN_A_ROW = 4
"""Passes that the floor is measured over: the first one after other work finds cold caches."""


class Case(NamedTuple):
    """Describe one line of the table.

    `floor` is the most that ours may cost over its floor, `faster` the least that the peer may cost over ours. `passes`
    are the forwards and backwards of an image that the floor stands for, where they are not those that are counted.
    """

    name: str
    build: Callable[[Classifier], Explainer]
    floor: float | None = None
    peer: peers.Peer | None = None
    peer_name: str = ""
    faster: float | None = None
    passes: tuple[float, float] | None = None


def _case(
    name: str,
    floor: float | None = None,
    peer: peers.Peer | None = None,
    peer_name: str = "",
    faster: float | None = None,
    label: str = "",
    passes: tuple[float, float] | None = None,
    **options: Any,
) -> Case:
    build = functools.partial(getattr(explainers, name), **options)
    return Case(label or name, build, floor, peer, peer_name, faster, passes)


def _idgi(name: str, **options: Any) -> Case:
    """Set a path under IDGI beside the same path under its own rule, which may be at most 3 % faster."""
    path = peers.own(lambda c: getattr(explainers, name)(c, **options))
    return _case(name, None, path, "its path", 1 / 1.03, label=f"{name} + IDGI", rule=idgi, **options)


CASES = (
    _case("VanillaGradient", 1.15),
    _case(
        "IntegratedGradients",
        1.15,
        peers.captum_integrated_gradients(STEPS, PIECE),
        "captum",
        1.0,
        steps=STEPS,
        quadrature="midpoint",
    ),
    _idgi("IntegratedGradients", steps=STEPS, quadrature="left"),
    _idgi("BlurIG", steps=STEPS),
    _idgi("GuidedIG", steps=STEPS),
    _idgi("SAMP", steps=STEPS),
    _case("SmoothGrad", 1.15, peers.captum_smooth_grad(STEPS, PIECE), "captum", 1.0, samples=STEPS),
    _case("BlurIG", 1.15, peers.saliency_blur_ig(STEPS), "saliency", 1.3, steps=STEPS),
    _case("GuidedIG", 1.15, peers.saliency_guided_ig(STEPS), "saliency", 1.1, steps=STEPS),
    _case("SAMP", 1.15, steps=STEPS),
    _case("SAMPPlusPlus", 1.15, fragments=STEPS),
    _case("GGIG", 1.15, points=4, ascents=8),
    _case("GradCAM", 1.1, peers.grad_cam("GradCAM"), "pytorch-grad-cam", passes=(1, 0)),
    _case("GradCAMPlusPlus", 1.1, peers.grad_cam("GradCAMPlusPlus"), "pytorch-grad-cam", passes=(1, 0)),
    _case("RISE", 1.15, peers.plain_rise(MASKS, PIECE), "TorchRay's loop, written plainly", 2.0, masks=MASKS),
    _case(
        "DeepLift", 1.25, peers.captum_deep_lift, "captum", 1.2, passes=(2, 1)
    ),  # one of the image, one of a baseline
    _case("LRP", 2.2, peers.zennit_composite, "zennit", 3.0),
    _case("MeaningfulPerturbation", 1.5, iterations=STEPS),
    _case(
        "ExtremalPerturbation",
        1.35,
        peers.plain_extremal(STEPS),
        "TorchRay's loop, written plainly",
        1.8,
        iterations=STEPS,
    ),
    _case("FeatureInversion", iterations=STEPS),
    _case("LIME", samples=MASKS),
)


def measure(
    case: Case, classifier: Classifier, images: Tensor, targets: Tensor, repeats: int, cpu: bool = False
) -> list[str]:
    """Return one line of the table: milliseconds an image, ratio to the floor and to the peer, beside their bounds.

    Times are the middle of the repeats, or the shortest CPU times of each action.
    """
    explainer = case.build(classifier)
    explainer(images, targets)
    forwards, backwards = explainer.cost.forwards / len(images), explainer.cost.backwards / len(images)
    floor_forwards, floor_backwards = case.passes or (forwards, backwards)
    actions = {
        "forward": lambda: [forward(classifier, images) for _ in range(IN_A_ROW)],
        "both": lambda: [forward_backward(classifier, images, targets) for _ in range(IN_A_ROW)],
        "ours": lambda: explainer(images, targets),
    }
    try:
        if case.peer is not None:
            actions["peer"] = case.peer(classifier, images, targets)
    except ImportError as missing:
        print(f"{case.name}: {missing}; no peer")
    times = in_turns(actions, repeats, warm_up=1, clock=time.process_time if cpu else time.perf_counter)
    if cpu:
        times = {name: [min(taken)] for name, taken in times.items()}
    floor = [
        ((floor_forwards - floor_backwards) * forward + floor_backwards * both) / IN_A_ROW
        for forward, both in zip(times["forward"], times["both"], strict=True)
    ]
    line = [case.name, f"{forwards:g} + {backwards:g}", f"{1000 * median(times['ours']) / len(images):.0f}"]
    line += [f"{ratio(times['ours'], floor):.2f}", f"{case.floor:.2f}" if case.floor else ""]
    if "peer" in times:
        least = f"{case.faster:.2f}" if case.faster else ""
        line += [case.peer_name, f"{ratio(times['peer'], times['ours']):.2f}", least]
    return line


def batch_of(classifier: Classifier) -> tuple[Tensor, Tensor]:
    """Draw images of the classifier's size, and targets, where the classifier is."""
    images = torch.rand(PIECE, 3, *classifier.preprocessing.size).contiguous(memory_format=torch.channels_last)
    return images.to(classifier.mean.device), torch.arange(PIECE, device=classifier.mean.device)


def forward(classifier: Classifier, images: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = classifier(images)
    return logits


def forward_backward(classifier: Classifier, images: Tensor, targets: Tensor) -> Tensor:
    pixels = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(classifier(pixels).softmax(1)[range(len(images)), targets].sum(), pixels)
    return gradient


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--classifier", default="tf_efficientnet_lite0")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cpu", action="store_true", help="shortest CPU times, for a machine that others share")
    parser.add_argument("--only", nargs="*", help="names of the table's first column; all when not given")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    keep_freed_memory()  # as train.py and evaluate.py do
    classifier = Classifier(arguments.classifier).to(arguments.device)
    images, targets = batch_of(classifier)
    table = TextTable(
        "explainer", "passes an image", "ms an image", "x floor", "at most", "peer", "x faster", "at least"
    )
    for case in CASES:
        if arguments.only and case.name not in arguments.only:
            continue
        line = measure(case, classifier, images, targets, arguments.repeats, arguments.cpu)
        print(*line, sep=" | ")  # as it is known, in case the run is broken off
        table.add_row(*line)
    table.title = f"Explainers on {arguments.classifier}, batch {PIECE}, forward + backward passes"
    table.caption = machine()
    print(table)


if __name__ == "__main__":
    main()
