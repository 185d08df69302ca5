"""Rank correlation between maps of different floating-point precision: `python -m reproduction.precision`.

Spearman's rank correlation over the pixels between maps in float32 and those of the same explainer under bfloat16
autocast, where the networks' layers run in bfloat16 and what explainers add up stays in float32; and beside it between
float32 and float64. Where that is low too, the method itself multiplies rounding, whatever the precision.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from dre.metrics.similarity import spearman
from dre.models import Classifier
from dre.reporting.terminal import TextTable
from dre.runs.process import machine
from reproduction.gallery.showcase import (
    DEMO,
    REDUCED,
    Case,
    Settings,
    attempt,
    demo_batch,
    families,
    find_checkpoints,
    settings_of,
)

SHORT: Settings = {
    **REDUCED,
    "SmoothGrad": {"samples": 16},
    "IntegratedGradients": {"steps": 16},
    "BlurIG": {"steps": 16},
    "GuidedIG": {"steps": 16},
    "SAMPPlusPlus": {"fragments": 20},
    "GGIG": {"points": 4, "ascents": 10},
    "RISE": {"masks": 200},
    "LIME": {"samples": 200},
    "MeaningfulPerturbation": {"iterations": 50},
    "ExtremalPerturbation": {"iterations": 50},
    "FeatureInversion": {"iterations": 20},
}
"""On a CPU float64 is slow, and bfloat16 gains little."""

COLUMNS = ("bfloat16", "lowest", "float64", "lowest")


def two_numbers(maps: Tensor | None, reference: Tensor) -> list[str]:
    """Return mean and lowest rank correlation of the images; a dash where there are no maps, or constant ones alone."""
    values = spearman(maps, reference) if maps is not None else torch.empty(0)
    values = values[~values.isnan()]
    return [f"{float(values.mean()):.3f}", f"{float(values.min()):.3f}"] if len(values) else ["-", "-"]


def measure(
    case: Case,
    classifiers: Mapping[str, Classifier],
    batch: tuple[Tensor, Tensor, list[str]],
    settings: Settings,
    checkpoints: Mapping[str, str],
) -> list[str] | None:
    """Return one line of the table; None when the explainer fails in float32."""
    images, targets, keys = batch
    reference = attempt(case, classifiers["float32"], batch, settings, checkpoints)
    if reference is None:
        return None
    with torch.autocast(images.device.type, torch.bfloat16):
        coarse = attempt(case, classifiers["float32"], batch, settings, checkpoints)
    exact = None
    if not case.learned and "float64" in classifiers:  # their networks are trained in float32
        exact = attempt(case, classifiers["float64"], (images.double(), targets, keys), settings, checkpoints)
    numbers = [two_numbers(done and done[1], reference[1]) for done in (coarse, exact)]
    return [case.name, *numbers[0], *numbers[1], ", ".join(case.changes(settings))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEMO)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--dre", type=Path, help="checkpoint, or folder of runs; by default the newest of the demo's")
    parser.add_argument("--mgnet", type=Path, help="the same for MGnet")
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--full", action="store_true", help="the defaults of every explainer")
    parser.add_argument("--set", nargs="*", default=[], metavar="CLASS.OPTION=NUMBER")
    parser.add_argument("--no-float64", action="store_true", help="leave the slow comparison out")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    settings = settings_of({} if arguments.full else SHORT, arguments.set)
    cases = [case for cases in families(arguments.only).values() for case in cases]
    checkpoints = find_checkpoints({"dre": arguments.dre, "mgnet": arguments.mgnet})
    classifiers = {"float32": Classifier("tf_efficientnet_lite0", weights="package")}
    if not arguments.no_float64:
        classifiers["float64"] = Classifier("tf_efficientnet_lite0", weights="package").double()
    batch = demo_batch(arguments.data, arguments.images, classifiers["float32"])
    table = TextTable("explainer", *COLUMNS, "settings that are not the defaults")
    for case in cases:
        line = measure(case, classifiers, batch, settings, checkpoints)
        if line is not None:
            print(*line, sep=" | ")  # as it is known, in case the run is broken off
            table.add_row(*line)
    table.title = f"Rank correlation with the float32 map, mean and lowest of {arguments.images} photographs"
    table.caption = machine()
    print(table)


if __name__ == "__main__":
    main()
