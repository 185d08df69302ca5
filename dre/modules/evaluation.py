"""Evaluation: explain every image with several explainers and score the masked copies that metrics need."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor, nn

from dre.caching import SaliencyCache
from dre.checks import NonFiniteSaliencyError, check_labels
from dre.engine.cost import Meter
from dre.engine.perturbation import SweepBatch, SweepEngine
from dre.explainers import Explainer
from dre.explainers.base import UnsupportedError
from dre.explainers.paths.shared import SharedWalks
from dre.metrics import Explainability, Faithfulness, ImageMean, PearsonSkewness
from dre.models import Classifier, check_class_names
from dre.modules.variants import Variants
from dre.renamed import accepts_old_options
from dre.types import Batch, Explained, ScoreName, Sweep


def default_metrics() -> dict[str, ImageMean]:
    """Return M_F, M_E and the skewness of the maps, the metrics of Fu et al. 2021."""
    return {
        "faithfulness": Faithfulness(),
        "explainability": Explainability(),
        "pearson_skewness": PearsonSkewness(),
    }


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
        self.engine = SweepEngine(classifier, score=score, chunk=chunk)
        self._sweeps: list[Sweep] = []
        self.meters = self._new_meters()

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

    def request(self, sweep: Sweep) -> None:
        """Ask for the scores of these masked copies in every test step; asked twice, it is run once."""
        if sweep not in self._sweeps:
            self._sweeps.append(sweep)

    def setup(self, stage: str) -> None:
        """Check the classes where labels are used; reset the counts of cost, before a resumed run's are added.

        The test loop runs without inference mode, whatever the trainer was told: explainers and studies need gradients.
        """
        for loop in (self.trainer.test_loop, self.trainer.validate_loop, self.trainer.predict_loop):
            loop.inference_mode = False
        data = getattr(self.trainer, "datamodule", None)
        if data is not None and (self.target == "label" or self.images != "all"):
            classifier = self.classifier
            check_class_names(data.class_names(), classifier.class_names, classifier.num_classes, classifier.name)
        self.meters = self._new_meters()

    def on_test_start(self) -> None:
        """Make the cache ready for what the classifier and the explainers hold now."""
        self.walks.forget()
        if self.cache is not None:
            self.cache.open()

    def test_step(self, batch: Batch, batch_idx: int) -> Explained | None:
        """Explain a batch with every explainer; None when none of its images is to be explained."""
        batch = _in_float32(batch)
        images, labels, keys = batch["images"], batch["labels"], list(batch["key"])
        if not keys:
            return None
        targets, kept = self._choose(images, labels, keys)
        if not kept.any():
            return None
        keys = [key for key, keep in zip(keys, kept.tolist(), strict=True) if keep]
        images, labels, targets = images[kept], labels[kept], targets[kept]
        saliency = self._explain_all(images, targets, keys)
        broken = {name: self._set_aside(name, maps, keys) for name, maps in saliency.items()}
        sweeps = self.engine.batch(images, targets, keys)
        scores = {name: self._score(name, sweeps, maps) for name, maps in saliency.items()}
        explained = Explained(
            images=images, labels=labels, targets=targets, key=keys, saliency=saliency, broken=broken, scores=scores
        )
        if "objects" in batch:
            explained["objects"] = batch["objects"][kept]
        return explained

    def _choose(self, images: Tensor, labels: Tensor, keys: list[str]) -> tuple[Tensor, Tensor]:
        """Return the class of each image to explain, [B], and whether it is to be explained, bool [B]."""
        named = labels >= 0
        check_labels(labels, self.classifier.num_classes, keys)
        with torch.no_grad():
            predicted = self.classifier(images).argmax(dim=1)
        if self.target == "label" and not named.all():
            raise ValueError(
                f"{keys[int((~named).nonzero()[0])]} has no label to explain; use --model.target predicted"
            )
        targets = predicted if self.target == "predicted" else labels
        if self.images == "all":
            return targets, torch.ones_like(named)
        right = predicted == labels
        kept = right if self.images == "correct" else named & ~right
        return targets, kept

    def _explain_all(self, images: Tensor, targets: Tensor, keys: list[str]) -> dict[str, Tensor]:
        if self.cache is None:
            return {name: self._explain(name, images, targets, keys) for name in self.explainers}
        batch = self.cache.batch(images, targets, keys)
        maps = {name: batch.maps(name, meter, partial(self._explain, name)) for name, meter in self.meters.items()}
        self.walks.forget()  # those of followers that were in the cache
        return maps

    def _explain(self, name: str, images: Tensor, targets: Tensor, keys: list[str]) -> Tensor:
        made = self.walks.waiting(name, images, targets, keys)
        if made is not None:
            self.meters[name].follow(self.meters[self.walks.leaders[name]], len(images))
            return made
        with self.meters[name].explaining(len(images), images.device):
            try:
                saliency = self.walks.explain(name, images, targets, keys)
            except NonFiniteSaliencyError as failure:
                saliency = failure.saliency
        return saliency

    def _set_aside(self, name: str, saliency: Tensor, keys: list[str]) -> Tensor:
        """Return which maps are not finite, bool [B], and empty them, so that the others can be scored."""
        broken = ~saliency.isfinite().flatten(1).all(dim=1)
        if broken.any():
            said = ", ".join(key for key, is_broken in zip(keys, broken.tolist(), strict=True) if is_broken)
            rank_zero_warn(f"{name} gave maps with NaN or infinity, which are not scored: {said}")
            saliency[broken] = 0
        return broken

    def _score(self, name: str, sweeps: SweepBatch, saliency: Tensor) -> dict[Sweep, Tensor]:
        before = self.engine.forwards
        with self.meters[name].scoring(len(saliency), saliency.device):
            scores = sweeps.scores(saliency, self._sweeps)
        self.meters[name].tally.score_forwards += self.engine.forwards - before
        return dict(zip(self._sweeps, scores, strict=True))

    def _new_meters(self) -> dict[str, Meter]:
        return {name: Meter(explainer.cost) for name, explainer in self.explainers.items()}


def check_name(name: str) -> None:
    """Raise ValueError for the name of an explainer that tables, files and terminals cannot show."""
    if not name.strip() or any(character in "[]/\\" or not character.isprintable() for character in name):
        raise ValueError(
            f"explainer {name!r} needs another name: one that is not empty and has no brackets [ ], slashes or control "
            "characters, as results are logged under stage/explainer/metric"
        )


def _in_float32(batch: Batch) -> Batch:
    """Return a batch whose pixels are float32 where a trainer of half precision rounded them."""
    wide = {
        name: value.float() if isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16) else value
        for name, value in batch.items()
    }
    return cast(Batch, wide)
