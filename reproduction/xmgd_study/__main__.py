"""Distance study, XMGD on real photographs: `DRE_DATA=PATH python -m reproduction.xmgd_study --out results/xmgd`.

Two classifiers, three data sets, five explainers that ask the classifier and two references that do not. The maps are
made once and kept in the output folder. Printed and written are the distances between the mean maps of all groups, how
far each measure spreads them apart and tells them apart, how it depends on the number of images, on a single pixel and
on where a fit begins, whether distances between explainers are alike where the classifier or the data are the same, and
whether what a distance prefers is what confidence metrics prefer.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from dre.reporting import distances_figure
from dre.reporting.style import colours, png_bytes, styled
from dre.reporting.terminal import TextTable
from dre.runs.process import machine, one_line_errors
from reproduction.xmgd_study import study_questions as ask
from reproduction.xmgd_study.distances import XMGD, distances
from reproduction.xmgd_study.study_maps import Material, make_material

RESAMPLED = (XMGD, "KL, both ways", "1 - SSIM", "RMSE", "1 - IoU")
"""Measures whose matrices are drawn again and again; the earth mover's takes half a minute a matrix."""

PREFERRED_BY = (XMGD, "KL, both ways", "1 - SSIM")
Rows = Mapping[str, Mapping[str, Any]]

BOXED = 40
"""Images of each data set whose maps are compared with boxes."""


def material(path: Path, root: Path, images: int, steps: int) -> Material:
    """Read what an earlier call made, or make it."""
    if not path.exists():
        made = make_material(root, images, steps)
        path.parent.mkdir(parents=True, exist_ok=True)
        made.save(path)
    return Material.load(path)


def compare_groups(given: Material, resamples: int) -> dict[str, Any]:
    """Matrices of all groups, and what they say with the deviations that resampling the images gives."""
    measures = distances()
    names = list(given.maps)
    squares = {name: ask.mean_matrix(list(given.maps.values()), measure) for name, measure in measures.items()}
    drawn = ask.resampled(given.maps, {name: measures[name] for name in RESAMPLED}, resamples)
    result: dict[str, Any] = {"matrices": {name: square.tolist() for name, square in squares.items()}}
    result["spread"] = {name: ask.spread(square) for name, square in squares.items()}
    result["kinship"] = {name: ask.kinship(names, square) for name, square in squares.items()}
    for name, samples in drawn.items():
        result["spread"][name] |= {"told apart": ask.told_apart(squares[name], samples)}
    result["spread deviation"] = {
        name: ask.deviations([ask.spread(square) for square in samples]) for name, samples in drawn.items()
    }
    result["kinship deviation"] = {
        name: ask.deviations([ask.kinship(names, square) for square in samples]) for name, samples in drawn.items()
    }
    return result


def draw(result: Mapping[str, Any], folder: Path) -> None:
    """Save the matrix of XMGD with its tree, and what becomes of every measure with fewer images."""
    matrix = distances_figure(
        result["matrices"][XMGD], result["groups"], f"XMGD, mean maps of {result['images']} images"
    )
    (folder / "xmgd_matrix.png").write_bytes(png_bytes(matrix, dpi=80))
    (folder / "xmgd_sample_size.png").write_bytes(png_bytes(sample_size_figure(result["sample size"]), dpi=110))


