"""Explainers, by family; paths and rules are beside the explainers that walk them."""

from dre.explainers.ascent import GGIG
from dre.explainers.base import Explainer
from dre.explainers.cam import CAM, GradCAM, GradCAMPlusPlus
from dre.explainers.deep_lift import DeepLift
from dre.explainers.gradient import GuidedBackprop, InputXGradient, SmoothGrad, VanillaGradient
from dre.explainers.guided_path import GuidedIG, GuidedPath
from dre.explainers.integration import PathExplainer, completeness, idgi, riemann
from dre.explainers.lrp import LRP, Conservation
from dre.explainers.masks import DRE, ControlledExplainer, DREPlus, MGnet
from dre.explainers.paths import BlurIG, BlurPath, IntegratedGradients, StraightPath
from dre.explainers.references import CentredGaussian, EdgeDetector, Random
from dre.explainers.samp import SAMP, SampPath, SAMPPlusPlus
from dre.explainers.sampled import RISE

__all__ = [
    "CAM",
    "DRE",
    "GGIG",
    "LRP",
    "RISE",
    "SAMP",
    "BlurIG",
    "BlurPath",
    "CentredGaussian",
    "Conservation",
    "ControlledExplainer",
    "DREPlus",
    "DeepLift",
    "EdgeDetector",
    "Explainer",
    "GradCAM",
    "GradCAMPlusPlus",
    "GuidedBackprop",
    "GuidedIG",
    "GuidedPath",
    "InputXGradient",
    "IntegratedGradients",
    "MGnet",
    "PathExplainer",
    "Random",
    "SAMPPlusPlus",
    "SampPath",
    "SmoothGrad",
    "StraightPath",
    "VanillaGradient",
    "completeness",
    "idgi",
    "riemann",
]
