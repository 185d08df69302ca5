"""Cost and saving of the saliency cache beside cheap explainers: `python -m benchmarks.saliency_cache`."""

import argparse
import tempfile
from collections.abc import Callable
from itertools import count
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from benchmarks.timing import in_turns, ratio
from dre.caching import SaliencyCache
from dre.engine.cost import Meter
from dre.explainers import CentredGaussian, Explainer, GradCAM, IntegratedGradients, VanillaGradient
from dre.models import Classifier
from dre.reporting.terminal import TextTable
from dre.runs.process import machine

EXPLAINERS: dict[str, Callable[[Classifier], Explainer]] = {
    "centred_gaussian": CentredGaussian,
    "grad_cam": GradCAM,
    "vanilla_gradient": VanillaGradient,
    "integrated_gradients": lambda classifier: IntegratedGradients(classifier, steps=16),
}


class CachedExplainer:
    """Run one explainer on its images with a cache and without."""

    def __init__(self, classifier: Classifier, explainer: Explainer, batch: int, root: Path) -> None:
        self.classifier, self.explainer, self.root = classifier, explainer, root
        self.images, self.targets = classifier.sample(batch), torch.arange(batch)
        self.keys = [f"image {number}" for number in range(batch)]
        self.meter = Meter(explainer.cost)
        self.fresh = count()
        self.warm = self.opened(root / "warm")
        self.look_up(self.warm)

    def opened(self, directory: Path) -> SaliencyCache:
        """Return a cache that is ready."""
        cache = SaliencyCache(directory, self.classifier, {"it": self.explainer})
        cache.open()
        return cache

    def explain(self, images: Tensor, targets: Tensor, keys: list[str]) -> Tensor:
        """Explain as an evaluation does, without a cache."""
        with self.meter.explaining(len(images), images.device):
            saliency: Tensor = self.explainer(images, targets, keys)
        return saliency

    def look_up(self, cache: SaliencyCache) -> None:
        """Explain what is not in a cache."""
        cache.batch(self.images, self.targets, self.keys).maps("it", self.meter, self.explain)

    def cold(self) -> SaliencyCache:
        """Return an open cache without maps."""
        return self.opened(self.root / f"cold {next(self.fresh)}")


def measure(kept: CachedExplainer, repeats: int) -> list[str]:
    """Return milliseconds of an image explained, the share that writing adds, and milliseconds of an image read."""
    caches = [kept.cold() for _ in range(repeats + 2)]  # opened beforehand: a run does that once
    actions = {
        "alone": lambda: kept.explain(kept.images, kept.targets, kept.keys),
        "cold": lambda: kept.look_up(caches.pop()),
        "warm": lambda: kept.look_up(kept.warm),
    }
    times = in_turns(actions, repeats)
    images = len(kept.keys)
    alone, cold, warm = (1000 * median(times[name]) / images for name in ("alone", "cold", "warm"))
    added = 100 * (ratio(times["cold"], times["alone"]) - 1)
    return [f"{alone:.2f}", f"{cold - alone:.2f}", f"{added:.1f}", f"{warm:.2f}", f"{alone / warm:.1f}"]


def kilobytes(root: Path) -> float:
    """Give the mean size of the files of maps below a directory."""
    return (
        sum(path.stat().st_size for path in root.rglob("*.safetensors")) / len(list(root.rglob("*.safetensors"))) / 1e3
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=10)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    classifier = Classifier("tf_efficientnet_lite0")
    table = TextTable("explainer", "alone, ms", "writing, ms", "writing, %", "from the cache, ms", "saved, times")
    with tempfile.TemporaryDirectory() as folder:
        for name, build in EXPLAINERS.items():
            kept = CachedExplainer(classifier, build(classifier), arguments.batch, Path(folder) / name)
            table.add_row(name, *measure(kept, arguments.repeats))
        size = kilobytes(Path(folder))
    table.title = f"Explaining an image, EfficientNet-Lite0 at 224 px, batch {arguments.batch}"
    table.caption = f"{size:.1f} kB a map; {machine()}"
    print(table)


if __name__ == "__main__":
    main()
