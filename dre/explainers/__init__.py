"""Explainers, by family."""

from dre.explainers.base import Explainer
from dre.explainers.cam import GradCAM, GradCAMPlusPlus
from dre.explainers.gradient import VanillaGradient
from dre.explainers.masks import DRE, MGnet
from dre.explainers.references import CentredGaussian, Random

__all__ = [
    "DRE",
    "CentredGaussian",
    "Explainer",
    "GradCAM",
    "GradCAMPlusPlus",
    "MGnet",
    "Random",
    "VanillaGradient",
]
