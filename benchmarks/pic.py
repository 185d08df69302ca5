"""Speed of information curves beside the `saliency` package: `python -m benchmarks.pic [--images 8] [--large 2]`.

Four ways to a curve on the same maps, in turns in one process: the package (which wants 48 px photographs to finish),
ours by triangles (the same numbers), and two with another fill, which are other metrics: triangles between few pixels
and means of neighbours between many, with the size of a PNG file, and a blurred background with the entropy of grey
levels. Times include the classifier's passes, whose cost alone, for as many as the last counts, is the line "passes".
The package needs one alias to run with today's numpy.

`python -m benchmarks.pic --agreement 50 --side 224 --store DIR` says instead what the other fills are worth: rank
correlations with the curve by triangles, on the first photographs that all ways accept. Each photograph has a file in
DIR, so that it goes on where it was stopped.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from torch import Tensor

from benchmarks.timing import in_turns, ratio
from data import ShardDataModule
from dre.engine.allocation import keep_freed_memory
from dre.engine.perturbation import SweepEngine
from dre.explainers import (
    CentredGaussian,
    EdgeDetector,
    Explainer,
    GradCAM,
    GuidedBackprop,
    InputXGradient,
    IntegratedGradients,
    Random,
    VanillaGradient,
)
from dre.images.randomness import scattered_pixels
from dre.metrics import SoftmaxInformationCurve
from dre.metrics.information_curves import PAIR, InformationSettings
from dre.models import Classifier
from dre.reporting.terminal import TextTable
from dre.runs.process import machine
from dre.types import Interpolation

TARGET = 20
SMALL = 48
EXPLAINERS: dict[str, Callable[[Classifier], Explainer]] = {
    "grad_cam": GradCAM,
    "integrated_gradients": lambda classifier: IntegratedGradients(classifier, steps=16),
    "input_x_gradient": InputXGradient,
    "vanilla_gradient": VanillaGradient,
    "guided_backprop": GuidedBackprop,
    "edge_detector": EdgeDetector,
    "centred_gaussian": CentredGaussian,
    "random": Random,
}
EXACT = replace(PAIR, least=0.0)
WAYS = {
    "blur": replace(EXACT, fill="blur", information="grey_entropy", kept="top"),
    "mixed": replace(EXACT, fill=Interpolation(0.01, by="mixed"), information="png"),
    "exact": EXACT,
}
COMPARED = ("grad_cam", "integrated_gradients", "vanilla_gradient", "edge_detector", "random")
"""Explainers whose order is compared between fills: few, because the exact curve of one map takes seconds."""


def photographs(count: int) -> tuple[Tensor, list[str]]:
    """Read the first demo photographs, 224 px."""
    root = Path(__file__).parents[1] / "data" / "demo"
    classifier = Classifier("tf_efficientnet_lite0", weights="package")
    data = ShardDataModule(
        str(root), eval_batch_size=count, workers=0, limit=count, preprocessing=classifier.preprocessing
    )
    data.setup("test")
    batch = data.on_after_batch_transfer(next(iter(data.test_dataloader())), 0)
    return batch["images"], list(batch["key"])


def shrink(images: Tensor, side: int = SMALL) -> Tensor:
    """Bring photographs to another side, in 8 bits as the package reads them."""
    small = F.interpolate(images, (side, side), mode="bilinear", antialias=True, align_corners=False)
    return (small * 255).round() / 255


class Maps:
    """Hold photographs of one size, the classes that the classifier predicts, and a map of every explainer."""

    def __init__(
        self, classifier: Classifier, images: Tensor, keys: list[str], names: Sequence[str] = tuple(EXPLAINERS)
    ) -> None:
        self.classifier, self.images, self.keys = classifier, images, keys
        with torch.no_grad():
            self.targets = classifier(images).argmax(dim=1)
        self.saliency = {name: EXPLAINERS[name](classifier)(images, self.targets, keys) for name in names}

    def ours(self, settings: InformationSettings, names: list[str]) -> dict[str, np.ndarray]:
        """Return the areas of all photographs for these explainers, [B] each; what they share is computed once."""
        engine = SweepEngine(self.classifier)
        batch = engine.batch(self.images, self.targets, self.keys)
        areas = {}
        for name in names:
            metric = SoftmaxInformationCurve(settings)
            read = batch.scores(self.saliency[name], list(metric.sweeps.values()))
            metric.update(**dict(zip(metric.sweeps, read, strict=True)))
            areas[name] = metric.latest.numpy()
        self.forwards = engine.forwards
        return areas

    @torch.no_grad()
    def passes(self) -> None:
        """Run as many forward passes as ours counted last, eight images in each, and nothing else."""
        pixels = self.images[:8].contiguous(memory_format=torch.channels_last)
        for _ in range(round(self.forwards / len(pixels))):
            self.classifier(pixels)

    def package(self, pic: Any, names: list[str]) -> dict[str, np.ndarray]:
        """Ask the package, one map after the other."""
        return {name: np.array([self._one(pic, name, row) for row in range(len(self.images))]) for name in names}

    def _one(self, pic: Any, name: str, row: int) -> float:
        size = (self.images.shape[-2], self.images.shape[-1])
        try:
            result = pic.compute_pic_metric(
                img=(self.images[row] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy(),
                saliency_map=self.saliency[name][row, 0].double().numpy(),
                random_mask=scattered_pixels(self.keys[row].encode(), size, 0.01, 0).numpy(),
                pred_func=lambda pictures: self._predict(pictures, row),
                saliency_thresholds=list(PAIR.ratios[1:-1]),
                min_pred_value=0.0,
            )
        except pic.ComputePicMetricError:
            return np.nan
        return float(result.auc)

    def _predict(self, pictures: np.ndarray, row: int) -> np.ndarray:
        pixels = torch.from_numpy(np.asarray(pictures)).permute(0, 3, 1, 2).float() / 255
        with torch.no_grad():
            scores: np.ndarray = self.classifier(pixels).softmax(dim=1)[:, self.targets[row]].numpy()
        return scores


def areas_of(classifier: Classifier, image: Tensor, key: str) -> dict[str, list[float]]:
    """Return the areas of all compared explainers, one way after the other until one does not accept the photograph."""
    maps = Maps(classifier, image, [key], COMPARED)
    areas: dict[str, list[float]] = {}
    for way, settings in WAYS.items():
        found = maps.ours(settings, list(COMPARED))
        areas[way] = [float(found[name][0]) for name in COMPARED]
        if not np.isfinite(areas[way]).all():
            return {}
    return areas


def agreement(count: int, side: int, store: Path) -> None:
    """Print rank correlations between ways on the first `count` photographs that all of them accept."""
    store.mkdir(parents=True, exist_ok=True)
    images, keys = photographs(min(128, 3 * count))
    classifier = Classifier("tf_efficientnet_lite0", weights="package")
    images = images if side == images.shape[-1] else shrink(images, side)
    accepted: list[dict[str, list[float]]] = []
    for number, (image, key) in enumerate(zip(torch.split(images, 1), keys, strict=True)):
        file = store / f"{side}_{number:03d}.json"
        if not file.exists():
            file.write_text(json.dumps(areas_of(classifier, image, key)))
        areas = json.loads(file.read_text())
        accepted += [areas] if areas else []
        if len(accepted) == count:
            break
    exact = np.array([areas["exact"] for areas in accepted])
    for way in ("blur", "mixed"):
        other = np.array([areas[way] for areas in accepted])
        means = spearmanr(exact.mean(axis=0), other.mean(axis=0)).statistic
        within = [spearmanr(*columns).statistic for columns in zip(exact.T, other.T, strict=True)]
        orders = [spearmanr(*rows).statistic for rows in zip(exact, other, strict=True)]
        print(
            f"{way}: rank correlation with exact over {len(COMPARED)} explainers {means:.2f}, over {len(exact)} "
            f"photographs of {side} px within an explainer {np.nanmedian(within):.2f}, over explainers within a "
            f"photograph {np.nanmedian(orders):.2f} (medians)"
        )
        for place, name in enumerate(COMPARED):
            print(f"  {name:22s} exact {exact[:, place].mean():.3f}   {way} {other[:, place].mean():.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--images", type=int, default=8, help="48 px photographs")
    parser.add_argument("--large", type=int, default=2, help="224 px photographs, for ours alone")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--agreement", type=int, default=0, help="photographs on which fills are compared instead")
    parser.add_argument("--side", type=int, default=224, help="of these photographs")
    parser.add_argument("--store", type=Path, default=Path("pic_agreement"), help="folder of their results")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    if arguments.agreement:
        agreement(arguments.agreement, arguments.side, arguments.store)
        return
    if not hasattr(np, "trapz"):
        np.trapz = np.trapezoid  # type: ignore[attr-defined]
    from saliency.metrics import pic

    images, keys = photographs(max(arguments.images, arguments.large))
    classifier = Classifier("tf_efficientnet_lite0", weights="package")
    small = Maps(classifier, shrink(images[: arguments.images]), keys[: arguments.images])
    large = Maps(classifier, images[: arguments.large], keys[: arguments.large])
    names = list(EXPLAINERS)
    some = names[:2]  # timed: what explainers share counts as little as it does for two of them
    times = in_turns(
        {
            "package": lambda: small.package(pic, some),
            **{way: partial(small.ours, settings, some) for way, settings in reversed(WAYS.items())},
            "passes": small.passes,
        },
        arguments.repeats,
        warm_up=0,
    )
    wide = in_turns({way: partial(large.ours, settings, some) for way, settings in WAYS.items()}, 1, warm_up=0)
    table = TextTable("way", "size", "ms a map", "times faster than the package", title="Information curves (SIC)")
    maps = len(some) * arguments.images
    for name, taken in times.items():
        faster = "" if name == "package" else f"{ratio(times['package'], taken):.1f}"
        bound = f" (at least {TARGET})" if name == "blur" else ""
        table.add_row(name, f"{SMALL} px", f"{1000 * median(taken) / maps:.1f}", faster + bound)
    for name, taken in wide.items():
        table.add_row(name, "224 px", f"{1000 * median(taken) / (len(some) * arguments.large):.1f}", "")
    exact, package = small.ours(EXACT, names), small.package(pic, names)
    distance = max(np.nanmax(np.abs(exact[name] - package[name]), initial=0.0) for name in names)
    table.caption = machine()
    print(table)
    print(f"Exact and package differ by at most {distance:.1e} over {len(names) * arguments.images} maps.")


if __name__ == "__main__":
    main()