def sample_size_figure(found: Mapping[str, Mapping[str, tuple[float, float]]]) -> Figure:
    """Draw the change of the distances, and of their order, against the number of images."""
    hue = colours(list(found))
    titles = {"change": "mean relative change", "ranks": "rank correlation"}
    with styled():
        figure = Figure(figsize=(8.6, 3.1), layout="constrained")
        for axes, (what, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
            for shift, (name, entry) in enumerate(found.items()):
                places = [size * 1.015**shift for size in ask.SIZES]
                values, errors = zip(*(entry[f"{what}, {size}"] for size in ask.SIZES), strict=True)
                axes.errorbar(places, values, errors, color=hue[name], linewidth=1.3, elinewidth=0.6, label=name)
            axes.set_xscale("log")
            axes.set_xticks(ask.SIZES, map(str, ask.SIZES))
            axes.minorticks_off()
            axes.set_xlabel("images")
            axes.set_title(f"{title}, against all images")
            axes.grid(color="#e8e8e8", linewidth=0.8)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside right center", frameon=False)
    return figure


def show(title: str, rows: Rows, spreads: Rows | None = None) -> None:
    """Print a table with one row for each entry; columns that a row lacks stay empty."""
    columns = list(dict.fromkeys(column for values in rows.values() for column in values))
    table = TextTable("", *columns, title=title)
    for name, values in rows.items():
        errors = (spreads or {}).get(name, {})
        table.add_row(name, *(_cell(values.get(column), errors.get(column)) for column in columns))
    print(table)


def _cell(value: Any, error: float | None) -> str:
    if value is None:
        return ""
    if isinstance(value, list) and len(value) == 3:
        return f"{value[0]:.2f} ({value[1]:.2f} .. {value[2]:.2f})"
    if isinstance(value, list):
        value, error = value
    return f"{value:.3g}" + ("" if error is None else f" \u00b1 {error:.2g}")


class Answers:
    """Answers by question, written to a file one by one; those of an earlier call that was broken off are kept.

    Args:
        path: Of the file.
        about: What the answers are about; a file about anything else is begun anew.
    """

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        self.path = path
        kept = json.loads(path.read_text()) if path.is_file() else {}
        same = all(kept.get(name) == value for name, value in about.items())
        self.known: dict[str, Any] = kept if same else dict(about)

    def ask(self, names: Sequence[str], question: Callable[[], Mapping[str, Any]]) -> None:
        """Ask what is not known yet."""
        if not set(names) <= self.known.keys():
            self.known |= json.loads(json.dumps(question()))
            self.path.write_text(json.dumps(self.known, indent=1) + "\n")


def answers(given: Material, resamples: int, path: Path) -> dict[str, Any]:
    """Ask everything, and print each answer when it is there."""
    measures = distances()
    images = len(next(iter(given.objects.values())))
    answered = Answers(path, {"groups": list(map(str, given.maps)), "images": images, "resamples": resamples})
    known = answered.known
    answered.ask(["matrices", "spread", "kinship"], lambda: compare_groups(given, resamples))
    show("Distances between the mean maps of all groups", known["spread"], known["spread deviation"])
    title = "Correlation of the distances between explainers where settings share ..."
    show(title, known["kinship"], known["kinship deviation"])
    answered.ask(["sample size", "sample size error"], lambda: ask.by_sample_size(given.maps, measures))
    show("Distances from fewer images against those from all", known["sample size"])
    questions: dict[str, tuple[str, Callable[[], Any]]] = {
        "single pixel": (
            "What one pixel moves, over the distance to other explainers' maps",
            lambda: ask.by_single_pixel(given.maps, measures),
        ),
        "begin": ("XMGD to the same map at half the size", lambda: ask.by_begin(given.maps)),
        "confidence": ("Confidence metrics of the reliefs", lambda: ask.confidence_means(given)),
        "preferences": (
            "Rank correlation over explainers of nearness and confidence metrics",
            lambda: ask.preferences(given, {name: measures[name] for name in PREFERRED_BY}, BOXED),
        ),
    }
    for name, (title, question) in questions.items():
        answered.ask([name], lambda name=name, question=question: {name: question()})  # type: ignore[misc]
        show(title, known[name])
    return known


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("DRE_DATA", "../shared/data")))
    parser.add_argument("--out", type=Path, default=Path("results/xmgd"))
    parser.add_argument("--images", type=int, default=80, help="of each data set")
    parser.add_argument("--steps", type=int, default=16, help="of integrated gradients")
    parser.add_argument("--resamples", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    settings = parser.parse_args()
    torch.set_num_threads(settings.threads)
    start = time.process_time()
    given = material(settings.out / "maps.pt", settings.data, settings.images, settings.steps)
    made = time.process_time() - start
    draw(answers(given, settings.resamples, settings.out / "study.json"), settings.out)
    print(f"{made:.0f} s for the maps, {time.process_time() - start - made:.0f} s for the rest. {machine()}")


if __name__ == "__main__":
    with one_line_errors():
        main()
