"""Cost of training, explaining and scoring at scale: `python -m benchmarks.scale [--rate 2500] [--backward 2]`.

Passes are counted by running every explainer and metric, at its own settings, on one image with a small random network:
counts do not depend on the network. Time is passes over a given rate, or over the rate of `--measure NAME` on this
machine. The table is an estimate: passes are all the time, ranks share images evenly, the loader keeps up.
"""

import argparse
import warnings
from collections.abc import Iterator
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import nn

import dre.metrics
from benchmarks.timing import seconds
from dre.api import catalogue
from dre.engine.perturbation import SweepEngine
from dre.metrics import ImageMean
from dre.models import Classifier

GPUS = (1, 8, 64)
IMAGES = 50_000
IMAGENET, EPOCHS = 1_281_167, 10
SIDE, METRICS_SIDE = 64, 176
"""Pixels; MS-SSIM wants more than 160."""
EVALUATED = [
    "dre",
    "mgnet",
    "cam",
    "grad_cam",
    "grad_cam_plus_plus",
    "vanilla_gradient",
    "smooth_grad",
    "integrated_gradients",
    "blur_ig",
    "guided_ig",
    "samp",
    "deep_lift",
    "lrp",
    "rise",
]
SCORED = [
    "Faithfulness",
    "FaithfulnessFills",
    "Insertion",
    "Deletion",
    "Road",
    "SoftmaxInformationCurve",
    "AccuracyInformationCurve",
    "AverageDrop",
    "IncreaseInConfidence",
    "AverageDropInDeletion",
    "FaithfulnessCorrelation",
    "Explainability",
    "EnergyPointingGame",
    "PointingGame",
    "Entropy",
]
"""The evaluation of 14 explainers by 15 metrics that is estimated as a whole."""

LEARNED = {"dre": "one forward and the generator", "mgnet": "one forward and the generator"}


class Work(NamedTuple):
    """Passes of one image; `generator` is in forward passes of the classifier."""

    name: str
    forwards: float
    backwards: float = 0.0
    generator: float = 0.0
    images: int = IMAGES

    def equivalents(self, backward: float) -> float:
        """Forward passes that an image is worth."""
        return self.forwards + backward * self.backwards + self.generator


def small_classifier() -> Classifier:
    """Build a network with a map at every stride, which only counts."""
    torch.manual_seed(0)
    stages = [nn.Sequential(nn.Conv2d(3, 8, 3, 4, 1), nn.ReLU())]
    stages += [nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU()) for _ in range(3)]
    return Classifier.wrap(
        nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)), size=(SIDE,) * 2
    )


def training(generator: float) -> Iterator[Work]:
    """Return the passes of an image in a training step, which a test counts: tests/modules/test_training.py."""
    yield Work(f"DRE training, ImageNet x {EPOCHS} epochs", 2, 1, generator, IMAGENET * EPOCHS)


def explainers(generator: float) -> Iterator[Work]:
    """Count what each explainer asks of the classifier for one image; a pass through the head alone is left out."""
    classifier = small_classifier()
    image = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    for name, kind in sorted(catalogue().items()):
        if name in LEARNED:
            yield Work(name, 1, 0, generator / 3)  # forward alone
            continue
        try:
            explainer = kind(classifier)
            explainer(image, torch.zeros(1, dtype=torch.int64))
        except (ValueError, TypeError):  # needs a checkpoint, or another kind of network
            continue
        if explainer.cost.forwards:
            yield Work(name, explainer.cost.forwards, explainer.cost.backwards)


def sweep_passes(wanted: list[Any]) -> int:
    """Count the masked copies that sweeps ask for of one image and one explainer; equal ones are scored once."""
    side = METRICS_SIDE
    image, saliency = torch.rand(1, 3, side, side), torch.rand(1, 1, side, side)
    engine = SweepEngine(small_classifier())
    list(engine.batch(image, torch.zeros(1, dtype=torch.int64), ["image"]).scores(saliency, wanted))
    return engine.forwards


