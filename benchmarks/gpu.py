"""Parts of what only a GPU can tell: `python -m benchmarks.gpu [--device cuda] [--smoke] [--out runs/gpu] [PART...]`.

Each part writes PART.json, with its rows, its seconds and the machine, into the folder and is skipped where that file
is there, of the same device and kind of run. A part that fails or misses a target does not stop the others; the exit
status is then 1, and a part that failed has no file, so the next run tries it again. `--smoke` tries everything out on
a small network. The module has more than 300 lines because every part stands beside the others in one file.
"""

import argparse
import contextlib
import gc
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from benchmarks.timing import in_turns, ratio, seconds
from dre.api import catalogue, options_of
from dre.engine.allocation import keep_freed_memory
from dre.engine.perturbation import SweepEngine
from dre.explainers import Explainer
from dre.metrics.m_f import FEWER_STEPS, area_sweep
from dre.models import Classifier
from dre.runs.locks import write_json
from dre.runs.process import machine

NETWORK, SMALL = "tf_efficientnet_lite0", "test_resnet"
AGREE, AGREE_HALF = 0.99, 0.9
"""Least correlation of maps on the device with maps on the CPU in float32: in float32, and under bfloat16 autocast."""

FEW = {"steps": 4, "samples": 4, "masks": 16, "iterations": 4, "points": 2, "ascents": 2, "fragments": 4}
"""Counts that the check of every explainer cuts down."""

SMOKE_EXPLAINERS = ("grad_cam", "integrated_gradients", "rise")
DRAWN_ON_DEVICE = ("smooth_grad",)
"""Explainers whose noise is drawn where the images are: other draws, and so other maps, than on the CPU."""

GUIDED_IG = 5.0
"""How many times as fast as PAIR's Guided IG ours is to be on a GPU."""


FAILED = "failed"


class Setting(NamedTuple):
    """Say where and how thoroughly to measure."""

    device: torch.device
    smoke: bool

    @property
    def network(self) -> str:
        """Name of the network."""
        return SMALL if self.smoke else NETWORK

    def classifier(self) -> Classifier:
        """Build the network with random weights, which the parts are about as little as about its accuracy."""
        torch.manual_seed(0)
        return Classifier(self.network, weights=None).to(self.device)

    def batch(self, count: int) -> tuple[Tensor, Tensor]:
        """Draw images and targets, where the network is."""
        side = 64 if self.smoke else 224
        images = torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1))
        return images.to(self.device), torch.arange(count, device=self.device)


class Row(NamedTuple):
    """Hold one figure, with its target where it has one: at least, or at most."""

    name: str
    value: float | str
    unit: str = ""
    at_least: float | None = None
    at_most: float | None = None

    def is_missed(self) -> bool:
        """Return whether there is a target that the figure misses."""
        if isinstance(self.value, str):
            return self.value.startswith(FAILED)
        low = -float("inf") if self.at_least is None else self.at_least
        return not low <= self.value <= (float("inf") if self.at_most is None else self.at_most)


def agreement(setting: Setting) -> Iterator[Row]:
    """Explain on the device in float32 and under bfloat16 autocast, and correlate with the CPU's maps in float32."""
    here, there = setting._replace(device=torch.device("cpu")), setting
    classifiers = {place: place.classifier() for place in {here, there}}
    for name, kind in sorted(catalogue().items()):
        if setting.smoke and name not in SMOKE_EXPLAINERS:
            continue
        if name in DRAWN_ON_DEVICE and setting.device.type != "cpu":
            yield Row(name, "left out: its noise is drawn on the device, and is another one than on the CPU")
            continue
        options = few(kind)
        try:
            explainers = {place: kind(classifier, **options) for place, classifier in classifiers.items()}
            expected = _explain(explainers[here], here)
        except (ValueError, TypeError) as error:  # needs a checkpoint, or another kind of network
            yield Row(name, f"left out: {str(error).splitlines()[0][:80]}")
            continue
        for kind_of_numbers, least in (("float32", AGREE), ("bfloat16", AGREE_HALF)):
            try:
                with torch.autocast(setting.device.type, torch.bfloat16, enabled=kind_of_numbers != "float32"):
                    found = _explain(explainers[there], there)
                yield Row(f"{name}, {kind_of_numbers}", _correlation(found, expected), "r", least)
            except Exception as error:  # the others are to be tried all the same
                yield Row(f"{name}, {kind_of_numbers}", f"{FAILED}: {type(error).__name__}: {str(error)[:120]}")


