"""Memory of an evaluation: `python -m benchmarks.memory --images 50000 --explainers 14 --metrics 15`.

A stub classifier, explainers and metrics take next to no memory themselves, so that what grows is what an evaluation
keeps of each image, from the test loop over the merging of metrics to the tables and pages that it writes.
"""

import argparse
import resource
import tempfile
import time
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from callbacks import EvaluationReport, EvaluationResume, ExplanationCost, ExplanationMetrics, SaliencyPanel
from dre.engine.allocation import keep_freed_memory
from dre.explainers import Explainer
from dre.metrics import ImageMean
from dre.models import Classifier
from dre.modules import ExplainerEvaluation
from dre.runs.process import machine
from dre.types import Batch

SIDE = 16
MOST_PEAK, MOST_SLOPE = 2e9, 3000.0
"""Bytes of an evaluation of 50,000 images, 14 explainers and 15 metrics: at its peak, and more for each image."""

WARM_UP = 0.2
"""Share of the images before which memory is not read: buffers grow and code is loaded."""


class StubExplainer(Explainer):
    """Return the first channel of the image, shifted by a number of pixels."""

    def __init__(self, classifier: Classifier, shift: int = 0) -> None:
        super().__init__(classifier)
        self.shift = shift

    def explain(self, images: Tensor, targets: Tensor) -> Tensor:
        """Return the shifted channel."""
        return images[:, :1].roll(self.shift, dims=-1)


class StubMetric(ImageMean):
    """Compute the mean of the upper rows of a map."""

    higher_is_better = True

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.rows_read = rows

    def update(self, saliency: Tensor) -> None:
        """Add a batch of maps."""
        self.accumulate(saliency[:, :, : self.rows_read].flatten(1).mean(dim=1))


class StubImages(IterableDataset[Batch]):
    """Draw batches of images of noise."""

    def __init__(self, images: int, batch: int) -> None:
        self.images, self.batch = images, batch

    def __iter__(self) -> Iterator[Batch]:
        """Yield all images once."""
        draws = torch.Generator().manual_seed(0)
        for start in range(0, self.images, self.batch):
            keys = [f"ILSVRC2012_val_{place:08d}" for place in range(start, min(start + self.batch, self.images))]
            pixels = torch.rand(len(keys), 3, SIDE, SIDE, generator=draws)
            yield {"images": pixels, "labels": torch.zeros(len(keys), dtype=torch.int64), "key": keys}


class MemoryCurve(pl.Callback):
    """Read the memory of the process after each batch."""

    def __init__(self) -> None:
        self.images: list[int] = []
        self.bytes: list[int] = []

    def on_test_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *step: Any) -> None:
        """Read it."""
        batch: Batch = step[1]
        self.images.append((self.images[-1] if self.images else 0) + len(batch["key"]))
        self.bytes.append(resident())

    def slope(self) -> float:
        """Return the bytes that an image adds after the warm-up, by least squares."""
        late = np.array(self.images) > WARM_UP * self.images[-1]
        return float(np.polyfit(np.array(self.images)[late], np.array(self.bytes)[late], 1)[0])


def resident() -> int:
    """Return the bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def peak() -> int:
    """Return the most bytes that this process has had in memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(images: int, explainers: int, metrics: int, batch: int, directory: Path) -> tuple[float, float]:
    """Evaluate stubs and write the results; return the bytes that an image adds, and the seconds of it all."""
    torch.manual_seed(0)
    classifier = Classifier.wrap(
        nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 4)), size=(SIDE,) * 2
    )
    module = ExplainerEvaluation(
        classifier,
        {f"explainer_{place}": partial(StubExplainer, shift=place) for place in range(explainers)},
        {f"metric_{place}": StubMetric(place % SIDE + 1) for place in range(metrics)},
    )
    curve = MemoryCurve()
    kept = [
        ExplanationMetrics(show=False),
        SaliencyPanel(),
        ExplanationCost(),
        EvaluationReport(),
        curve,
        EvaluationResume(),
    ]
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, callbacks=kept, enable_progress_bar=False, default_root_dir=str(directory)
    )
    start = time.perf_counter()
    trainer.test(module, DataLoader(StubImages(images, batch), batch_size=None), verbose=False)
    return curve.slope(), time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--explainers", type=int, default=14)
    parser.add_argument("--metrics", type=int, default=15)
    parser.add_argument("--batch", type=int, default=64)
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        before = resident()
        slope, seconds = measure(given.images, given.explainers, given.metrics, given.batch, Path(folder))
    print(f"{given.images} images, {given.explainers} explainers, {given.metrics} metrics: {machine()}")
    print(f"before the run {before / 1e6:.0f} MB, peak {peak() / 1e6:.0f} MB (at most {MOST_PEAK / 1e6:.0f})")
    print(f"{slope / 1000:.2f} kB an image (at most {MOST_SLOPE / 1000:.0f}), {seconds:.0f} s")


if __name__ == "__main__":
    main()
