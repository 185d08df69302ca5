"""Plots of the distribution controller: `python -m reproduction.controller --out results/controller`.

Three figures of Fu et al. 2021: densities for a normal input by (eta, h) (Figure 5); histograms of uniform, skew-normal
and mixed inputs before and after the controller, with Pearson's skewness and the density in closed form (Figures 6, 13
and 14); densities of all mixtures (Figure 15). Your own inputs can replace those of the paper:

    python -m reproduction.controller --normal 3 0.5 --uniform -1 1 --values scores.npy --eta 1 --h 4
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import norm
from torch import Tensor

from dre.metrics import pearson_skewness
from dre.models.controller import SkewController
from dre.reporting.style import png_bytes, styled
from dre.runs.directory import MADE, provenance
from dre.runs.process import one_line_errors
from reproduction.controller_inputs import (
    DISTANCES,
    SHARES,
    Array,
    Density,
    Input,
    from_file,
    mixture,
    normal,
    of_the_paper,
    skew_normal,
    uniform,
)

ETA, H = 1.5, 2.5
BINS = 60
DRAWN_MIXTURES = ("0.1, mu = 4", "0.5, mu = 4", "0.9, mu = 4", "0.1, mu = 16", "0.9, mu = 16")
"""By r, those of the paper's mixtures that are drawn with their histograms."""

SETTINGS = {
    "h = 1": [(0.5, 1.0), (1.0, 1.0), (1.5, 1.0), (2.0, 1.0), (2.5, 1.0)],
    "eta = 0.5": [(0.5, h) for h in (0.5, 1.0, 1.5, 2.0, 2.5)],
    "eta = 2.5": [(2.5, h) for h in (0.5, 1.0, 1.5, 2.0, 2.5)],
    "eta = 1.5": [(1.5, h) for h in (0.5, 1.0, 1.5, 2.0, 2.5)],
}
"""Panels of figure 5."""


def transformed(density: Density, mean: float, deviation: float, eta: float = ETA, h: float = H) -> Density:
    """Density of the controller's output for an input of known density, mean and deviation.

    Source: Fu et al. 2021, Eq. 17 to 19 and 13 to 14.
    """

    def at(z: Array) -> Array:
        y = -np.log(z ** (-1 / h) - 1) / eta
        slope = 1 / (eta * h * z * (1 - z ** (1 / h)))
        found: Array = density(y * deviation + mean) * deviation * slope
        return found

    return at


def controlled(scores: Tensor, eta: float = ETA, h: float = H) -> Tensor:
    """Send maps [B, 1, H, W] through the controller."""
    result: Tensor = SkewController(eta, h)(scores)
    return result


def skewness(maps: Tensor) -> float:
    """Pearson's second coefficient, the mean over maps."""
    return float(pearson_skewness(maps).mean())


def settings_figure(panels: Mapping[str, Sequence[tuple[float, float]]] = SETTINGS) -> Figure:
    """Draw the densities of a normal input for the settings of figure 5."""
    z = np.linspace(0.002, 0.998, 500)
    with styled():
        figure = Figure(figsize=(3.1 * len(panels), 2.8), layout="constrained")
        for axes, (title, settings) in zip(figure.subplots(1, len(panels), sharey=True), panels.items(), strict=True):
            for eta, h in settings:
                label = f"eta {eta:g}" if title == "h = 1" else f"h {h:g}"
                axes.plot(z, transformed(norm.pdf, 0.0, 1.0, eta, h)(z), linewidth=1.4, label=label)
            axes.set_title(title)
            axes.set_xlabel("score")
            axes.legend(frameon=False, fontsize=8)
            axes.set_ylim(0, 5)
    return figure


def inputs_figure(found: Mapping[str, tuple[Tensor, Tensor]], densities: Mapping[str, Density]) -> Figure:
    """Draw every input above what becomes of it, with the skewness of both and the closed form over the lower one."""
    with styled():
        figure = Figure(figsize=(max(2.2 * len(found), 3.0), 3.8), layout="constrained")
        grid = figure.subplots(2, len(found), squeeze=False)
        for column, (name, both) in zip(grid.T, found.items(), strict=True):
            for axes, maps in zip(column, both, strict=True):
                axes.hist(maps.flatten().numpy(), bins=BINS, density=True, color="#b8c8dc")
                axes.set_yticks([])
                axes.text(0.97, 0.92, f"CoS {skewness(maps):.2f}", transform=axes.transAxes, ha="right", fontsize=9)
            top = column[1].get_ylim()[1]
            if name in densities:
                z = np.linspace(0.003, 0.997, 400)
                column[1].plot(z, densities[name](z), color="#c03030", linewidth=1.1)
            column[1].set_ylim(0, top * 1.15)
            column[0].set_title(Path(name).name.replace(", ", "\n", 1), fontsize=9)
    return figure