def evaluation(explained: list[Work]) -> Work:
    """Add up what an evaluation asks for: each explainer, and for each the sweeps that its metrics share."""
    asked = [sweep for name in SCORED for sweep in getattr(getattr(dre.metrics, name)(), "sweeps", {}).values()]
    works = [work for work in explained if work.name in EVALUATED]
    passes = len(works) * sweep_passes(list(dict.fromkeys(asked)))
    forwards, backwards = (sum(counts) for counts in zip(*(work[1:3] for work in works), strict=True))
    name = f"evaluation: {len(works)} explainers x {len(SCORED)} metrics"
    return Work(name, forwards + passes, backwards, sum(work.generator for work in works))


def metrics() -> Iterator[Work]:
    """Count the masked versions that each metric asks for by itself, of one image and one explainer."""
    for name in sorted(dre.metrics.__all__):
        kind = getattr(dre.metrics, name)
        if not (isinstance(kind, type) and issubclass(kind, ImageMean)) or kind is ImageMean:
            continue
        try:
            metric = kind()
            wanted = list(getattr(metric, "sweeps", {}).values())
        except TypeError:
            continue
        if wanted:
            fill = getattr(wanted[0], "fill", "")
            yield Work(f"{name}, fill noisy_linear" if fill == "noisy_linear" else name, sweep_passes(wanted))


def measured(name: str, batch: int = 16) -> tuple[float, float]:
    """Forward passes a second of a network with random weights here, and a backward pass to its input in forwards."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    classifier = Classifier(name).to(device)
    images = classifier.sample(batch)

    def finish() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    def forward() -> None:
        with torch.no_grad():
            classifier(images)
        finish()

    def both() -> None:
        leaf = images.clone().requires_grad_()
        torch.autograd.grad(classifier(leaf).sum(), leaf)
        finish()

    pairs = [(seconds(forward), seconds(both)) for _ in range(6)][1:]
    alone = median(pair[0] for pair in pairs)
    return batch / alone, max(0.0, median(pair[1] / pair[0] for pair in pairs) - 1)


def duration(value: float) -> str:
    """Write seconds in the largest unit that leaves at least one."""
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("min", 60.0), ("s", 1.0)):
        if value >= size:
            return f"{value / size:.1f} {unit}"
    return f"{1000 * value:.1f} ms"


def table(works: list[Work], rate: float, backward: float) -> Iterator[str]:
    """Rows of a Markdown table."""
    machines = " | ".join(f"{gpus} GPU" if gpus == 1 else f"{gpus} GPUs" for gpus in GPUS)
    yield f"| work | F | B | worth F | an image | images | {machines} |"
    yield "|---|" + "---:|" * (5 + len(GPUS))
    for work in works:
        equivalents = work.equivalents(backward)
        total = [duration(work.images * equivalents / rate / gpus) for gpus in GPUS]
        row = [f"{work.forwards:g}", f"{work.backwards:g}", f"{equivalents:.1f}", duration(equivalents / rate)]
        yield f"| {work.name} | {' | '.join([*row, f'{work.images:,}', *total])} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rate", type=float, default=2500.0, help="forward passes a second of one GPU")
    parser.add_argument("--backward", type=float, default=2.0, help="a backward pass to the input, in forward passes")
    parser.add_argument("--generator", type=float, default=1.0, help="generator there and back, in forward passes")
    parser.add_argument("--measure", help="a network whose rate and backward pass are measured here instead")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    rate, backward = measured(arguments.measure) if arguments.measure else (arguments.rate, arguments.backward)
    origin = f"measured here for {arguments.measure}" if arguments.measure else "given"
    print(f"{rate:g} forward passes a second ({origin}), a backward pass is worth {backward:.2f} of them\n")
    explained = list(explainers(arguments.generator))
    works = [*training(arguments.generator), *explained, *metrics(), evaluation(explained)]
    print("\n".join(table(works, rate, backward)))
    needed = rate / works[0].equivalents(backward)
    print(f"\nThe loader of a training then decodes {needed:.0f} images a second for each GPU.")


if __name__ == "__main__":
    main()
