"""Evaluation: explain every image with several explainers and score the masked copies that metrics need."""

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor, nn

from dre.caching import SaliencyCache
from dre.checks import check_labels
from dre.engine.cost import Meter
from dre.engine.scoring import finite_logits, judge, other_class, spread_all
from dre.explainers import Explainer
from dre.explainers.base import UnsupportedError
from dre.explainers.paths.shared import SharedWalks
from dre.metrics import Explainability, Faithfulness, ImageMean, PearsonSkewness
from dre.models import Classifier, check_class_names
from dre.models.class_names import are_labels_for, names_of
from dre.modules.sweeps import EvaluationSweeps, say
from dre.modules.variants import Variants
from dre.renamed import accepts_old_options
from dre.types import Batch, Explained, ScoreName, Sweep, in_float32, joined, rows_of

OnError = Literal["raise", "skip"]
"""What to do about an image that cannot be read, explained or scored."""


def default_metrics() -> dict[str, ImageMean]:
    """Return M_F, M_E and the skewness of the maps, the metrics of Fu et al. 2021."""
    return {"faithfulness": Faithfulness(), "explainability": Explainability(), "pearson_skewness": PearsonSkewness()}


@accepts_old_options
class ExplainerEvaluation(pl.LightningModule):
    """Run several named explainers on one classifier; it knows no metric, callbacks say which sweeps they need.

    Explainers that walk the same path share the walk; `meters` holds the cost of each, with the whole walk counted for
    each of them. `variants` builds the explainers anew under other conditions.

    Args:
        classifier: What is explained; held once and shared by all explainers.
        explainers: Name in tables -> how to build the explainer from the classifier.
        metrics: Name in tables -> what `callbacks.ExplanationMetrics` computes; M_F, M_E and skewness when not given.
        target: Explain the classifier's own `predicted` class, or the data's `label`.
        images: `all`, or only those that the classifier gets right (`correct`), or `wrong`.
        score: Score of the target that sweeps read.
        chunk: Most masked images in one forward pass; chosen by device when not given.
        cache: Directory that keeps maps, rounded to float16, for later runs; none keeps nothing and rounds nothing.
        unsupported: What to do about explainers that do not work for the classifier: `refuse`, or `leave_out`, which
            `left_out` then names with the reason. On the command line, generators that a run file names and that were
            not trained are left out too.
        on_error: What to do about an image for which an explainer raises an error: `raise` it, or `skip` the image,
            which `skipped` then names with the reason. NaN is no error: the image's values are NaN.
        transfer: Second classifier, which scores the maps of the first for metrics that ask for it, with its own size
            and normalisation. It explains nothing. Images whose target it does not know have no value of such metrics.

    Example:
        >>> from torch import nn
        >>> from dre.explainers import Random, VanillaGradient
        >>> from dre.models import Classifier
        >>> classifier = Classifier.wrap(nn.Sequential(nn.Flatten(), nn.Linear(192, 2)), size=(8, 8))
        >>> evaluation = ExplainerEvaluation(classifier, {"gradient": VanillaGradient, "random": Random})
        >>> list(evaluation.explainers)  # then Trainer().test(evaluation, data)
        ['gradient', 'random']
    """

    def __init__(
        self,
        classifier: Classifier,
        explainers: dict[str, Callable[[Classifier], Explainer]],
        metrics: dict[str, ImageMean] | None = None,
        target: Literal["predicted", "label"] = "predicted",
        images: Literal["all", "correct", "wrong"] = "all",
        score: ScoreName = "probability",
        chunk: int | None = None,
        cache: str | None = None,
        unsupported: Literal["refuse", "leave_out"] = "refuse",
        on_error: OnError = "raise",
        transfer: Classifier | None = None,
    ) -> None:
        super().__init__()
        if not explainers:
            raise ValueError("no explainer to evaluate; name at least one under `model.explainers`")
        if metrics is not None and not metrics:
            raise ValueError("`metrics` is empty; name at least one, or leave it out for M_F, M_E and the skewness")
        for name in explainers:
            check_name(name)
        self.classifier = classifier
        self.left_out: dict[str, str] = {}
        self.explainers = self._build(explainers, refuse=unsupported == "refuse")
        self.metrics: Mapping[str, ImageMean] = default_metrics() if metrics is None else metrics
        self.walks = SharedWalks(self.explainers)
        builders = {name: explainers[name] for name in self.explainers}
        self.variants = Variants(classifier, builders, self.explainers)
        self._moved_with_this_module = nn.ModuleList(self.explainers.values())
        self.cache = None if cache is None else SaliencyCache(cache, classifier, self.explainers)
        self.target, self.images = target, images
        self.sweeps = EvaluationSweeps(classifier, transfer, score, chunk)
        self.transfer = self.sweeps.transfer  # a part of this module, too
        self.engine = self.sweeps.engines["classifier"]
        self.explains_other_class, self.labels_are_classes = False, True
        self.on_error: OnError = on_error
        self.skipped: dict[str, str] = {}
        self.meters, self.other_meters = self._new_meters(), self._new_meters()

    def _build(self, explainers: Mapping[str, Callable[[Classifier], Explainer]], refuse: bool) -> dict[str, Explainer]:
        """Build the explainers; those that do not work for the classifier are left out, unless they are refused."""
        built: dict[str, Explainer] = {}
        for name, build in explainers.items():
            try:
                built[name] = build(self.classifier)
            except UnsupportedError as error:
                if refuse or len(self.left_out) + 1 == len(explainers):
                    raise
                self.left_out[name] = str(error)
                rank_zero_warn(f"{name} is left out: {self.left_out[name]}")
        return built

    @property
    def reads_labels(self) -> bool:
        """Return whether the labels of the data decide what is explained."""
        return self.target == "label" or self.images != "all"

    def request(self, sweep: Sweep) -> None:
        """Ask for the scores of these masked copies in every test step; asked twice, it is run once."""
        self.sweeps.request(sweep)

    def request_other_class(self) -> None:
        """Ask for maps of another class in every test step, see `dre.engine.scoring.other_class`.

        `other_meters` holds what they cost, which is no part of the cost of an explainer.
        """
        self.explains_other_class = True

    def setup(self, stage: str) -> None:
        """Check the classes where labels are used; reset the counts of cost, before a resumed run's are added.

        The test loop runs without inference mode, whatever the trainer was told: explainers and studies need gradients.
        """
        for loop in (self.trainer.test_loop, self.trainer.validate_loop, self.trainer.predict_loop):
            loop.inference_mode = False
        data = getattr(self.trainer, "datamodule", None)
        if data is not None and self.reads_labels:
            classifier = self.classifier
            if not getattr(data, "has_labels", lambda: True)():
                raise ValueError(
                    "the data name no classes, which `target: label` and `images: correct` or `wrong` need: use "
                    "--model.target predicted with --model.images all"
                )
            check_class_names(data.class_names(), classifier.class_names, classifier.num_classes, classifier.name)
        self.labels_are_classes = self.reads_labels or are_labels_for(data, self.classifier)
        self.meters, self.other_meters, self.skipped = self._new_meters(), self._new_meters(), {}

    def on_test_start(self) -> None:
        """Make the cache ready for what the classifier and the explainers hold now."""
        self.walks.forget()
        if self.cache is not None:
            self.cache.open()

    def test_step(self, batch: Batch, batch_idx: int) -> Explained | None:
        """Explain a batch with every explainer; None when none of its images is to be explained."""
        batch = in_float32(batch)
        if self.on_error == "raise" or not batch["key"]:
            return self._explained(batch)
        meters = [*self.meters.values(), *self.other_meters.values()]
        tallies = copy.deepcopy([meter.tally for meter in meters])
        try:
            return self._explained(batch)
        except Exception:  # of any explainer, on any image: those that have none are explained one by one
            for meter, tally in zip(meters, tallies, strict=True):
                meter.tally = tally
            self.walks.forget()
        return joined([self._explained_or_skipped(rows_of(batch, [place])) for place in range(len(batch["key"]))])

    def skip(self, key: str, error: Exception) -> None:
        """Leave an image out of the evaluation, and say why."""
        self.skipped[key] = f"{type(error).__name__}: {' '.join(str(error).split())}"
        rank_zero_warn(f"image {key!r} is skipped: {self.skipped[key]}")

    def _explained_or_skipped(self, single: Batch) -> Explained | None:
        try:
            return self._explained(single)
        except Exception as error:
            self.walks.forget()
            self.skip(single["key"][0], error)
        return None

    def _explained(self, batch: Batch) -> Explained | None:
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
        if self.explains_other_class:
            explained["other_saliency"] = found["other_saliency"]
            explained["other_broken"] = _without_nan(found["other_saliency"])
        if self.transfer is not None:
            explained["known"] = self.transfer.targets(targets) >= 0
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
    """Raise ValueError for the name of an explainer that tables, files and terminals cannot show."""
    if not name.strip() or any(character in "[]/\\" or not character.isprintable() for character in name):
        raise ValueError(
            f"explainer {name!r} needs another name: one that is not empty and has no brackets [ ], slashes or control "
            "characters, as results are logged under stage/explainer/metric"
        )
