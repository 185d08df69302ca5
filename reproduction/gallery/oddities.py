"""Measurements of visible artefacts in maps: `python -m reproduction.gallery.oddities`.

Each part prints one line for each photograph: the dots on a lattice that strides leave, the gradient beside central
differences, how much noise below a grey level changes it, which pixels SAMP takes in two precisions, how much of a map
lies on the frame of the image, and how alike RISE's maps are to the mean of its masks.
"""

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor

from dre.engine.gradients import Probe
from dre.explainers import RISE, GuidedBackprop, IntegratedGradients, VanillaGradient, idgi
from dre.explainers.paths.samp import SampPath
from dre.explainers.perturbation.cell_masks import CellMasks
from dre.images.fill import Baseline
from dre.models import Classifier
from dre.runs.process import machine
from reproduction.gallery.showcase import DEMO, demo_batch

STEPS = 4
"""Of SAMP's walk, compared between precisions."""
FRAME = 4
"""Pixels on each side: 7 % of 224 x 224."""


def lattice(maps: Tensor) -> Tensor:
    """Return the mean of each of the four phases of a 2 x 2 lattice over the mean of the map, [B, 4]."""
    phases = torch.stack([maps[..., row::2, column::2].mean((1, 2, 3)) for row in (0, 1) for column in (0, 1)], dim=1)
    return phases / maps.mean((1, 2, 3))[:, None]


def central_differences(probe: Probe, image: Tensor, places: Tensor, width: float = 1e-4) -> Tensor:
    """Return the slope of the score at some values of an image [1, C, H, W], [N]."""
    moves = torch.zeros(len(places), image.numel(), dtype=image.dtype).scatter_(1, places[:, None], width)
    moves = moves.view(-1, *image.shape[1:])
    rows = torch.zeros(len(places), dtype=torch.long)
    return (probe.scores(image + moves, rows) - probe.scores(image - moves, rows)) / (2 * width)


def correlation(one: Tensor, other: Tensor) -> float:
    """Pearson's."""
    return float(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]).double())[0, 1])


def slope_check(classifier: Classifier, image: Tensor, target: Tensor) -> float:
    """Correlation of the gradient with central differences at 64 values of one image, in float64."""
    probe = Probe(classifier, target, "logit")
    image = image.double()
    places = torch.randperm(image.numel(), generator=torch.Generator().manual_seed(0))[:64]
    return correlation(probe.gradient(image)[1].flatten()[places], central_differences(probe, image, places))


def noise_change(classifier: Classifier, image: Tensor, target: Tensor, sigma: float = 1e-4) -> float:
    """Return how far noise moves the gradient of one image, over its norm."""
    probe = Probe(classifier, target, "logit")
    noise = sigma * torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    plain, shaken = probe.gradient(image)[1], probe.gradient(image + noise)[1]
    return float((shaken - plain).norm() / plain.norm())


def walked(classifier: Classifier, image: Tensor, target: Tensor) -> list[Tensor]:
    """Return which pixels move in each of the first steps of SAMP's deletion walk."""
    stops = SampPath(direction="deletion").walk(image, Probe(classifier, target, "probability"))
    return [stop.step.abs().sum(1) > 0 for _, stop in zip(range(STEPS), stops, strict=False)]


def shared_pixels(single: Classifier, double: Classifier, image: Tensor, target: Tensor) -> list[float]:
    """Return the share of the pixels of each step that two precisions have in common."""
    pairs = zip(walked(single, image, target), walked(double, image.double(), target), strict=True)
    return [float((one & other).sum() / one.sum()) for one, other in pairs]


def frame_share(classifier: Classifier, image: Tensor, target: Tensor, steps: int, baseline: Baseline) -> float:
    """Return the share of the map of integrated gradients with IDGI that lies on the image's frame."""
    saliency = IntegratedGradients(classifier, steps=steps, baseline=baseline, rule=idgi)(image, target).abs()
    return float(1 - saliency[..., FRAME:-FRAME, FRAME:-FRAME].sum() / saliency.sum())


def mask_likeness(rise: RISE, image: Tensor, target: Tensor) -> float:
    """Correlation of a map of RISE with the mean of its masks."""
    size = (image.shape[-2], image.shape[-1])
    masks = CellMasks.draw(rise.most, rise.cells, rise.keep, size, rise.seed, like=image)
    return correlation(rise(image, target), masks.build(slice(None)).mean(0))


def report(title: str, keys: Iterable[str], values: Callable[[int], list[float]]) -> None:
    """Print a line for each photograph as soon as it is known."""
    print(title)
    for place, key in enumerate(keys):
        print(f"  {key:24}", *(f"{value:8.4f}" for value in values(place)), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEMO)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--masks", type=int, default=1000, help="of RISE")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    single = Classifier("tf_efficientnet_lite0", weights="package")
    double = Classifier("tf_efficientnet_lite0", weights="package").double()
    images, targets, keys = demo_batch(arguments.data, arguments.images, single)
    print(machine())

    def each(measure: Callable[[Tensor, Tensor], float | list[float]]) -> Callable[[int], list[float]]:
        def values(place: int) -> list[float]:
            found = measure(images[place : place + 1], targets[place : place + 1])
            return found if isinstance(found, list) else [found]

        return values

    for kind in (VanillaGradient, GuidedBackprop):
        phases = lattice(kind(single)(images, targets, keys).abs())
        report(f"phases of a 2 x 2 lattice, {kind.__name__}", keys, [row.tolist() for row in phases].__getitem__)
    report("gradient and central differences", keys, each(lambda one, target: slope_check(double, one, target)))
    report("change of the gradient by noise of 1e-4", keys, each(lambda one, target: noise_change(single, one, target)))
    report("pixels that SAMP's steps share", keys, each(lambda one, target: shared_pixels(single, double, one, target)))
    frames: list[tuple[int, Baseline]] = [(4, "black"), (4, "dataset_mean"), (64, "black")]
    report(
        f"share of IG with IDGI on a frame of {FRAME} pixels: {frames}",
        keys,
        each(lambda one, target: [frame_share(single, one, target, *frame) for frame in frames]),
    )
    rise = RISE(single, masks=arguments.masks)
    report(
        f"RISE and its mean mask, {rise.masks} masks",
        keys,
        each(lambda one, target: [mask_likeness(rise, one, target)]),
    )


if __name__ == "__main__":
    main()
