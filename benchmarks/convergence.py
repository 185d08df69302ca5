"""Error of integrated and sampled maps over passes: `python -m benchmarks.convergence [--images 4] [--figure FILE]`.

Integrated gradients and BlurIG on equal steps, on bisected ones (`steps: auto`) and, of the former, by captum;
SmoothGrad and RISE by published and by antithetic draws. Figures do not depend on the machine's speed.
"""

import argparse
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.pic import photographs
from dre.engine.allocation import keep_freed_memory
from dre.engine.gradients import Probe
from dre.explainers import RISE, BlurPath, SmoothGrad, StraightPath, idgi, riemann
from dre.explainers.base import Explainer
from dre.explainers.paths.integration import Integral, integrate
from dre.models import Classifier
from dre.runs.process import machine
from dre.types import IntegrationPath

PASSES = (16, 32, 64, 128)
PIECES = 256
"""Equal pieces of the path whose map is the reference."""
TOLERANCE = 0.01
TIMES = 3
"""Times as many passes as an image took to the tolerance, which captum is given."""
SAMPLES = (8, 32)
MASKS = (64, 256)
Curves = dict[str, dict[int, list[float]]]
"""By name of a curve: passes, and a value for each image."""


@dataclass
class RememberingProbe(Probe):
    """Take each gradient once, whoever asks: points of nested grids and of bisected paths are often the same."""

    known: dict[bytes, tuple[Tensor, Tensor]] = field(default_factory=dict)
    asked: int = 0

    def gradient(self, images: Tensor, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """See `Probe`."""
        names = [image.contiguous().numpy().tobytes()[::997] for image in images]
        new = {name: row for row, name in enumerate(names) if name not in self.known}
        self.asked += len(names)
        if new:
            taken = super().gradient(images[list(new.values())], torch.zeros(len(new), dtype=torch.int64))
            self.known |= dict(zip(new, zip(*taken, strict=True), strict=True))
        scores, gradients = zip(*(self.known[name] for name in names), strict=True)
        return torch.stack(scores), torch.stack(gradients)

    def gradients(self, stops: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """See `Probe`."""
        for stop in stops:
            yield stop, *self.gradient(stop)

    def scores(self, images: Tensor, rows: Tensor | None = None) -> Tensor:
        """See `Probe`."""
        return self.gradient(images)[0]


def gap_share(integral: Integral, change: float) -> float:
    """Return the gap of completeness as a share of the change in score."""
    return float(integral.gap) / abs(change)


def sum_share(attribution: Tensor, change: float) -> float:
    """Return how far a map's sum is from the change in score, as a share of it."""
    return abs(float(attribution.double().sum()) - change) / abs(change)


def distance(integral: Tensor, reference: Tensor) -> float:
    """Return the distance of a map from the reference as a share of the reference's length, L2 over pixels."""
    one, other = integral.sum(1), reference.sum(1)
    return float((one - other).norm() / other.norm())


def captum_maps(classifier: Classifier, image: Tensor, target: Tensor, counts: Sequence[int]) -> dict[int, Tensor]:
    """Return captum's maps by passes, by its default quadrature; empty where it is not installed."""
    try:
        from captum.attr import IntegratedGradients
    except ImportError:
        return {}
    explainer = IntegratedGradients(lambda pixels: classifier(pixels).softmax(1))
    return {
        passes: explainer.attribute(image, target=target, n_steps=passes, internal_batch_size=8).detach()
        for passes in counts
    }


def straight(classifier: Classifier, image: Tensor, target: Tensor, curves: Curves) -> None:
    """Add the gaps and errors of one image's integrated gradients."""
    probe = RememberingProbe(classifier, target, "probability")

    def walked(path: IntegrationPath) -> list[Integral]:
        return integrate(path, [riemann, idgi], image, probe)

    exact = walked(StraightPath(steps=PIECES + 1))
    change = float(probe.scores(image) - probe.scores(image * 0))
    ways: dict[str, Callable[[int], IntegrationPath]] = {
        "trapezoid": lambda passes: StraightPath(steps=passes + 1),
        "midpoint": lambda passes: StraightPath(steps=passes, quadrature="midpoint"),
        "bisected": lambda passes: StraightPath(steps="auto", tolerance=1e-9, max_steps=passes + 1),
    }
    for name, path in ways.items():
        for passes in PASSES:
            plain, shared = walked(path(passes))
            curves[f"gap, {name}"][passes].append(gap_share(plain, change))
            curves[f"map, {name}"][passes].append(distance(plain.attribution, exact[0].attribution))
            curves[f"IDGI map, {name}"][passes].append(distance(shared.attribution, exact[1].attribution))
    for passes, attribution in captum_maps(classifier, image, target, PASSES).items():
        curves["gap, captum"][passes].append(sum_share(attribution, change))
        curves["map, captum"][passes].append(distance(attribution, exact[0].attribution))
    stopped(walked, probe, StraightPath(steps="auto", tolerance=TOLERANCE), change, curves, "auto")
    thrice = TIMES * round(curves["auto, passes"][0][-1])
    for attribution in captum_maps(classifier, image, target, [thrice]).values():
        curves["captum with three times as many passes, gap"][0].append(sum_share(attribution, change))


def blurred(classifier: Classifier, image: Tensor, target: Tensor, curves: Curves) -> None:
    """Add the gaps of one image's BlurIG."""
    probe = RememberingProbe(classifier, target, "probability")

    def walked(path: IntegrationPath) -> list[Integral]:
        return integrate(path, [riemann], image, probe)

    start = BlurPath().placing(image, probe)(0.0)[0]
    change = float(probe.scores(image) - probe.scores(start))
    for passes in PASSES:
        (equal,) = walked(BlurPath(steps=passes + 1))
        (chosen,) = walked(BlurPath(steps="auto", tolerance=1e-9, max_steps=passes + 1))
        curves["BlurIG gap, trapezoid"][passes].append(gap_share(equal, change))
        curves["BlurIG gap, bisected"][passes].append(gap_share(chosen, change))
    stopped(walked, probe, BlurPath(steps="auto", tolerance=TOLERANCE), change, curves, "BlurIG auto")


def stopped(
    walked: Callable[[IntegrationPath], list[Integral]],
    probe: RememberingProbe,
    path: IntegrationPath,
    change: float,
    curves: Curves,
    name: str,
) -> None:
    """Add how many passes one image takes to the tolerance, and its gap there."""
    probe.asked = 0
    integral = walked(path)[0]
    curves[f"{name}, passes"][0].append(float(probe.asked))
    curves[f"{name}, gap"][0].append(gap_share(integral, change))


def spread(build: Callable[..., Explainer], image: Tensor, target: Tensor) -> float:
    """Return the standard error of a map, from two seeds, as a share of its range."""
    one, other = (build(seed=seed)(image, target, ["image"]) for seed in (1, 2))
    return float((one - other).square().mean().sqrt() / 2**0.5 / (one.max() - one.min()))


def sampled(classifier: Classifier, image: Tensor, target: Tensor, curves: Curves) -> None:
    """Add the standard errors of one image's SmoothGrad and RISE."""
    signed: dict[str, Any] = {"kind": "signed", "reduce": "sum"}
    for name, antithetic in (("published", False), ("antithetic", True)):
        for start, kind, count_of, counts, options in (
            ("SmoothGrad", SmoothGrad, "samples", SAMPLES, {}),
            ("signed SmoothGrad", SmoothGrad, "samples", SAMPLES, signed),
            ("RISE", RISE, "masks", MASKS, {}),
        ):
            build: Callable[..., Explainer] = partial(kind, classifier, antithetic=antithetic, **options)
            for count in counts:
                error = spread(partial(build, **{count_of: count}), image, target)
                curves[f"{start}, {name}"][count].append(error)


def report(curves: Curves, starts: Sequence[str], title: str) -> Table:
    """Write the means over the images, a row for each curve that begins with one of `starts`."""
    chosen = {name: curve for name, curve in curves.items() if name.startswith(tuple(starts))}
    columns = sorted({passes for curve in chosen.values() for passes in curve})
    table = Table("", *map(str, columns), title=title)
    for name, curve in chosen.items():
        table.add_row(name, *(f"{mean(curve[passes]):.4f}" if passes in curve else "" for passes in columns))
    return table


def draw(curves: Curves, path: Path) -> None:
    """Draw errors over passes: gap and map of integrated gradients, standard errors of draws."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    panels = {
        "Integrated gradients: gap": ("gap, ",),
        "Integrated gradients: map": ("map, ",),
        "BlurIG: gap": ("BlurIG gap, ",),
        "RISE and SmoothGrad: standard error": ("RISE, ", "SmoothGrad, ", "signed SmoothGrad, "),
    }
    for axes, (title, starts) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        for name, curve in curves.items():
            if name.startswith(starts):
                label = name if len(starts) > 1 else name.partition(", ")[2]
                dashes = "--" if name.endswith("published") else "-"
                axes.loglog(list(curve), [mean(values) for values in curve.values()], dashes, marker=".", label=label)
        passes = sorted({count for name, curve in curves.items() if name.startswith(starts) for count in curve})
        axes.set(title=title, xlabel="passes", xticks=passes, xticklabels=passes)
        axes.minorticks_off()
        axes.title.set_fontsize(9)
        axes.legend(fontsize=6)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--figure", type=Path, help="where the curves are drawn")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    classifier = Classifier("tf_efficientnet_lite0", weights="package")
    images, _ = photographs(arguments.images)
    with torch.no_grad():
        targets = classifier(images).argmax(dim=1)
    curves: Curves = defaultdict(lambda: defaultdict(list))
    for number in range(arguments.images):
        image, target = images[number : number + 1], targets[number : number + 1]
        for measure in (straight, blurred, sampled):
            measure(classifier, image, target, curves)
        print(f"{number + 1} of {arguments.images} photographs", flush=True)
    console = Console(width=120)
    console.print(report(curves, ["gap", "map", "IDGI"], f"Integrated gradients, {PIECES} pieces as reference"))
    console.print(report(curves, ["BlurIG gap"], "BlurIG: gap as a share of the change in score"))
    console.print(report(curves, ["SmoothGrad", "signed", "RISE"], "Standard error as a share of the map's range"))
    for name in ("auto", "BlurIG auto"):
        passes, gaps = curves[f"{name}, passes"][0], curves[f"{name}, gap"][0]
        console.print(f"{name} at {TOLERANCE:g}: passes {passes}, mean {mean(passes):.1f}; mean gap {mean(gaps):.4f}")
    if thrice := curves["captum with three times as many passes, gap"][0]:
        console.print(f"captum with {TIMES} times as many passes: mean gap {mean(thrice):.4f}")
    console.print(machine())
    if arguments.figure is not None:
        draw(curves, arguments.figure)


if __name__ == "__main__":
    main()
