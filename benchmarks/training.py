"""Share of the training loop that is spent in network passes: `python -m benchmarks.training [--threads 2]`.

After each step of a real training (Lightning's Trainer, the demo shards, the default run file) the clock stops and
each pass of the step runs on its own on the same batch. The floor of a step is the sum of the passes that it must make:
two forward passes of the classifier, one backward pass to its input, and the generator forward and backward. The
loader's worker fills its queue while the clock stands, so waiting for data is what the run itself logs, not this.
"""

import argparse
import logging
import math
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, cast

import pytorch_lightning as pl
import torch
import yaml
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor

from benchmarks.timing import ratio, seconds
from callbacks import RunCheckpoints, Throughput
from data import ShardDataModule
from dre.engine.allocation import keep_freed_memory
from dre.images.fill import blend, mixture_fill
from dre.images.maps import upsample
from dre.models import Classifier
from dre.modules import MaskTraining
from dre.reporting.terminal import TextTable
from dre.runs.process import machine

RUN_FILE = Path(__file__).parents[1] / "configs" / "train" / "demo.yaml"
TARGET = 0.85
WARM_UP = 2
PASSES = {
    "first classifier forward": "no gradient, feature maps",
    "second classifier forward": "of masked images, kept for the way back",
    "classifier backward": "to its input",
    "generator forward": "",
    "generator backward": "to its weights",
}
OTHERS = {
    "backgrounds": "blur and noise",
    "mask": "upsampling and blending, both ways",
    "optimiser": "one step of Adam",
}


class Pairs(pl.Callback):
    """Time every step of the loop, and right after it each of its parts alone."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        self.between: list[float] = []
        self.parts: list[dict[str, float]] = []
        self.running_since = self.began = math.nan

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, index: int) -> None:
        """Note when the step begins."""
        self.began = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        """Stop the clock, time the parts, start it again."""
        if index >= WARM_UP:
            self.steps.append(time.perf_counter() - self.running_since)
            self.between.append(self.began - self.running_since)
        taken = parts(cast(MaskTraining, pl_module), batch["images"])
        if index >= WARM_UP:
            self.parts.append(taken)
        self.running_since = time.perf_counter()


def train(model: MaskTraining, data: ShardDataModule, steps: int) -> Pairs:
    """Run the training loop for some steps, with what the run files add to it."""
    pairs = Pairs()
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            accelerator="cpu",
            max_epochs=1,
            limit_train_batches=WARM_UP + steps,
            limit_val_batches=0,
            num_sanity_val_steps=0,
            log_every_n_steps=8,
            inference_mode=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
            logger=CSVLogger(folder, name="", version=""),
            callbacks=[RunCheckpoints(), Throughput(), pairs],
        )
        trainer.fit(model, data)
    return pairs


def parts(model: MaskTraining, images: Tensor) -> dict[str, float]:
    """Return the seconds of every part of a step, each on its own."""
    classifier, estimator, taken = model.classifier, model.estimator, {}

    def timed(name: str, action: Callable[[], Any]) -> Any:
        kept: list[Any] = []
        taken[name] = seconds(lambda: kept.append(action()))
        return kept[0]

    with torch.no_grad():
        features, logits = timed("first classifier forward", lambda: classifier.features(images))
        background = timed("backgrounds", lambda: mixture_fill(images, model.loss.settings.blur_share))
    targets = logits.argmax(dim=1)
    scores = timed("generator forward", lambda: estimator(features, targets))
    weights = [weight for weight in estimator.generator.parameters()]
    leaf = scores.detach().requires_grad_()
    size = (images.shape[-2], images.shape[-1])
    masked = timed("mask", lambda: blend(images, upsample(leaf, size), background))
    shown = masked.detach().requires_grad_()
    logits = timed("second classifier forward", lambda: classifier(shown))
    loss = torch.nn.functional.cross_entropy(logits, targets)
    (towards_input,) = timed("classifier backward", partial(torch.autograd.grad, loss, shown))
    there = taken["mask"]
    (towards_scores,) = timed("mask", partial(torch.autograd.grad, masked, leaf, towards_input))
    taken["mask"] += there
    gradients = timed("generator backward", partial(torch.autograd.grad, scores, weights, towards_scores))
    timed("optimiser", partial(_adam_step, model, weights, gradients))
    return taken


def _adam_step(model: MaskTraining, weights: list[Any], gradients: tuple[Tensor, ...]) -> None:
    for weight, gradient in zip(weights, gradients, strict=True):
        weight.grad = gradient
    model.trainer.optimizers[0].step()


def report(pairs: Pairs, batch: int) -> TextTable:
    """Shares of a step, and of the floor in it; medians over pairs of a step and its parts."""
    table = TextTable("part of a step", "", "ms", "share", title=f"A training step of {batch} photographs")

    def add(name: str, note: str, taken: list[float]) -> None:
        table.add_row(name, note, f"{1000 * median(taken):.1f}", f"{100 * ratio(taken, pairs.steps):.1f} %")

    for group in (PASSES, OTHERS):
        for name, note in group.items():
            add(name, note, [taken[name] for taken in pairs.parts])
    add("between steps", "Lightning, and data that is not ready", pairs.between)
    step = median(pairs.steps)
    table.add_row("step", "in the loop", f"{1000 * step:.1f}", f"{batch / step:.1f} photographs a second")
    add("passes", f"at least {TARGET:.0%} of a step", [sum(taken[name] for name in PASSES) for taken in pairs.parts])
    table.caption = machine()
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--threads", type=int, default=None, help="of torch; its own choice by default")
    parser.add_argument("--steps", type=int, default=20)
    arguments = parser.parse_args()
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    keep_freed_memory()
    pl.seed_everything(0, verbose=False)
    settings = yaml.safe_load(RUN_FILE.read_text())
    chosen = {name: value for name, value in settings["model"].items() if name != "classifier"}
    model = MaskTraining(Classifier("tf_efficientnet_lite0", weights="package"), **{**chosen, "embedding_epochs": 0})
    batch = settings["data"]["init_args"]["batch_size"]
    data = ShardDataModule(
        str(RUN_FILE.parents[2] / "data" / "demo"), batch_size=batch, preprocessing=model.classifier.preprocessing
    )
    pairs = train(model, data, arguments.steps)
    print(report(pairs, batch))


if __name__ == "__main__":
    main()
