"""Explainers, by family."""

from dre.explainers.ascent import GGIG
from dre.explainers.base import Explainer
from dre.explainers.cam import CAM, GradCAM, GradCAMPlusPlus
from dre.explainers.gradient import GuidedBackprop, InputXGradient, SmoothGrad, VanillaGradient
from dre.explainers.masks import DRE, ControlledExplainer, DREPlus, MGnet
from dre.explainers.references import CentredGaussian, EdgeDetector, Random
from dre.explainers.sampled import RISE

__all__ = [
    "CAM",
    "DRE",
    "GGIG",
    "RISE",
    "CentredGaussian",
    "ControlledExplainer",
    "DREPlus",
    "EdgeDetector",
    "Explainer",
    "GradCAM",
    "GradCAMPlusPlus",
    "GuidedBackprop",
    "InputXGradient",
    "MGnet",
    "Random",
    "SmoothGrad",
    "VanillaGradient",
]
