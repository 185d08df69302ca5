"""Gallery of all explainers on demo photographs: `python -m reproduction.gallery.gallery`.

Written are `explainers.png`, the same as a small `explainers.jpg`, and the maps, so that the picture can be drawn again
and explainers be replaced one by one (`--only`; `--draw` explains nothing). Steps, samples and masks of the slow ones
are reduced, and the picture says so; `--full` takes the defaults of all, `--set GGIG.points=8` a number of one's own.
"""

import argparse
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from data.manifest import read_attributions, read_credits
from dre.engine.scoring import score
from dre.models import Classifier
from dre.models.class_names import names_of
from dre.reporting.cells import class_text
from dre.reporting.overlay import for_display
from dre.reporting.panel import Photograph, credits_caption, draw_panel
from dre.reporting.style import readable
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

CREDITS_A_LINE = 6
JPEG_QUALITY = 80
SCALE = (
    "Every map is scaled by its own 99th percentile: black is zero, or the lowest value where none is negative; yellow "
    "is high, blue and white are below zero. Every class is the one that the classifier predicts."
)


@dataclass(frozen=True, slots=True)
class Made:
    """Hold the maps of one explainer.

    Args:
        maps: [B, 1, H, W].
        changes: What differs from the defaults, in words.
        seconds: What they took.
    """

    maps: Tensor
    changes: list[str]
    seconds: float


def load(path: Path, keys: list[str]) -> dict[str, Made]:
    """Return what an earlier call made of the same photographs."""
    kept = torch.load(path, weights_only=True) if path.exists() else None
    if kept is not None and kept["keys"] != keys:
        print(f"{path} holds maps of other photographs: starting anew")
        kept = None
    return {name: Made(**entry) for name, entry in kept["made"].items()} if kept is not None else {}


def save(path: Path, keys: list[str], made: Mapping[str, Made]) -> None:
    """Write all anew; a run that is broken off meanwhile leaves the file as it was."""
    unfinished = path.with_suffix(".part")
    torch.save({"keys": keys, "made": {name: asdict(entry) for name, entry in made.items()}}, unfinished)
    unfinished.replace(path)


def make(
    case: Case,
    classifier: Classifier,
    batch: tuple[Tensor, Tensor, list[str]],
    settings: Settings,
    checkpoints: Mapping[str, str],
) -> Made | None:
    """Explain the batch and say what it took; nothing when it fails."""
    start, changes = time.perf_counter(), case.changes(settings)
    done = attempt(case, classifier, batch, settings, checkpoints)
    if done is None:
        return None
    seconds, cost, images = time.perf_counter() - start, done[0].cost, len(done[1])
    passes = f"{cost.forwards / images:5g} + {cost.backwards / images:5g} passes an image"
    print(f"{case.name:24} {seconds:7.1f} s, {passes}", *changes, sep="; ", flush=True)
    return Made(done[1], changes, seconds)


def photographers(root: Path, keys: list[str]) -> str:
    """Name them, as far as the data does."""
    listed = read_attributions(root)
    authors = read_credits(listed.decode(), str(root)) if listed is not None else {}
    return credits_caption(keys, authors, CREDITS_A_LINE)


def captions(classifier: Classifier, images: Tensor, targets: Tensor) -> list[str]:
    """Say of each photograph which class is explained, and its probability."""
    with torch.no_grad():
        probabilities = torch.cat(
            [score(classifier(image[None]), one[None]) for image, one in zip(images, targets, strict=True)]
        )
    names = names_of(targets.tolist(), classifier.class_names)
    return ["\n".join(class_text(name, one)) for name, one in zip(names, probabilities.tolist(), strict=True)]


def draw(
    path: Path, photographs: Mapping[str, tuple[Tensor, str]], made: Mapping[str, Made], root: Path, side: int
) -> None:
    """Draw photographs with their captions, by key, and what there are maps of, in the order of the families."""
    groups = {family: [case.name for case in cases if case.name in made] for family, cases in families().items()}
    names = [name for group in groups.values() for name in group]
    shown = {name: for_display(made[name].maps)[:, 0] for name in names}
    columns = [
        Photograph(key, image, {name: shown[name][place] for name in names}, caption=said)
        for place, (key, (image, said)) in enumerate(photographs.items())
    ]
    headings = {group[0]: family for family, group in groups.items() if group}
    labels = {name: "\n".join([readable(name), *made[name].changes]) for name in names}
    reduced = "; ".join(f"{readable(name)} {', '.join(made[name].changes)}" for name in names if made[name].changes)
    lines = [SCALE, f"Reduced: {reduced}." if reduced else "", photographers(root, list(photographs))]
    caption = "\n".join(line for line in lines if line)
    draw_panel(columns, path, caption, labels=labels, headings=headings, side=side)
    with Image.open(path) as picture:
        picture.convert("RGB").save(path.with_suffix(".jpg"), quality=JPEG_QUALITY, subsampling=0, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/gallery"))
    parser.add_argument("--data", type=Path, default=DEMO)
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--dre", type=Path, help="checkpoint, or folder of runs; by default the newest of the demo's")
    parser.add_argument("--mgnet", type=Path, help="the same for MGnet")
    parser.add_argument(
        "--only", nargs="*", default=[], help="explain by these alone, and keep the other maps there are"
    )
    parser.add_argument("--draw", action="store_true", help="only draw the maps that there are")
    parser.add_argument("--full", action="store_true", help="reduce nothing")
    parser.add_argument("--set", nargs="*", default=[], metavar="CLASS.OPTION=NUMBER")
    parser.add_argument("--side", type=int, default=96, help="pixels of each map in the picture")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    settings = settings_of({} if arguments.full else REDUCED, arguments.set)
    classifier = Classifier("tf_efficientnet_lite0", weights="package")
    images, targets, keys = demo_batch(arguments.data, arguments.images, classifier)
    arguments.out.mkdir(parents=True, exist_ok=True)
    store = arguments.out / "maps.pt"
    made = load(store, keys)
    if not arguments.draw:
        wanted = families(arguments.only)
        checkpoints = find_checkpoints({"dre": arguments.dre, "mgnet": arguments.mgnet})
        for case in (case for cases in wanted.values() for case in cases):
            made.pop(case.name, None)  # what fails now must not show what once worked
            if (new := make(case, classifier, (images, targets, keys), settings, checkpoints)) is not None:
                made[case.name] = new
            save(store, keys, made)
    said = captions(classifier, images, targets)
    photographs = dict(zip(keys, zip(images, said, strict=True), strict=True))
    draw(arguments.out / "explainers.png", photographs, made, arguments.data, arguments.side)
    print(f"{arguments.out / 'explainers.png'}: {len(made)} explainers, {len(keys)} photographs; {machine()}")


if __name__ == "__main__":
    main()
