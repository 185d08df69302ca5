"""Explainers, by family; paths and rules are beside the explainers that walk them."""

from dre.explainers.base import Explainer
from dre.explainers.cam import GradCAM, GradCAMPlusPlus
from dre.explainers.gradient import VanillaGradient
from dre.explainers.guided import GuidedIG, GuidedPath
from dre.explainers.integration import PathExplainer, completeness, idgi, riemann
from dre.explainers.masks import DRE, MGnet
from dre.explainers.paths import BlurIG, BlurPath, IntegratedGradients, StraightPath
from dre.explainers.references import CentredGaussian, Random
from dre.explainers.samp import SAMP, SampPath, SAMPPlusPlus

__all__ = [
    "DRE",
    "SAMP",
    "BlurIG",
    "BlurPath",
    "CentredGaussian",
    "Explainer",
    "GradCAM",
    "GradCAMPlusPlus",
    "GuidedIG",
    "GuidedPath",
    "IntegratedGradients",
    "MGnet",
    "PathExplainer",
    "Random",
    "SAMPPlusPlus",
    "SampPath",
    "StraightPath",
    "VanillaGradient",
    "completeness",
    "idgi",
    "riemann",
]
