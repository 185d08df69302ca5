"""What tests of studies share: a small evaluation, a run, and what it wrote."""

import hashlib
import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor

from callbacks.studies.study import Study
from dre.explainers import EdgeDetector, Explainer, IntegratedGradients, Random, VanillaGradient
from dre.modules import ExplainerEvaluation
from tests.networks import small_classifier
from tests.training import quiet_trainer

EXPLAINERS = {"vanilla_gradient": VanillaGradient, "edge_detector": EdgeDetector, "random": Random}


class Fragile(Explainer):
    """The magnitude of the gradient; not finite for images whose mean is above a half once the weights are changed."""

    def explain(self, images: Tensor, targets: Tensor) -> Tensor:
        _, gradient = self.probe(targets).gradient(images)
        saliency = gradient.abs().sum(dim=1, keepdim=True)
        is_changed = self.classifier.network.head.weight.sum() != small_classifier().network.head.weight.sum()
        breaks = is_changed & (images.flatten(1).mean(dim=1) > 0.5)
        return saliency.where(~breaks[:, None, None, None], torch.nan)


def steps_explainer(classifier, steps=4, **options):
    return IntegratedGradients(classifier, steps=steps, **options)


def evaluation(explainers=None, **options) -> ExplainerEvaluation:
    return ExplainerEvaluation(small_classifier(), dict(explainers or EXPLAINERS), **options)


def run(
    study: Study, data, root: Path, module=None, drawn: tuple[str, ...] = ("points", "maps"), **options
) -> dict[str, float]:
    """Evaluate with one study and give what was logged.

    Tests that ask for numbers alone draw nothing: pictures take longer than all else.
    """
    root.mkdir(parents=True, exist_ok=True)
    trainer = quiet_trainer(root, callbacks=[study], **options)
    with pytest.MonkeyPatch.context() as patch:
        if "points" not in drawn:
            patch.setattr("callbacks.studies.study.points_figure", lambda *_: Figure(figsize=(1, 1)))
        if "maps" not in drawn:
            patch.setattr(study.maps, "draw", lambda *_: False)
        (logged,) = trainer.test(module or evaluation(), data, verbose=False)
    return logged


def frame(study: Study, root: Path) -> pd.DataFrame:
    return pd.read_parquet(root / f"{study.name}.parquet")


def content(study: Study, root: Path) -> dict:
    return json.loads((root / f"{study.name}.json").read_text())


def first_keys(data, count: int) -> list[str]:
    keys = [key for batch in data.test_dataloader() for key in batch["key"]]
    return sorted(keys, key=lambda key: hashlib.sha256(key.encode()).hexdigest())[:count]
