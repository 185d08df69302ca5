"""Explainers by family: class activation maps, gradients, paths, propagation, perturbation, learned explainers."""

from dre.explainers.adapters.captum import Captum
from dre.explainers.adapters.pytorch_grad_cam import PytorchGradCam
from dre.explainers.adapters.zennit import Zennit
from dre.explainers.attention import AttentionRollout, GradientAttention
from dre.explainers.base import Explainer
from dre.explainers.cam import CAM, GradCAM, GradCAMPlusPlus
from dre.explainers.controlled import ControlledExplainer
from dre.explainers.fast_shap import FastSHAP
from dre.explainers.function import FunctionExplainer
from dre.explainers.ggig import GGIG
from dre.explainers.gradient import GuidedBackprop, InputXGradient, VanillaGradient
from dre.explainers.learned import DRE, DREPlus, MGnet
from dre.explainers.nn_explainer import NNExplainer
from dre.explainers.paths.blur import BlurIG, BlurPath
from dre.explainers.paths.guided import GuidedIG, GuidedPath
from dre.explainers.paths.integration import PathExplainer, bare_gradient, completeness, idgi, idgi_tmlr, riemann
from dre.explainers.paths.samp import SAMP, SampPath, SAMPPlusPlus
from dre.explainers.paths.straight import IntegratedGradients, StraightPath
from dre.explainers.perturbation.extremal import ExtremalPerturbation
from dre.explainers.perturbation.feature_inversion import FeatureInversion
from dre.explainers.perturbation.lime import LIME
from dre.explainers.perturbation.meaningful import MeaningfulPerturbation
from dre.explainers.perturbation.rise import RISE
from dre.explainers.precomputed import Precomputed
from dre.explainers.propagation.deep_lift import DeepLift
from dre.explainers.propagation.lrp import LRP, Conservation
from dre.explainers.random import CentredGaussian, EdgeDetector, Random
from dre.explainers.refined import DRERefined
from dre.explainers.smooth_grad import SmoothGrad
from dre.explainers.xrai import XRAI

__all__ = [
    "CAM",
    "DRE",
    "GGIG",
    "LIME",
    "LRP",
    "RISE",
    "SAMP",
    "XRAI",
    "AttentionRollout",
    "BlurIG",
    "BlurPath",
    "Captum",
    "CentredGaussian",
    "Conservation",
    "ControlledExplainer",
    "DREPlus",
    "DRERefined",
    "DeepLift",
    "EdgeDetector",
    "Explainer",
    "ExtremalPerturbation",
    "FastSHAP",
    "FeatureInversion",
    "FunctionExplainer",
    "GradCAM",
    "GradCAMPlusPlus",
    "GradientAttention",
    "GuidedBackprop",
    "GuidedIG",
    "GuidedPath",
    "InputXGradient",
    "IntegratedGradients",
    "MGnet",
    "MeaningfulPerturbation",
    "NNExplainer",
    "PathExplainer",
    "Precomputed",
    "PytorchGradCam",
    "Random",
    "SAMPPlusPlus",
    "SampPath",
    "SmoothGrad",
    "StraightPath",
    "VanillaGradient",
    "Zennit",
    "bare_gradient",
    "completeness",
    "idgi",
    "idgi_tmlr",
    "riemann",
]
