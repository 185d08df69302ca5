"""Evaluation of a batch: explain it with several explainers, and score the masked copies that metrics need."""

import copy
import warnings
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from dre.caching import SaliencyCache
from dre.checks import check_labels
from dre.engine.cost import Meter
from dre.engine.scoring import finite_logits, judge, other_class, spread_all
from dre.evaluation.sweeps import EvaluationSweeps, say
from dre.explainers import Explainer
from dre.explainers.paths.shared import SharedWalks
from dre.models import Classifier
from dre.models.class_names import names_of
from dre.types import Batch, Explained, ScoreName, Sweep, SweepPrecision, joined, rows_of

Explains = Literal["predicted", "label"]
"""Which class is explained: the one that the classifier predicts, or the one that the data name."""

Chosen = Literal["all", "correct", "wrong"]
"""Which images are explained: all, or those that the classifier gets right, or wrong."""

OnError = Literal["raise", "skip"]
"""What to do about an image that cannot be read, explained or scored."""


class Evaluator:
    """Turn batches into maps of every explainer and what perturbation sweeps read of them.

    `dre.modules.ExplainerEvaluation` does so for data of any size, `dre.evaluate` for a batch in a notebook; what
    metrics make of it is in `dre.evaluation.measures`. Explainers that walk the same path share the walk; `meters`
    holds the cost of each, with the whole walk counted for each of them, and `other_meters` what the maps of another
    class cost, which is no part of the cost of an explainer.

    Args:
        classifier: What is explained.
        explainers: By name, all of this classifier.
        target: Explain the classifier's own `predicted` class, or the batch's `label`.
        images: Which images of a batch are explained.
        score: Score of the target that sweeps read.
        chunk: Most masked images in one forward pass; chosen by device when not given.
        cache: Directory that keeps maps, rounded to float16, for later runs; none keeps nothing and rounds nothing.
        transfer: Second classifier, which scores the maps of the first for metrics that ask for it.
        sweep_precision: In which masked images are scored; explainers run in the precision of the caller.

    Example:
        >>> from torch import nn
        >>> from dre.explainers import VanillaGradient
        >>> classifier = Classifier.wrap(nn.Sequential(nn.Flatten(), nn.Linear(192, 2)), size=(8, 8))
        >>> evaluator = Evaluator(classifier, {"gradient": VanillaGradient(classifier)})
        >>> batch = {"images": torch.rand(2, 3, 8, 8), "labels": torch.tensor([-1, -1]), "key": ["cat", "dog"]}
        >>> evaluator.explain(batch)["saliency"]["gradient"].shape
        torch.Size([2, 1, 8, 8])
    """

    def __init__(
        self,
        classifier: Classifier,
        explainers: Mapping[str, Explainer],
        *,
        target: Explains = "predicted",
        images: Chosen = "all",
        score: ScoreName = "probability",
        chunk: int | None = None,
        cache: str | None = None,
        transfer: Classifier | None = None,
        sweep_precision: SweepPrecision = "float32",
    ) -> None:
        self.classifier, self.explainers = classifier, dict(explainers)
        self.target, self.images = target, images
        self.walks = SharedWalks(self.explainers)
        self.cache = None if cache is None else SaliencyCache(cache, classifier, self.explainers)
        self.sweeps = EvaluationSweeps(classifier, transfer, score, chunk, sweep_precision)
        self.explains_other_class, self.labels_are_classes = False, True
        self.skipped: dict[str, str] = {}
        self.forget()

    @property
    def reads_labels(self) -> bool:
        """Return whether the labels of the data decide what is explained."""
        return self.target == "label" or self.images != "all"

    def request(self, sweep: Sweep) -> None:
        """Ask for the scores of these masked copies of every batch; asked twice, they are scored once."""
        self.sweeps.request(sweep)

    def forget(self) -> None:
        """Start new counts of cost and of skipped images, before those of a run that is resumed are added."""
        self.meters, self.other_meters, self.skipped = self._new_meters(), self._new_meters(), {}

    def open(self) -> None:
        """Make the cache ready for what the classifier and the explainers hold now."""
        self.walks.forget()
        if self.cache is not None:
            self.cache.open()

    def explain_or_skip(self, batch: Batch) -> Explained | None:
        """Explain a batch as `explain` does; images for which that raises an error are skipped, with the reason."""
        meters = [*self.meters.values(), *self.other_meters.values()]
        tallies = copy.deepcopy([meter.tally for meter in meters])
        try:
            return self.explain(batch)
        except Exception:  # of any explainer, on any image: those that have none are explained one by one
            for meter, tally in zip(meters, tallies, strict=True):
                meter.tally = tally
            self.walks.forget()
        return joined([self._explained_or_skipped(rows_of(batch, [place])) for place in range(len(batch["key"]))])

    def skip(self, key: str, error: Exception) -> None:
        """Leave an image out of the evaluation, and say why."""
        self.skipped[key] = f"{type(error).__name__}: {' '.join(str(error).split())}"
        warnings.warn(f"image {key!r} is skipped: {self.skipped[key]}", stacklevel=2)

    def _explained_or_skipped(self, single: Batch) -> Explained | None:
        try:
            return self.explain(single)
        except Exception as error:
            self.walks.forget()
            self.skip(single["key"][0], error)
        return None

    def explain(self, batch: Batch) -> Explained | None:
        """Explain a batch with every explainer; None when none of its images is to be explained."""
        images, labels, keys = batch["images"], batch["labels"], list(batch["key"])
        if not keys:
            return None
        targets, others, kept, finite, *judged = self._choose(images, labels, keys)
        if not kept.any():
            return None
        keys = [key for key, keep in zip(keys, kept.tolist(), strict=True) if keep]
        images, labels, targets, others, finite = (one[kept] for one in (images, labels, targets, others, finite))
        found = self._of_finite(images, targets, others, keys, finite)
        explained = Explained(
            images=images,
            labels=labels,
            targets=targets,
            key=keys,
            saliency=found["saliency"],
            broken=_without_nan(found["saliency"]),
            scores=found["scores"],
            finite=finite,
            probability=judged[0][kept],
            correct=judged[1][kept],
            target_names=names_of(targets.masked_fill(~finite, -1).tolist(), self.classifier.class_names),
        )
        if "objects" in batch:
            explained["objects"] = batch["objects"][kept]
            by_mask = batch.get("by_mask", torch.zeros(len(kept), dtype=torch.bool))
            explained["by_mask"] = by_mask.to(kept.device)[kept]
        if self.explains_other_class:
            explained["other_saliency"] = found["other_saliency"]
            explained["other_broken"] = _without_nan(found["other_saliency"])
        if self.sweeps.transfer is not None:
            explained["known"] = self.sweeps.transfer.targets(targets) >= 0
        return explained

    def _of_finite(
        self, images: Tensor, targets: Tensor, others: Tensor, keys: list[str], finite: Tensor
    ) -> dict[str, Any]:
        """Return maps and scores of a batch, NaN of the images whose logits are not finite: bool [B] says which are."""
        if finite.all():
            saliency = self._explain_all(images, targets, keys, self.meters)
            scores = self.sweeps.scores(images, targets, keys, saliency, self.meters)
            found: dict[str, Any] = {"saliency": saliency, "scores": scores}
            if self.explains_other_class:
                found["other_saliency"] = self._explain_all(images, others, keys, self.other_meters)
            return found
        if not finite.any():
            maps = images.new_full((len(keys), 1, *images.shape[2:]), torch.nan, dtype=torch.float32)
            blank = {kind: {name: maps.clone() for name in self.explainers} for kind in ("saliency", "other_saliency")}
            return {**blank, "scores": self.sweeps.blank(list(self.explainers), images)}
        known = [key for key, is_finite in zip(keys, finite.tolist(), strict=True) if is_finite]
        found = self._of_finite(images[finite], targets[finite], others[finite], known, finite[finite])
        spread_out: dict[str, Any] = spread_all(found, finite)
        return spread_out

    def _choose(self, images: Tensor, labels: Tensor, keys: list[str]) -> tuple[Tensor, ...]:
        """Return the class of each image to explain, and another, [B]; whether it is to be explained, and can be.

        Behind these are the probability of the class, and whether the prediction is right, see `judge`.
        """
        named = labels >= 0
        if self.reads_labels:
            check_labels(labels, self.classifier.num_classes, keys)
        with torch.no_grad():
            logits = self.classifier(images)
        predicted, finite = logits.argmax(dim=1), finite_logits(logits)
        say(keys, ~finite, f"{self.classifier.name} gave logits with NaN or infinity, so these are not explained")
        if self.target == "label" and not named.all():
            place = int((~named).nonzero()[0])
            raise ValueError(f"{keys[place]} has no label to explain; use --model.target predicted")
        targets = predicted if self.target == "predicted" else labels
        others = other_class(logits, targets)
        judged = judge(logits, targets, labels if self.labels_are_classes else torch.full_like(labels, -1))
        if self.images == "all":
            return targets, others, torch.ones_like(named), finite, *judged
        right = predicted == labels
        kept = right if self.images == "correct" else named & ~right
        return targets, others, kept | ~finite, finite, *judged

    def _explain_all(
        self, images: Tensor, targets: Tensor, keys: list[str], meters: Mapping[str, Meter]
    ) -> dict[str, Tensor]:
        """Return the maps of every explainer, from the cache where they are there, each within its meter."""
        explain = {name: partial(self.walks.explain_measured, name, meters) for name in self.explainers}
        if self.cache is None:
            return {name: one(images, targets, keys) for name, one in explain.items()}
        batch = self.cache.batch(images, targets, keys)
        maps = {name: batch.maps(name, meters[name], one) for name, one in explain.items()}
        self.walks.forget()  # those of followers that were in the cache
        return maps

    def _new_meters(self) -> dict[str, Meter]:
        return {
            name: Meter(explainer.cost, explainer.classifier.network) for name, explainer in self.explainers.items()
        }


def _without_nan(maps: dict[str, Tensor]) -> dict[str, Tensor]:
    """Replace maps that are not finite by zeros, which can be drawn and compared; return which these are, bool [B]."""
    broken = {name: ~saliency.isfinite().flatten(1).all(dim=1) for name, saliency in maps.items()}
    for name, flaws in broken.items():
        maps[name] = maps[name].masked_fill(flaws[:, None, None, None], 0)
    return broken


def check_name(name: str) -> None:
    """Check that tables, files and terminals can show the name of an explainer.

    Raises:
        ValueError: It is empty, or has brackets, slashes or control characters.
    """
    if not name.strip() or any(character in "[]/\\" or not character.isprintable() for character in name):
        raise ValueError(
            f"explainer {name!r} needs another name: one that is not empty and has no brackets [ ], slashes or control "
            "characters, as results are logged under stage/explainer/metric"
        )
