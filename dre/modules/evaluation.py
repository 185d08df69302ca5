"""Evaluation: explain every image with several explainers and score the masked copies that metrics need."""

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor, nn

from dre.caching import SaliencyCache
from dre.checks import NonFiniteError, NonFiniteSaliencyError, check_labels
from dre.engine.cost import Meter
from dre.engine.perturbation import SweepBatch, SweepEngine
from dre.engine.scoring import finite_logits, spread
from dre.explainers import Explainer
from dre.explainers.base import UnsupportedError
from dre.explainers.paths.shared import SharedWalks
from dre.metrics import Explainability, Faithfulness, ImageMean, PearsonSkewness
from dre.models import Classifier, check_class_names
from dre.modules.variants import Variants
from dre.renamed import accepts_old_options
from dre.types import Batch, Explained, ScoreName, Sweep, in_float32, joined, rows_of

OnError = Literal["raise", "skip"]
"""What to do about an image that cannot be read, explained or scored."""


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
        on_error: What to do about an image for which an explainer raises an error: `raise` it, or `skip` the image,
            which `skipped` then names with the reason. NaN is no error: the image's values are NaN.

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
        self.on_error: OnError = on_error
        self.skipped: dict[str, str] = {}
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
        self.meters, self.skipped = self._new_meters(), {}

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
        tallies = copy.deepcopy({name: meter.tally for name, meter in self.meters.items()})
        try:
            return self._explained(batch)
        except Exception:  # of any explainer, on any image: those that have none are explained one by one
            for name, tally in tallies.items():
                self.meters[name].tally = tally
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
        targets, kept, finite = self._choose(images, labels, keys)
        if not kept.any():
            return None
        keys = [key for key, keep in zip(keys, kept.tolist(), strict=True) if keep]
        images, labels, targets, finite = images[kept], labels[kept], targets[kept], finite[kept]
        saliency, scores = self._of_finite(images, targets, keys, finite)
        broken = {name: ~maps.isfinite().flatten(1).all(dim=1) for name, maps in saliency.items()}
        for name, flaws in broken.items():  # a broken map can be drawn, and compared, like any other
            saliency[name] = saliency[name].masked_fill(flaws[:, None, None, None], 0)
        explained = Explained(
            images=images, labels=labels, targets=targets, key=keys, saliency=saliency, broken=broken, scores=scores
        )
        explained["finite"] = finite
        if "objects" in batch:
            explained["objects"] = batch["objects"][kept]
        return explained

    def _of_finite(
        self, images: Tensor, targets: Tensor, keys: list[str], finite: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, dict[Sweep, Tensor]]]:
        """Return maps and scores of a batch, NaN of the images whose logits are not finite: bool [B] says which are."""
        if not finite.any():
            maps = images.new_full((len(keys), 1, *images.shape[2:]), torch.nan, dtype=torch.float32)
            scores = {sweep: maps.new_full((len(keys), sweep.columns), torch.nan) for sweep in self._sweeps}
            return {name: maps.clone() for name in self.explainers}, {name: scores for name in self.explainers}
        if finite.all():
            saliency = self._explain_all(images, targets, keys)
            sweeps = self.engine.batch(images, targets, keys)
            return saliency, {name: self._score(name, sweeps, maps, keys) for name, maps in saliency.items()}
        known = [key for key, is_finite in zip(keys, finite.tolist(), strict=True) if is_finite]
        saliency, found = self._of_finite(images[finite], targets[finite], known, finite[finite])
        scores_of = {
            name: {sweep: spread(read, finite) for sweep, read in of_name.items()} for name, of_name in found.items()
        }
        return {name: spread(maps, finite) for name, maps in saliency.items()}, scores_of

    def _choose(self, images: Tensor, labels: Tensor, keys: list[str]) -> tuple[Tensor, Tensor, Tensor]:
        """Return the class of each image to explain, [B], whether it is to be explained, and whether it can be."""
        named = labels >= 0
        check_labels(labels, self.classifier.num_classes, keys)
        with torch.no_grad():
            logits = self.classifier(images)
        predicted, finite = logits.argmax(dim=1), finite_logits(logits)
        _say(keys, ~finite, f"{self.classifier.name} gave logits with NaN or infinity, so these are not explained")
        if self.target == "label" and not named.all():
            raise ValueError(
                f"{keys[int((~named).nonzero()[0])]} has no label to explain; use --model.target predicted"
            )
        targets = predicted if self.target == "predicted" else labels
        if self.images == "all":
            return targets, torch.ones_like(named), finite
        right = predicted == labels
        kept = right if self.images == "correct" else named & ~right
        return targets, kept | ~finite, finite

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
                return self.walks.explain(name, images, targets, keys)
            except NonFiniteSaliencyError as failure:
                return failure.saliency
            except NonFiniteError:
                if len(keys) == 1:
                    return images.new_full((1, 1, *images.shape[2:]), torch.nan, dtype=torch.float32)
            alone = [self._explain_alone(name, images, targets, keys, place) for place in range(len(keys))]
            return torch.cat(alone)

    def _explain_alone(self, name: str, images: Tensor, targets: Tensor, keys: list[str], place: int) -> Tensor:
        """Explain one image of a batch; NaN where something in between is not finite."""
        row = slice(place, place + 1)
        try:
            return self.walks.explain(name, images[row], targets[row], keys[row])
        except NonFiniteSaliencyError as failure:
            return failure.saliency
        except NonFiniteError:
            return images.new_full((1, 1, *images.shape[2:]), torch.nan, dtype=torch.float32)

    def _score(self, name: str, sweeps: SweepBatch, saliency: Tensor, keys: list[str]) -> dict[Sweep, Tensor]:
        """Return what the sweeps read of one explainer's maps, of those that are finite."""
        broken = ~saliency.isfinite().flatten(1).all(dim=1)
        _say(keys, broken, f"{name} gave maps with NaN or infinity, which are not scored")
        before = self.engine.forwards
        with self.meters[name].scoring(len(saliency), saliency.device):
            masked = saliency.masked_fill(broken[:, None, None, None], 0.0) if broken.any() else saliency
            scores = sweeps.scores(masked, self._sweeps, finite=False)
        self.meters[name].tally.score_forwards += self.engine.forwards - before
        unread = torch.stack([~read.isfinite().all(dim=1) for read in scores]).any(dim=0) if scores else broken
        _say(keys, unread & ~broken, f"{self.classifier.name} gave NaN or infinity for masked copies by {name}")
        return dict(zip(self._sweeps, scores, strict=True))

    def _new_meters(self) -> dict[str, Meter]:
        return {name: Meter(explainer.cost) for name, explainer in self.explainers.items()}


def _say(keys: Sequence[str], rows: Tensor, what: str) -> None:
    """Warn about the images that bool [B] marks, by name."""
    if rows.any():
        said = ", ".join(key for key, is_meant in zip(keys, rows.tolist(), strict=True) if is_meant)
        rank_zero_warn(f"{what}: {said}")


def check_name(name: str) -> None:
    """Raise ValueError for the name of an explainer that tables, files and terminals cannot show."""
    if not name.strip() or any(character in "[]/\\" or not character.isprintable() for character in name):
        raise ValueError(
            f"explainer {name!r} needs another name: one that is not empty and has no brackets [ ], slashes or control "
            "characters, as results are logged under stage/explainer/metric"
        )
