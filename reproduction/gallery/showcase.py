"""List of all explainers in the gallery, grouped by family, with reduced settings for slow ones."""

import inspect
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from dre import explainers
from dre.api import catalogue, method_name, options_of
from dre.explainers import Explainer, idgi
from dre.models import Classifier
from dre.runs.directory import newest_checkpoint
from reproduction.xmgd_study.study_maps import photographs

Settings = Mapping[str, Mapping[str, object]]
"""Options by class, in place of its defaults."""

REDUCED: Settings = {
    "GGIG": {"points": 8, "ascents": 25},
    "RISE": {"masks": 1000},
    "LIME": {"samples": 500},
    "MeaningfulPerturbation": {"iterations": 150},
    "ExtremalPerturbation": {"iterations": 300},
    "FeatureInversion": {"iterations": 40},
}
"""Fewer steps, samples and masks than the defaults, for a picture on a CPU."""

DEMO = Path("data/demo")

RUNS = {"dre": Path("runs/demo"), "mgnet": Path("runs/mgnet_demo")}
"""Where train.py leaves the checkpoints of the learned explainers."""


@dataclass(frozen=True, slots=True)
class Case:
    """Describe one row of the picture.

    Args:
        kind: Class in `dre.explainers`.
        label: Its name in the picture and in tables; that of the method, and of the rule, when not given.
        options: That tell it from other rows.
        learned: Option that takes a checkpoint -> whose it is.
    """

    kind: str
    label: str = ""
    options: Mapping[str, object] = field(default_factory=dict)
    learned: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Return the name of the explainer."""
        method = method_name(getattr(explainers, self.kind))
        return self.label or (f"{method}+idgi" if self.options.get("rule") is idgi else method)

    def build(self, classifier: Classifier, settings: Settings, checkpoints: Mapping[str, str]) -> Explainer:
        """Make the explainer; refuse one whose checkpoint is not among those of `dre` and `mgnet` that there are."""
        if missing := [whose for whose in self.learned.values() if whose not in checkpoints]:
            raise FileNotFoundError(f"no checkpoint of {missing[0]}")
        files = {option: checkpoints[whose] for option, whose in self.learned.items()}
        built: Explainer = getattr(explainers, self.kind)(
            classifier, **{**settings.get(self.kind, {}), **self.options, **files}
        )
        return built

    def changes(self, settings: Settings) -> list[str]:
        """Say which settings differ from the defaults: `points 8 of 25`."""
        defaults = {
            name: parameter.default
            for owner in reversed(getattr(explainers, self.kind).__mro__)
            for name, parameter in inspect.signature(owner).parameters.items()
        }
        own = settings.get(self.kind, {})
        return [f"{name} {value} of {defaults[name]}" for name, value in own.items() if value != defaults[name]]


def _with_idgi(*kinds: str) -> list[Case]:
    return [case for kind in kinds for case in (Case(kind), Case(kind, options={"rule": idgi}))]


BOTH = {"checkpoint": "dre", "mgnet_checkpoint": "mgnet"}
FAMILIES: dict[str, list[Case]] = {
    "Gradients": [
        Case("VanillaGradient"),
        Case("InputXGradient"),
        Case("SmoothGrad"),
        Case("SmoothGrad", "smooth_grad signed", {"kind": "signed"}),
        Case("SmoothGrad", "smooth_grad squared", {"kind": "squared"}),
        Case("GuidedBackprop"),
        Case("GGIG"),
    ],
    "Paths": _with_idgi("IntegratedGradients", "BlurIG", "GuidedIG", "SAMP", "SAMPPlusPlus"),
    "Activation maps": [Case("CAM"), Case("GradCAM"), Case("GradCAMPlusPlus")],
    "Propagation": [Case("LRP"), Case("DeepLift")],
    "Optimised masks": [Case("MeaningfulPerturbation"), Case("ExtremalPerturbation"), Case("FeatureInversion")],
    "Samples and regions": [
        Case("RISE"),
        Case("RISE", "rise by drawn masks", {"divide_by": "drawn"}),
        Case("LIME"),
        Case("XRAI"),
        Case("XRAI", "xrai fast", {"mode": "fast"}),
    ],
    "Learned": [
        Case("DRE", learned={"checkpoint": "dre"}),
        Case("MGnet", learned={"checkpoint": "mgnet"}),
        Case("DREPlus", learned={"checkpoint": "dre"}),
        Case("DRERefined", learned={"checkpoint": "dre"}),
        Case("DREPlus", "dre_plus by mgnet", {"by": "mgnet"}, BOTH),
    ],
    "The controller on the maps of another": [
        Case("ControlledExplainer", "controlled gradient", {"explainer": explainers.VanillaGradient}),
        Case("ControlledExplainer", "controlled grad_cam", {"explainer": explainers.GradCAM}),
    ],
    "References": [Case("Random"), Case("CentredGaussian"), Case("EdgeDetector")],
}


def families(only: Collection[str] = ()) -> dict[str, list[Case]]:
    """Return the cases of each family, and under `Others` explainers that this list does not know yet.

    Args:
        only: Names of the cases that are wanted; all when there are none.
    """
    listed = {case.kind for cases in FAMILIES.values() for case in cases}
    others = [Case(kind.__name__) for kind in catalogue().values() if kind.__name__ not in listed]
    everything = FAMILIES | {"Others": others}
    names = [case.name for cases in everything.values() for case in cases]
    if unknown := sorted(set(only) - set(names)):
        raise ValueError(f"unknown explainer {unknown[0]!r}; choose {', '.join(names)}")
    kept = {family: [case for case in cases if not only or case.name in only] for family, cases in everything.items()}
    return {family: cases for family, cases in kept.items() if cases}


def settings_of(reduced: Settings, changes: Iterable[str]) -> Settings:
    """Put changes such as `GGIG.points=8` in place of the reduced settings."""
    found = {kind: dict(options) for kind, options in reduced.items()}
    for change in changes:
        place, _, value = change.partition("=")
        kind, _, option = place.partition(".")
        if kind not in explainers.__all__ or option not in options_of(getattr(explainers, kind)) or not value:
            raise ValueError(f"--set takes CLASS.OPTION=NUMBER, such as GGIG.points=8, got {change!r}")
        found.setdefault(kind, {})[option] = float(value) if "." in value else int(value)
    return found


def find_checkpoints(given: Mapping[str, Path | None]) -> dict[str, str]:
    """Return the checkpoint of each learned explainer; say of one without that it is left out.

    Args:
        given: A file or a folder of runs for each, or None for the newest of the demo's.
    """
    found = {}
    for name, path in given.items():
        try:
            found[name] = str(newest_checkpoint(path or RUNS[name]))
            print(f"{name}: {found[name]}")
        except FileNotFoundError as error:
            print(f"{name}: left out, {error}")
    return found


def demo_batch(root: Path, images: int, classifier: Classifier) -> tuple[Tensor, Tensor, list[str]]:
    """Return photographs [B, C, H, W], the classes that the classifier gives them, and their keys."""
    batches = list(photographs(root, images, classifier))
    pixels = torch.cat([batch["images"] for batch in batches])
    with torch.no_grad():
        targets = torch.cat([classifier(batch["images"]).argmax(dim=1) for batch in batches])
    return pixels, targets, [key for batch in batches for key in batch["key"]]


def attempt(
    case: Case,
    classifier: Classifier,
    batch: tuple[Tensor, Tensor, list[str]],
    settings: Settings,
    checkpoints: Mapping[str, str],
) -> tuple[Explainer, Tensor] | None:
    """Return the explainer and its maps of a batch; say why not when it fails, and give nothing."""
    try:
        explainer = case.build(classifier, settings, checkpoints)
        return explainer, explainer(*batch)
    except Exception as error:  # whatever ails one explainer, the others go on
        print(f"{case.name:24} FAILED: {type(error).__name__}: {error}", flush=True)
        return None
