"""Maps of real photographs for a study of distances: classifiers x data sets x explainers, made once and kept."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from torch import Tensor

from data import ShardDataModule
from data.loader import to_float
from dre.engine.perturbation import SweepBatch, SweepEngine
from dre.explainers import (
    CentredGaussian,
    DeepLift,
    EdgeDetector,
    Explainer,
    GradCAM,
    GuidedBackprop,
    IntegratedGradients,
    VanillaGradient,
)
from dre.metrics import AverageDrop, AverageDropInDeletion, IncreaseInConfidence
from dre.metrics.distribution import relief
from dre.models import Classifier
from dre.types import Batch

CLASSIFIERS = {"lite0": ("efficientnet_lite0", "tf_efficientnet_lite0.timm.pth"), "mobilenet": ("mobilenetv2", None)}
"""Run-file fragment of each, and the file of its weights where it is not the fragment's."""

FRAGMENTS = Path(__file__).parents[2] / "configs" / "classifier"
DATA_SETS = ("imagenet", "birds", "places")
ASKING = ("ig", "gradient", "deep_lift", "guided", "grad_cam")
"""Explainers that ask the classifier: the four of poster 000, and Grad-CAM."""

EXPLAINERS = (*ASKING, "gaussian", "edges")
CONFIDENCE = {
    "IIC": IncreaseInConfidence(),
    "AD": AverageDrop(),
    "ADD": AverageDropInDeletion(),
    "IIC of logits": IncreaseInConfidence(read="logit"),
    "AD of logits, not clamped": AverageDrop(clamp=False, read="logit"),
    "ADD of logits, not clamped": AverageDropInDeletion(clamp=False, read="logit"),
}
"""As published, and as poster 000 seems to read them."""


@dataclass(frozen=True, slots=True)
class Group:
    """One set of maps.

    Args:
        classifier: Its short name; empty for edges, which know no classifier, and for the Gaussian.
        data: Name of the data set; empty for the Gaussian, which is the same for all images.
        explainer: One of `EXPLAINERS`.
    """

    classifier: str
    data: str
    explainer: str

    def __str__(self) -> str:
        """Name it on the axis of a matrix."""
        return " ".join(part for part in (self.explainer, self.data, self.classifier) if part)


class Material(NamedTuple):
    """What the study is made of.

    `maps`: reliefs [N, 1, 224, 224] of each group, float16. `scores`: by (classifier, data, explainer) and name of a
    confidence metric, a value for each image. `objects`: by data set, boxes [N, 1, 224, 224], where there are any.
    """

    maps: dict[Group, Tensor]
    scores: dict[tuple[str, str, str], dict[str, Tensor]]
    objects: dict[str, Tensor]

    def save(self, path: Path) -> None:
        """Write tensors and plain names alone."""
        maps = {(group.classifier, group.data, group.explainer): some for group, some in self.maps.items()}
        torch.save({"maps": maps, "scores": self.scores, "objects": self.objects}, path)

    @classmethod
    def load(cls, path: Path) -> "Material":
        """Read what `save` wrote."""
        content = torch.load(path, weights_only=True)
        maps = {Group(*names): some for names, some in content["maps"].items()}
        return cls(maps, content["scores"], content["objects"])


def settings_of(name: str) -> dict[str, Any]:
    """Give the arguments of one of the two classifiers; its weights are a path below the root of the data."""
    fragment, weights = CLASSIFIERS[name]
    settings = yaml.safe_load((FRAGMENTS / f"{fragment}.yaml").read_text())["init_args"]
    return {**settings, "weights": f"weights/{Path(weights or settings['weights']).name}"}


def load_classifier(name: str, root: Path) -> Classifier:
    """Build one of the two classifiers with its weights below `root`."""
    settings = settings_of(name)
    return Classifier(**{**settings, "weights": str(root / settings["weights"])})