def few(kind: type[Explainer]) -> dict[str, Any]:
    """Return small counts for those options that an explainer has."""
    return {option: FEW[option] for option in FEW if option in options_of(kind)}


def _explain(explainer: Explainer, setting: Setting) -> Tensor:
    images, targets = setting.batch(2)
    saliency: Tensor = explainer(images, targets, ["a", "b"])
    return saliency.detach().cpu().double()


def _correlation(one: Tensor, other: Tensor) -> float:
    """Return the least Pearson correlation of two batches of maps; 1 where both are constant, 0 where one alone is.

    A map with NaN or infinity counts as 0.
    """
    found = []
    for pair in map(torch.stack, zip(one.flatten(1), other.flatten(1), strict=True)):
        is_constant = bool((pair.amax(dim=1) == pair.amin(dim=1)).all())
        found.append(1.0 if is_constant else float(torch.corrcoef(pair)[0, 1].nan_to_num()))
    return min(found)


def training(setting: Setting) -> Iterator[Row]:
    """Train with the loader in one process, over NCCL on a GPU, and say what a step waits for."""
    from benchmarks import scaling

    batch, steps = (2, 2) if setting.smoke else (64, 20)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "seconds.json"
        scaling.train(0, 1, batch, steps, setting.network, out, setting.device.type == "cuda")
        parts = dict(zip(scaling.PARTS, json.loads(out.read_text()), strict=True))
    step = sum(parts.values())
    yield Row("training", batch / step, "images/s")
    for name, taken in parts.items():
        yield Row(f"share of {name}", taken / step)


def explainers(setting: Setting) -> Iterator[Row]:
    """Set the table of explainers beside their floors and peers; of Guided IG, PAIR's."""
    from benchmarks.explainers import CASES, batch_of, measure

    classifier = setting.classifier()
    images, targets = batch_of(classifier) if not setting.smoke else setting.batch(2)
    for case in CASES:
        if setting.smoke and case.name not in ("VanillaGradient", "GradCAM"):
            continue
        line = measure(case, classifier, images, targets, repeats=1 if setting.smoke else 3)
        judged = not setting.smoke
        yield Row(case.name, float(line[2]), "ms an image")
        yield Row(f"{case.name} over its floor", float(line[3]), "x", None, case.floor if judged else None)
        if len(line) > 5:
            least = GUIDED_IG if case.name == "GuidedIG" else case.faster
            yield Row(f"{case.name}: {line[5]} over ours", float(line[6]), "x", least if judged else None)


def sweeps(setting: Setting) -> Iterator[Row]:
    """Score masked copies as they are, compiled, and compiled into CUDA graphs."""
    classifier = setting.classifier()
    images, targets = setting.batch(2 if setting.smoke else 16)
    saliency = torch.rand(len(images), 1, *images.shape[-2:], generator=torch.Generator().manual_seed(2))
    saliency, asked = saliency.to(setting.device), [area_sweep(FEWER_STEPS, "blur")]
    kinds: dict[str, Callable[[Tensor], Tensor]] = {"as it is": classifier}
    if setting.device.type == "cuda":
        kinds["compiled"] = torch.compile(classifier)
        kinds["CUDA graphs"] = torch.compile(classifier, mode="reduce-overhead")
    else:
        kinds["compiled"] = torch.compile(classifier, backend="eager")
    scores: dict[str, Tensor] = {}

    def run(name: str, chunk: int) -> None:
        (scores[name],) = SweepEngine(kinds[name], chunk=chunk).run(images, targets, saliency, asked)

    chunk = 4 if setting.smoke else 64
    first = {name: seconds(partial(run, name, chunk)) for name in kinds}
    times = in_turns({name: partial(run, name, chunk) for name in kinds}, 1 if setting.smoke else 5, warm_up=1)
    for name, taken in times.items():
        yield Row(f"{name}: first call", first[name], "s")
        yield Row(f"{name}: a map", 1000 * min(taken) / len(images), "ms")
        yield Row(f"{name}: speed over as it is", ratio(times["as it is"], taken), "x")
        difference = float((scores[name] - scores["as it is"]).abs().max())
        yield Row(f"{name}: largest difference of a score", difference, "", None, 1e-2)


