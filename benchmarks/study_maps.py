"""Maps of real photographs for a study of distances: classifiers x data sets x explainers, made once and kept."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from data import ShardDataModule
from data.loader import to_float
from dre.explainers import CentredGaussian, EdgeDetector, Explainer, GradCAM, IntegratedGradients, VanillaGradient
from dre.models import Classifier
from dre.types import Batch

CLASSIFIERS = {
    "lite0": ("tf_efficientnet_lite0", "tf_efficientnet_lite0.timm.pth"),
    "mobilenet": ("mobilenetv2_100", "mobilenetv2_100_same.keras-int8-dequant.timm.pth"),
}
DATA_SETS = ("imagenet", "birds", "places")
EXPLAINERS = ("grad_cam", "gradient", "ig", "gaussian", "edges")


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


def load_classifier(name: str, root: Path) -> Classifier:
    """Build one of the two classifiers with its weights below `root`."""
    model, weights = CLASSIFIERS[name]
    if name == "lite0":
        return Classifier(model, weights=str(root / "weights" / weights))
    import timm  # its padding is an argument that `Classifier` does not pass on

    network = timm.create_model(model, pad_type="same")
    network.load_state_dict(torch.load(root / "weights" / weights, weights_only=True))
    return Classifier.wrap(network, mean=[0.5] * 3, std=[0.5] * 3, name=name)


def explainers(classifier: Classifier, steps: int) -> dict[str, Explainer]:
    """Build the explainers of the study on a classifier."""
    made = (
        GradCAM(classifier),
        VanillaGradient(classifier),
        IntegratedGradients(classifier, steps=steps),
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


def make_maps(root: Path, images: int, steps: int) -> dict[Group, Tensor]:
    """Explain what each classifier predicts: maps [images, 1, 224, 224] of each group, each made once."""
    maps: dict[Group, list[Tensor]] = {}
    for name in CLASSIFIERS:
        classifier = load_classifier(name, root)
        methods = explainers(classifier, steps)
        for data in DATA_SETS:
            groups = {method: group_of(name, data, method) for method in methods}
            missing = {method: group for method, group in groups.items() if group not in maps}
            for batch in photographs(root / data, images, classifier):
                with torch.no_grad():
                    targets = classifier(batch["images"]).argmax(dim=1)
                for method, group in missing.items():
                    maps.setdefault(group, []).append(methods[method](batch["images"], targets, batch["key"]))
    return {group: torch.cat(parts) for group, parts in sorted(maps.items(), key=lambda item: _order(item[0]))}


def _order(group: Group) -> tuple[str, str, str]:
    return group.explainer, group.data, group.classifier
