"""Explainers, by family; paths and rules are beside the explainers that walk them."""

from dre.explainers.ascent import GGIG
from dre.explainers.base import Explainer
from dre.explainers.blur_path import BlurIG, BlurPath
from dre.explainers.cam import CAM, GradCAM, GradCAMPlusPlus
from dre.explainers.deep_lift import DeepLift
from dre.explainers.extremal import ExtremalPerturbation
from dre.explainers.gradient import GuidedBackprop, InputXGradient, SmoothGrad, VanillaGradient
from dre.explainers.guided_path import GuidedIG, GuidedPath
from dre.explainers.integration import PathExplainer, bare_gradient, completeness, idgi, idgi_tmlr, riemann
from dre.explainers.inversion import FeatureInversion
from dre.explainers.lime import LIME
from dre.explainers.lrp import LRP, Conservation
from dre.explainers.masks import DRE, ControlledExplainer, DREPlus, MGnet
from dre.explainers.meaningful import MeaningfulPerturbation
from dre.explainers.paths import IntegratedGradients, StraightPath
from dre.explainers.references import CentredGaussian, EdgeDetector, Random
from dre.explainers.regions import XRAI
from dre.explainers.samp import SAMP, SampPath, SAMPPlusPlus
from dre.explainers.sampled import RISE

__all__ = [
    "CAM",
    "DRE",
    "GGIG",
    "LIME",
    "LRP",
    "RISE",
    "SAMP",
    "XRAI",
    "BlurIG",
    "BlurPath",
    "CentredGaussian",
    "Conservation",
    "ControlledExplainer",
    "DREPlus",
    "DeepLift",
    "EdgeDetector",
    "Explainer",
    "ExtremalPerturbation",
    "FeatureInversion",
    "GradCAM",
    "GradCAMPlusPlus",
    "GuidedBackprop",
    "GuidedIG",
    "GuidedPath",
    "InputXGradient",
    "IntegratedGradients",
    "MGnet",
    "MeaningfulPerturbation",
    "PathExplainer",
    "Random",
    "SAMPPlusPlus",
    "SampPath",
    "SmoothGrad",
    "StraightPath",
    "VanillaGradient",
    "bare_gradient",
    "completeness",
    "idgi",
    "idgi_tmlr",
    "riemann",
]
