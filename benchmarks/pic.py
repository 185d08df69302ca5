"""Speed of information curves beside the `saliency` package: `python -m benchmarks.pic [--images 8] [--large 2]`.

Three ways to the same curve on the same maps, in turns in one process: the package (which wants 48 px photographs to
finish), our exact mode (the same numbers), and our fast mode (blurred background, entropy of grey levels on the
device). Times include the classifier's passes, whose cost alone, for as many as the fast mode counts, is the line
"passes". The second table says what the fast mode is worth: the rank correlation
of explainers between both modes. The package needs one alias to run with today's numpy.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
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
FAST = replace(EXACT, fill="blur", information="grey_entropy", kept="top")


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


def shrink(images: Tensor) -> Tensor:
    """Bring photographs to 48 px, in 8 bits as the package reads them."""
    small = F.interpolate(images, (SMALL, SMALL), mode="bilinear", antialias=True, align_corners=False)
    return (small * 255).round() / 255


class Maps:
    """Hold photographs of one size, the classes that the classifier predicts, and a map of every explainer."""

    def __init__(self, classifier: Classifier, images: Tensor, keys: list[str]) -> None:
        self.classifier, self.images, self.keys = classifier, images, keys
        with torch.no_grad():
            self.targets = classifier(images).argmax(dim=1)
        self.saliency = {name: build(classifier)(images, self.targets, keys) for name, build in EXPLAINERS.items()}

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


def agreement(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> tuple[float, int]:
    """Rank correlation over explainers of mean areas on the photographs that both modes accept."""
    common = np.isfinite([*first.values(), *second.values()]).all(axis=0)
    means = [[values[common].mean() for values in areas.values()] for areas in (first, second)]
    return float(spearmanr(*means).statistic), int(common.sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--images", type=int, default=8, help="48 px photographs")
    parser.add_argument("--large", type=int, default=2, help="224 px photographs, for ours alone")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
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
            "exact": lambda: small.ours(EXACT, some),
            "fast": lambda: small.ours(FAST, some),
            "passes": small.passes,
        },
        arguments.repeats,
        warm_up=0,
    )
    wide = in_turns({"exact": lambda: large.ours(EXACT, some), "fast": lambda: large.ours(FAST, some)}, 1, warm_up=0)
    table = TextTable("way", "size", "ms a map", "times faster than the package", title="Information curves (SIC)")
    maps = len(some) * arguments.images
    for name, taken in times.items():
        faster = "" if name == "package" else f"{ratio(times['package'], taken):.1f}"
        bound = f" (at least {TARGET})" if name == "fast" else ""
        table.add_row(name, f"{SMALL} px", f"{1000 * median(taken) / maps:.1f}", faster + bound)
    for name, taken in wide.items():
        table.add_row(name, "224 px", f"{1000 * median(taken) / (len(some) * arguments.large):.1f}", "")
    exact, fast, package = small.ours(EXACT, names), small.ours(FAST, names), small.package(pic, names)
    distance = max(np.nanmax(np.abs(exact[name] - package[name]), initial=0.0) for name in names)
    modes, accepted = agreement(exact, fast)
    per_map = [spearmanr(exact[name], fast[name], nan_policy="omit").statistic for name in names]
    table.caption = machine()
    print(table)
    print(
        f"Exact mode and package differ by at most {distance:.1e} over {len(names) * arguments.images} maps.\n"
        f"Rank correlation of {len(names)} explainers between exact and fast mode: {modes:.2f} ({accepted} of "
        f"{arguments.images} photographs accepted by both); of photographs within an explainer, in the middle: "
        f"{np.nanmedian(per_map):.2f}."
    )
    for name in names:
        print(f"  {name:22s} exact {np.nanmean(exact[name]):.3f}   fast {np.nanmean(fast[name]):.3f}")


if __name__ == "__main__":
    main()