def mixtures_figure(eta: float = ETA, h: float = H) -> Figure:
    """Draw the densities of the mixtures of figure 15: a row for each mu, before and after, a curve for each r."""
    with styled():
        figure = Figure(figsize=(7.6, 2.0 * len(DISTANCES)), layout="constrained")
        for (before, after), distance in zip(figure.subplots(len(DISTANCES), 2), DISTANCES, strict=True):
            for share in SHARES:
                _draw_mixture(before, after, mixture(share, distance), f"r {share:g}", (eta, h))
            before.set_ylabel(f"mu = {distance}")
            after.set_ylim(0, 6)
        before.set_xlabel("raw score")
        after.set_xlabel("score")
        figure.legend(*after.get_legend_handles_labels(), loc="outside right center", frameon=False)
    return figure


def _draw_mixture(before: Axes, after: Axes, given: Input, label: str, settings: tuple[float, float]) -> None:
    if given.density is None:
        return
    x, z = np.linspace(-4, max(DISTANCES) + 4, 800), np.linspace(0.002, 0.998, 800)
    before.plot(x, given.density(x), linewidth=1.1, label=label)
    after.plot(z, transformed(given.density, given.mean, given.deviation, *settings)(z), linewidth=1.1, label=label)


def report(given: Mapping[str, Input], out: Path, eta: float, h: float, drawn: Sequence[str]) -> None:
    """Send every input through the controller, say the skewness before and after, and draw those that are named."""
    generator = np.random.default_rng(0)
    before = {name: one.draw(generator) for name, one in given.items()}
    found = {name: (maps, controlled(maps, eta, h)) for name, maps in before.items()}
    densities = {
        name: transformed(one.density, one.mean, one.deviation, eta, h)
        for name, one in given.items()
        if one.density is not None
    }
    figure = inputs_figure({name: found[name] for name in drawn}, densities)
    (out / "controller_inputs.png").write_bytes(png_bytes(figure, dpi=80))
    told = {name: {"before": skewness(one), "after": skewness(other)} for name, (one, other) in found.items()}
    (out / "controller.json").write_text(json.dumps(told, indent=1) + "\n")
    for name, values in told.items():
        print(f"{name:28} skewness {values['before']:6.2f} -> {values['after']:6.2f}")


def chosen(settings: argparse.Namespace) -> dict[str, Input]:
    """Return the inputs that the command line names."""
    named = {f"normal, {mean:g}, {deviation:g}": normal(mean, deviation) for mean, deviation in settings.normal}
    named |= {f"uniform, {low:g} to {high:g}": uniform(low, high) for low, high in settings.uniform}
    named |= {f"skew normal, a = {a:g}": skew_normal(a) for a in settings.skew_normal}
    named |= {
        f"mixture, r = {share:g}, mu = {distance:g}": mixture(share, distance) for share, distance in settings.mixture
    }
    return named | {str(path): from_file(path) for path in settings.values}


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    made.add_argument("--out", type=Path, default=Path("results/controller"))
    for name, parts, what in (
        ("normal", ("MEAN", "SIGMA"), "a normal input"),
        ("uniform", ("LOW", "HIGH"), "a uniform input"),
        ("mixture", ("R", "MU"), "r N(0, 1) + (1 - r) N(mu, 1)"),
    ):
        made.add_argument(
            f"--{name}",
            nargs=2,
            type=float,
            action="append",
            default=[],
            metavar=parts,
            help=f"{what}; may be repeated",
        )
    made.add_argument("--skew_normal", type=float, action="append", default=[], metavar="A", help="may be repeated")
    made.add_argument(
        "--values", type=Path, action="append", default=[], help=".npy or .pt of raw scores; [B, 1, H, W] are B maps"
    )
    made.add_argument("--eta", type=float, default=ETA)
    made.add_argument("--h", type=float, default=H)
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    settings = parser().parse_args(arguments)
    SkewController(settings.eta, settings.h)  # refuses what no controller has, before anything is written
    own, out = chosen(settings), settings.out
    out.mkdir(parents=True, exist_ok=True)
    words = sys.argv[1:] if arguments is None else arguments
    made = provenance(["-m", "reproduction.controller", *words])
    (out / MADE).write_text(json.dumps(made, indent=2) + "\n")
    if own:
        report(own, out, settings.eta, settings.h, list(own))
        return
    papers = of_the_paper()
    drawn = [name for name in papers if "mixture" not in name or name.endswith(DRAWN_MIXTURES)]
    report(papers, out, settings.eta, settings.h, drawn)
    (out / "controller_settings.png").write_bytes(png_bytes(settings_figure(), dpi=90))
    (out / "controller_mixtures.png").write_bytes(png_bytes(mixtures_figure(settings.eta, settings.h), dpi=80))


if __name__ == "__main__":
    with one_line_errors():
        main()