def check_there(root: Path) -> None:
    """Refuse a root that lacks photographs or weights; say all that the study needs and where it comes from."""
    weights = {settings["weights"]: settings["name"] for settings in map(settings_of, CLASSIFIERS)}
    missing = [place for place in (*DATA_SETS, *weights) if not (root / place).exists()]
    if missing:
        files = " and ".join(f"{place}, the timm weights file of {name}" for place, name in weights.items())
        raise FileNotFoundError(
            f"no {', '.join(missing)} in {root}; --data, or DRE_DATA, names a folder with photographs in "
            f"{', '.join(DATA_SETS)} (`python -m data.prepare --help` says where they come from), {files}"
        )


def explainers(classifier: Classifier, steps: int) -> dict[str, Explainer]:
    """Build the explainers of the study on a classifier."""
    made = (
        IntegratedGradients(classifier, steps=steps),
        VanillaGradient(classifier),
        DeepLift(classifier),
        GuidedBackprop(classifier),
        GradCAM(classifier),
        CentredGaussian(classifier),
        EdgeDetector(classifier),
    )
    return dict(zip(EXPLAINERS, made, strict=True))


def photographs(root: Path, images: int, classifier: Classifier) -> Iterator[Batch]:
    """Batches of the first validation photographs of a data set, in the order of their keys' hashes."""
    data = ShardDataModule(
        str(root), eval_batch_size=8, workers=0, limit=images, preprocessing=classifier.preprocessing
    )
    data.setup("test")
    for batch in data.test_dataloader():
        yield to_float(batch)


def group_of(classifier: str, data: str, explainer: str) -> Group:
    """Say which group stands for an explainer where it explains this classifier on these data."""
    return Group(
        "" if explainer in ("edges", "gaussian") else classifier, "" if explainer == "gaussian" else data, explainer
    )


def make_material(root: Path, images: int, steps: int) -> Material:
    """Explain what each classifier predicts, and score the photographs weighted with the reliefs of the maps."""
    check_there(root)
    maps: dict[Group, list[Tensor]] = {}
    scores: dict[tuple[str, str, str], dict[str, list[Tensor]]] = {}
    objects: dict[str, list[Tensor]] = {}
    for name in CLASSIFIERS:
        classifier = load_classifier(name, root)
        methods = explainers(classifier, steps)
        for data in DATA_SETS:
            groups = {method: group_of(name, data, method) for method in methods}
            missing = {group for group in groups.values() if group not in maps}
            for batch in photographs(root / data, images, classifier):
                pixels, keys = batch["images"], list(batch["key"])
                with torch.no_grad():
                    targets = classifier(pixels).argmax(dim=1)
                sweeps = SweepEngine(classifier).batch(pixels, targets, keys)
                for method, group in groups.items():
                    saliency = relief(methods[method](pixels, targets, keys))
                    if group in missing:
                        maps.setdefault(group, []).append(saliency.half())
                    entry = scores.setdefault((name, data, method), {})
                    for metric, values in confidence(sweeps, saliency.float()).items():
                        entry.setdefault(metric, []).append(values)
                if name == "lite0" and "objects" in batch:
                    objects.setdefault(data, []).append(batch["objects"].half())
    ordered = sorted(maps.items(), key=lambda item: _order(item[0]))
    return Material(
        {group: torch.cat(parts) for group, parts in ordered},
        {key: {metric: torch.cat(parts) for metric, parts in entry.items()} for key, entry in scores.items()},
        {data: torch.cat(parts) for data, parts in objects.items()},
    )


def confidence(sweeps: SweepBatch, saliency: Tensor) -> dict[str, Tensor]:
    """Give every confidence metric of a batch, [B] each; NaN where an image is left out."""
    wanted = [sweep for metric in CONFIDENCE.values() for sweep in metric.sweeps.values()]
    read = iter(sweeps.scores(saliency, wanted))
    found = {}
    for name, metric in CONFIDENCE.items():
        metric.update(**{argument: next(read) for argument in metric.sweeps})
        found[name] = metric.latest
    return found


def _order(group: Group) -> tuple[str, str, str]:
    return group.explainer, group.data, group.classifier
