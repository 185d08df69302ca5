"""Speed of training and evaluation on 1, 2 and more processes, by part: `python -m benchmarks.scaling`.

Each process trains DRE on its share of the batch, step by step: data, forward, backward, all-reduce, optimiser, each
with a clock of its own. Gradients are averaged after the backward pass, where DistributedDataParallel overlaps the two,
so the share of the all-reduce is the most that it can cost. An evaluation explains its share of the images by Grad-CAM
and integrated gradients of 8 steps and scores the maps by M_F at 11 areas; processes meet once, at the end, to merge
scores. Every process has a GPU, or one thread of a CPU.
"""

import argparse
import json
import os
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from data import ShardDataModule
from dre.engine.allocation import keep_freed_memory
from dre.engine.perturbation import SweepEngine
from dre.explainers import GradCAM, IntegratedGradients
from dre.images.fill import blend, mixture_fill
from dre.images.maps import upsample
from dre.metrics import ScoreTable
from dre.metrics.m_f import FEWER_STEPS, area_sweep
from dre.models import Classifier
from dre.modules import MaskTraining
from dre.reporting.terminal import TextTable
from dre.runs.process import machine
from dre.types import Batch

DEMO = Path(__file__).parents[1] / "data" / "demo"
PARTS = ("data", "forward", "backward", "all-reduce", "optimiser")
EVALUATION = ("explain", "score", "merge")
WARM_UP = 2
PORT = "29563"


class Clock:
    """Add up the seconds of each part, without those of the first steps."""

    def __init__(self, device: torch.device, parts: Sequence[str] = PARTS) -> None:
        self.device = device
        self.taken = dict.fromkeys(parts, 0.0)

    def report(self, rank: int, ranks: int, steps: int, out: Path) -> None:
        """Write the mean seconds of each part over processes and steps, on the first process."""
        taken = torch.tensor(list(self.taken.values()), dtype=torch.float64, device=self.device) / steps
        dist.all_reduce(taken)
        if rank == 0:
            out.write_text(json.dumps((taken / ranks).tolist()))

    @contextmanager
    def part(self, name: str, counts: bool) -> Iterator[None]:
        """Time what happens inside."""
        start = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        if counts:
            self.taken[name] += time.perf_counter() - start


def train(rank: int, ranks: int, batch: int, steps: int, network: str, out: Path, on_gpu: bool | None = None) -> None:
    """Train in one process of several; the first one reports the mean seconds of each part.

    Args:
        rank: Of the process.
        ranks: How many there are.
        batch: Images of each.
        steps: Training steps after a few to warm up.
        network: Its name.
        out: File for the seconds.
        on_gpu: Train on GPUs, over NCCL; by default where there are enough.
    """
    device = join(rank, ranks, on_gpu)
    model = MaskTraining(Classifier(network), embedding_epochs=0).to(device)
    optimizer = torch.optim.Adam(model.estimator.generator.parameters(), lr=1e-3)
    data = ShardDataModule(str(DEMO), batch_size=batch * ranks, preprocessing=model.classifier.preprocessing)
    data.setup("fit")
    batches, clock = iter(data.train_dataloader()), Clock(device)
    for step in range(WARM_UP + steps):
        one_step(model, optimizer, batches, clock, step >= WARM_UP, ranks)
    clock.report(rank, ranks, steps, out)
    del batches  # ends the loader's worker, which a process would wait for
    dist.destroy_process_group()


