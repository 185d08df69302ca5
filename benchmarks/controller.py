"""What the distribution controller does to given inputs: `python -m benchmarks.controller --out results/controller`.

Drawn are the densities for a normal input by (eta, h) (paper 003, figure 5), histograms before and after with Pearson's
skewness for uniform, skew-normal and mixed inputs (figures 6 and 13 to 15), and over each its density in closed form.
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import norm, skewnorm

from dre.metrics import pearson_skewness
from dre.models.controller import SkewController
from dre.reporting.style import png_bytes, styled

ETA, H = 1.5, 2.5
SIDE = 512
"""Of the map that a distribution is drawn as."""

BINS = 60
Array = NDArray[np.float64]
Density = Callable[[Array], Array]

SETTINGS = {
    "h = 1": [(0.5, 1.0), (1.0, 1.0), (1.5, 1.0), (2.0, 1.0), (2.5, 1.0)],
    "eta = 0.5": [(0.5, h) for h in (0.5, 1.0, 1.5, 2.0, 2.5)],
    "eta = 2.5": [(2.5, h) for h in (0.5, 1.0, 1.5, 2.0, 2.5)],
    "eta = 1.5": [(1.5, h) for h in (0.5, 1.0, 1.5, 2.0, 2.5)],
}
"""Panels of figure 5."""


def transformed(density: Density, mean: float, deviation: float, eta: float = ETA, h: float = H) -> Density:
    """Density of the controller's output for an input of known density, mean and deviation.

    Source: paper 003, Eq. 17 to 19 and 13 to 14.
    """

    def at(z: Array) -> Array:
        y = -np.log(z ** (-1 / h) - 1) / eta
        slope = 1 / (eta * h * z * (1 - z ** (1 / h)))
        found: Array = density(y * deviation + mean) * deviation * slope
        return found

    return at


def mixture(share: float, distance: float) -> tuple[Density, float, float]:
    """Density, mean and deviation of r N(0, 1) + (1 - r) N(distance, 1)."""
    mean, spread = (1 - share) * distance, np.sqrt(1 + share * (1 - share) * distance**2)
    return lambda x: share * norm.pdf(x) + (1 - share) * norm.pdf(x, distance), mean, float(spread)


def inputs() -> dict[str, tuple[Density, float, float]]:
    """Give the inputs of the figures: density, mean and deviation of each."""
    found: dict[str, tuple[Density, float, float]] = {
        "normal": (norm.pdf, 0.0, 1.0),
        "uniform": (lambda x: ((x > 0) & (x < 1)).astype(np.float64), 0.5, 1 / np.sqrt(12)),
    }
    for a in (-20, -2, 2, 20):
        found[f"skew normal, a = {a}"] = (lambda x, a=a: skewnorm.pdf(x, a), skewnorm.mean(a), skewnorm.std(a))
    for share, distance in ((0.1, 4), (0.5, 4), (0.9, 4), (0.1, 16), (0.9, 16)):
        found[f"mixture, r = {share}, mu = {distance}"] = mixture(share, distance)
    return found


def draws(name: str, generator: np.random.Generator) -> Array:
    """Draw a map of values of one of the inputs."""
    count = SIDE * SIDE
    if name == "normal":
        return generator.normal(size=count)
    if name == "uniform":
        return generator.uniform(size=count)
    if name.startswith("skew"):
        drawn: Array = skewnorm.rvs(float(name.rpartition("= ")[2]), size=count, random_state=generator)
        return drawn
    share, distance = (float(part.rpartition("= ")[2]) for part in name.split(",")[1:])
    return generator.normal(size=count) + distance * (generator.uniform(size=count) >= share)


def controlled(values: Array, eta: float = ETA, h: float = H) -> Array:
    """Send a map of values through the controller."""
    scores = torch.from_numpy(values).view(1, 1, SIDE, SIDE)
    result: Array = SkewController(eta, h)(scores).flatten().numpy()
    return result


def skewness(values: Array) -> float:
    """Pearson's second coefficient."""
    return float(pearson_skewness(torch.from_numpy(values).view(1, 1, SIDE, SIDE)))


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


def inputs_figure(found: Mapping[str, tuple[Array, Array]], densities: Mapping[str, Density]) -> Figure:
    """Draw every input above what becomes of it, with the skewness of both and the closed form over the lower one."""
    with styled():
        figure = Figure(figsize=(2.2 * len(found), 3.8), layout="constrained")
        grid = figure.subplots(2, len(found))
        for column, (name, (before, after)) in zip(grid.T, found.items(), strict=True):
            for axes, values in zip(column, (before, after), strict=True):
                axes.hist(values, bins=BINS, density=True, color="#b8c8dc")
                axes.set_yticks([])
                axes.text(0.97, 0.92, f"CoS {skewness(values):.2f}", transform=axes.transAxes, ha="right", fontsize=9)
            z = np.linspace(0.003, 0.997, 400)
            top = column[1].get_ylim()[1]
            column[1].plot(z, densities[name](z), color="#c03030", linewidth=1.1)
            column[1].set_ylim(0, top * 1.15)
            column[0].set_title(name.replace(", ", "\n", 1), fontsize=9)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results/controller"))
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    before = {name: draws(name, generator) for name in inputs()}
    found = {name: (values, controlled(values)) for name, values in before.items()}
    densities = {name: transformed(*one) for name, one in inputs().items()}
    (out / "controller_settings.png").write_bytes(png_bytes(settings_figure(), dpi=90))
    (out / "controller_inputs.png").write_bytes(png_bytes(inputs_figure(found, densities), dpi=80))
    told = {name: {"before": skewness(one), "after": skewness(other)} for name, (one, other) in found.items()}
    (out / "controller.json").write_text(json.dumps(told, indent=1) + "\n")
    for name, values in told.items():
        print(f"{name:28} skewness {values['before']:6.2f} -> {values['after']:6.2f}")


if __name__ == "__main__":
    main()
