"""Inputs for plots of the distribution controller: random draws with known densities, and files of numbers."""

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import norm, skewnorm
from torch import Tensor

Array = NDArray[np.float64]
Density = Callable[[Array], Array]

SIDE = 512
"""Of the map that a distribution is drawn as."""

SHARES = tuple(tenth / 10 for tenth in range(1, 10))
DISTANCES = (2, 4, 8, 16)
"""Of the mixtures of figure 15: r and mu."""


@dataclass(frozen=True, slots=True)
class Input:
    """Describe a distribution of raw scores.

    Args:
        draw: Gives maps of it, [B, 1, H, W].
        density: In closed form; None where only values are known.
        mean: Of the density.
        deviation: Of the density.
    """

    draw: Callable[[np.random.Generator], Tensor]
    density: Density | None = None
    mean: float = 0.0
    deviation: float = 1.0


def _drawn(draw: Callable[[np.random.Generator, int], Array]) -> Callable[[np.random.Generator], Tensor]:
    return lambda generator: torch.from_numpy(draw(generator, SIDE * SIDE)).view(1, 1, SIDE, SIDE)


def normal(mean: float = 0.0, deviation: float = 1.0) -> Input:
    """Return a normal input."""
    if deviation <= 0:
        raise ValueError(f"the deviation of a normal input must be positive, got {deviation:g}")
    draw = _drawn(lambda generator, count: generator.normal(mean, deviation, count))
    return Input(draw, lambda x: norm.pdf(x, mean, deviation), mean, deviation)


def uniform(low: float = 0.0, high: float = 1.0) -> Input:
    """Return a uniform input."""
    if low >= high:
        raise ValueError(f"a uniform input lies between a lower and a higher end, got {low:g} and {high:g}")
    draw = _drawn(lambda generator, count: generator.uniform(low, high, count))
    width = high - low
    return Input(draw, lambda x: ((x > low) & (x < high)) / width, (low + high) / 2, width / np.sqrt(12))


def skew_normal(a: float) -> Input:
    """Return a skew normal input: 2 phi(x) Phi(a x)."""
    draw = _drawn(lambda generator, count: skewnorm.rvs(a, size=count, random_state=generator))
    return Input(draw, lambda x: skewnorm.pdf(x, a), float(skewnorm.mean(a)), float(skewnorm.std(a)))


def mixture(share: float, distance: float) -> Input:
    """Return the mixture r N(0, 1) + (1 - r) N(mu, 1) by r and mu."""
    if not 0 <= share <= 1:
        raise ValueError(f"the share r of a mixture must lie between 0 and 1, got {share:g}")
    draw = _drawn(
        lambda generator, count: generator.normal(size=count) + distance * (generator.uniform(size=count) >= share)
    )
    mean, deviation = (1 - share) * distance, np.sqrt(1 + share * (1 - share) * distance**2)
    return Input(draw, lambda x: share * norm.pdf(x) + (1 - share) * norm.pdf(x, distance), mean, float(deviation))


def from_file(path: Path) -> Input:
    """Read raw scores from a .npy or .pt file: [B, 1, H, W] are B maps, numbers of any other shape are one."""
    values = _numbers(path)
    maps = values if values.ndim == 4 and values.shape[1] == 1 else values.reshape(1, 1, 1, -1)
    if maps[:1].numel() < 2 or not maps.isfinite().all():
        raise ValueError(f"{path} needs two finite numbers or more in a map, and no other; it has {list(values.shape)}")
    return Input(lambda generator: maps)


def _numbers(path: Path) -> Tensor:
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}; --values takes a .npy or .pt file of raw scores")
    if path.suffix not in (".npy", ".pt"):
        raise ValueError(f"{path} is neither .npy nor .pt; save the scores with numpy.save or torch.save")
    try:
        content = np.load(path, allow_pickle=False) if path.suffix == ".npy" else torch.load(path, weights_only=True)
        return torch.as_tensor(content).double()
    except (pickle.UnpicklingError, RuntimeError, EOFError, TypeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"{path} holds no array of numbers; save the scores alone: {reason}") from None


def mixtures() -> dict[str, Input]:
    """Return the inputs of figure 15."""
    return {
        f"mixture, r = {share:g}, mu = {distance:g}": mixture(share, distance)
        for distance in DISTANCES
        for share in SHARES
    }


def of_the_paper() -> dict[str, Input]:
    """Return the inputs of figures 6 and 13 to 15."""
    skewed = {f"skew normal, a = {a}": skew_normal(a) for a in (-20, -2, 2, 20)}
    return {"normal": normal(), "uniform": uniform(), **skewed, **mixtures()}