def join(rank: int, ranks: int, on_gpu: bool | None) -> torch.device:
    """Join the other processes, and return the device of this one."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": PORT}
    on_gpu = torch.cuda.device_count() >= ranks if on_gpu is None else on_gpu
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    keep_freed_memory()
    dist.init_process_group("nccl" if on_gpu else "gloo", rank=rank, world_size=ranks)
    torch.manual_seed(0)
    return torch.device("cuda", rank) if on_gpu else torch.device("cpu")


def evaluate(
    rank: int, ranks: int, batch: int, steps: int, network: str, out: Path, on_gpu: bool | None = None
) -> None:
    """Explain and score in one process of several, and merge the tables; arguments as in `train`."""
    device = join(rank, ranks, on_gpu)
    classifier = Classifier(network).to(device)
    clock, names = Clock(device, EVALUATION), ("grad_cam", "integrated_gradients")
    explainers = dict(zip(names, (GradCAM(classifier), IntegratedGradients(classifier, steps=8)), strict=True))
    scores = ScoreTable(names, ["faithfulness"]).to(device)
    for step in range(WARM_UP + steps):
        images, targets = classifier.sample(batch).to(device), torch.arange(batch, device=device)
        keys = [f"{rank}/{step}/{place}" for place in range(batch)]
        for name, explainer in explainers.items():
            with clock.part("explain", step >= WARM_UP):
                saliency = explainer(images, targets, keys)
            with clock.part("score", step >= WARM_UP):
                (found,) = SweepEngine(classifier).run(images, targets, saliency, [area_sweep(FEWER_STEPS)], keys)
                scores.update(keys, name, "faithfulness", found.mean(dim=1))
    with clock.part("merge", True):
        rows = len(scores.to_frame())
    if rows != ranks * (WARM_UP + steps) * batch * len(names):
        raise RuntimeError(f"{rows} rows were merged of {ranks} processes")
    clock.report(rank, ranks, steps, out)
    dist.destroy_process_group()


def one_step(
    model: MaskTraining,
    optimizer: torch.optim.Optimizer,
    batches: Iterator[Batch],
    clock: Clock,
    counts: bool,
    ranks: int,
) -> None:
    """Make one step, timing its parts."""
    classifier, estimator = model.classifier, model.estimator
    with clock.part("data", counts):
        images = next(batches)["images"].to(clock.device).float().div_(255)
    with clock.part("forward", counts):
        with torch.no_grad():
            features, logits = classifier.features(images)
            background = mixture_fill(images, model.loss.settings.blur_share)
        targets = logits.argmax(dim=1)
        mask = upsample(estimator(features, targets), (images.shape[-2], images.shape[-1]))
        loss = torch.nn.functional.cross_entropy(classifier(blend(images, mask, background)), targets)
    weights = list(estimator.generator.parameters())
    with clock.part("backward", counts):
        gradients = torch.autograd.grad(loss, weights)
    with clock.part("all-reduce", counts):
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
    with clock.part("optimiser", counts):
        parts = torch.split(flat / ranks, [weight.numel() for weight in weights])
        for weight, gradient in zip(weights, parts, strict=True):
            weight.grad = gradient.view_as(weight)
        optimizer.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batch", type=int, default=8, help="images of each process")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--what", choices=("training", "evaluation"), nargs="+", default=["training", "evaluation"])
    parser.add_argument("--network", default="tf_efficientnet_lite0", help="with random weights")
    arguments = parser.parse_args()
    for what in arguments.what:
        print(measure(what, arguments))


def measure(what: str, arguments: argparse.Namespace) -> TextTable:
    """Return the speeds of training or evaluation, a row for each number of processes."""
    work, parts = (train, PARTS) if what == "training" else (evaluate, EVALUATION)
    shown = TextTable("processes", "images/s", "over one", *parts, title=f"{what}, {arguments.network}")
    alone = None
    for ranks in arguments.processes:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "seconds.json"
            mp.start_processes(  # type: ignore[attr-defined,no-untyped-call]
                work, (ranks, arguments.batch, arguments.steps, arguments.network, out), ranks, start_method="spawn"
            )
            taken = json.loads(out.read_text())
        rate = ranks * arguments.batch / sum(taken)
        alone = alone or rate / ranks
        shares = [f"{100 * share:.0f} %" for share in (part / sum(taken) for part in taken)]
        shown.add_row(str(ranks), f"{rate:.1f}", f"{rate / alone:.2f}", *shares)
    shown.caption = machine()
    return shown


if __name__ == "__main__":
    main()
