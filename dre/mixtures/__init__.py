"""Gaussian mixtures on the unit square: fitting, and the Wasserstein distances between them."""

from dre.mixtures.fitting import Begin, Fit, Fitting, fit_mixtures
from dre.mixtures.gaussians import Mixtures
from dre.mixtures.starts import quantise, unit_grid
from dre.mixtures.transport import distance_matrix, gaussian_distances, mixture_distances

__all__ = [
    "Begin",
    "Fit",
    "Fitting",
    "Mixtures",
    "distance_matrix",
    "fit_mixtures",
    "gaussian_distances",
    "mixture_distances",
    "quantise",
    "unit_grid",
]