def collectives(setting: Setting) -> Iterator[Row]:
    """Start NCCL (gloo on a CPU) for one device, add up and gather."""
    backend = "nccl" if setting.device.type == "cuda" else "gloo"
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29564"}
    dist.init_process_group(backend, rank=0, world_size=1)
    try:
        held = torch.full((1 << (10 if setting.smoke else 24),), 2.0, device=setting.device)
        taken = seconds(lambda: dist.all_reduce(held))
        parts = [torch.empty_like(held)]
        dist.all_gather(parts, held)
        yield Row(f"{backend}: sum of {len(held)} numbers", 1000 * taken, "ms")
        yield Row("largest error", float((parts[0] - 2).abs().max()), "", None, 0.0)
    finally:
        dist.destroy_process_group()


def memory(setting: Setting) -> Iterator[Row]:
    """Explain a large batch in the chunks that each explainer chooses, and read the most that it held at once."""
    classifier, names = setting.classifier(), SMOKE_EXPLAINERS
    images, targets = setting.batch(2 if setting.smoke else 256)
    for name in names:
        kind = catalogue()[name]
        explainer = kind(classifier, **few(kind))
        if setting.device.type != "cuda":
            explainer(images, targets)
            yield Row(name, "the CPU's peak says nothing of one explainer")
            continue
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        explainer(images, targets)
        whole = torch.cuda.mem_get_info()[1]
        yield Row(f"{name}, {len(images)} images", torch.cuda.max_memory_allocated() / 1e9, "GB", None, whole / 1e9)


PARTS: dict[str, Callable[[Setting], Iterator[Row]]] = {
    "agreement": agreement,
    "collectives": collectives,
    "training": training,
    "sweeps": sweeps,
    "memory": memory,
    "explainers": explainers,
}
"""In the order in which they run: short ones first."""


def run_part(name: str, setting: Setting, out: Path) -> bool:
    """Run a part unless its result is there; return whether it failed or missed a target."""
    path, made = out / f"{name}.json", {"device": _device_name(setting), "smoke": setting.smoke}
    if path.is_file():
        known = json.loads(path.read_text())
        if {fact: known.get(fact) for fact in made} == made:
            print(f"{name}: there is {path}", flush=True)
            return bool(known["missed"])
        print(f"{name}: {path} is of another device, or of a smoke run: it is measured again", flush=True)
    start, rows = time.perf_counter(), []
    try:
        for row in PARTS[name](setting):
            rows.append(row)
            figure = row.value if isinstance(row.value, str) else f"{row.value:.4g}"
            print(f"{name} | {row.name} | {figure} {row.unit}{' | MISSED' if row.is_missed() else ''}", flush=True)
    except Exception as error:  # the other parts are worth their minutes all the same
        print(f"{name}: FAILED: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return True
    missed = [row.name for row in rows if row.is_missed()]
    taken = time.perf_counter() - start
    facts = {"rows": [row._asdict() for row in rows], "missed": missed, "seconds": round(taken, 1)}
    write_json(path, facts | made | {"machine": machine()})
    return bool(missed)


def _device_name(setting: Setting) -> str:
    return torch.cuda.get_device_name() if setting.device.type == "cuda" else "cpu"


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all when not given")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--smoke", action="store_true", help="a small network and small counts; no target is judged")
    parser.add_argument("--out", type=Path, help="folder of the results; a temporary one with --smoke, or runs/gpu")
    given = parser.parse_args(words)
    unknown = set(given.parts) - PARTS.keys()
    if unknown:
        parser.error(f"there is no part {', '.join(sorted(unknown))}; the parts are {', '.join(PARTS)}")
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no GPU that torch can use; --device cpu --smoke tries the parts out without one")
    keep_freed_memory()
    setting = Setting(torch.device(given.device), given.smoke)
    with contextlib.ExitStack() as stack:
        temporary = given.out is None and given.smoke
        out = Path(stack.enter_context(tempfile.TemporaryDirectory())) if temporary else given.out or Path("runs/gpu")
        out.mkdir(parents=True, exist_ok=True)
        failed = [name for name in given.parts or PARTS if run_part(name, setting, out)]
    if failed:
        sys.exit(f"failed, or missed a target: {', '.join(failed)}")


if __name__ == "__main__":
    main()
