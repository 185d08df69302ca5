"""Evaluation: explain every image with several explainers and score the masked copies that metrics need."""

from collections.abc import Mapping
from typing import Any, Literal

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_warn
from torch import nn

from dre.engine.perturbation import cpu_has_bfloat16
from dre.evaluation.evaluator import Chosen, Evaluator, Explains, OnError, check_name
from dre.explainers import Explainer
from dre.explainers.base import UnsupportedError
from dre.explainers.function import Attribution, Builder, builder_of
from dre.metrics import Explainability, Faithfulness, ImageMean, PearsonSkewness
from dre.models import Classifier, check_class_names
from dre.models.class_names import are_labels_for
from dre.modules.variants import Variants
from dre.renamed import accepts_old_options, say
from dre.types import Batch, Explained, ScoreName, SweepPrecision, in_float32

OF_EVALUATOR = ("cache", "meters", "request", "skipped", "sweeps", "walks")
"""Attributes of version 0.1 that the evaluator holds."""


def default_metrics() -> dict[str, ImageMean]:
    """Return M_F, M_E and the skewness of the maps, the metrics of Fu et al. 2021."""
    return {"faithfulness": Faithfulness(), "explainability": Explainability(), "pearson_skewness": PearsonSkewness()}


@accepts_old_options
class ExplainerEvaluation(pl.LightningModule):
    """Run several named explainers on one classifier; callbacks feed the metrics.

    `evaluator` does so for a batch. `variants` builds the explainers anew under other conditions.

    Args:
        classifier: What is explained; held once and shared by all explainers.
        explainers: Name in tables -> how to build the explainer from the classifier; or a function of a model, images
            and targets that returns maps, see `dre.explainers.FunctionExplainer`.
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
            which `evaluator.skipped` then names with the reason. NaN is no error: the image's values are NaN.
        transfer: Second classifier, which scores the maps of the first for metrics that ask for it, with its own size
            and normalisation. It explains nothing. Images whose target it does not know have no value of such metrics.
        sweep_precision: Precision in which masked images are scored. `bfloat16` is faster and moves scores: such a run
            is neither resumed nor compared as one of `float32`, the precision of the run. Explainers do not change.

    Raises:
        ValueError: `explainers` or `metrics` is empty, or an explainer has no name or one with brackets or slashes.
        UnsupportedError: An explainer does not work for the classifier, and it is to be refused; or none works.

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
        explainers: dict[str, Builder | Attribution],
        metrics: dict[str, ImageMean] | None = None,
        target: Explains = "predicted",
        images: Chosen = "all",
        score: ScoreName = "probability",
        chunk: int | None = None,
        cache: str | None = None,
        unsupported: Literal["refuse", "leave_out"] = "refuse",
        on_error: OnError = "raise",
        transfer: Classifier | None = None,
        sweep_precision: SweepPrecision = "float32",
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
        builders = {name: builder_of(one) for name, one in explainers.items()}
        self.explainers = self._build(builders, refuse=unsupported == "refuse")
        self.metrics: Mapping[str, ImageMean] = default_metrics() if metrics is None else metrics
        self.variants = Variants(classifier, {name: builders[name] for name in self.explainers}, self.explainers)
        self._moved_with_this_module = nn.ModuleList(self.explainers.values())
        self.on_error: OnError = on_error
        self.evaluator = Evaluator(
            classifier,
            self.explainers,
            target=target,
            images=images,
            score=score,
            chunk=chunk,
            cache=cache,
            transfer=transfer,
            sweep_precision=sweep_precision,
        )
        self.transfer = self.evaluator.sweeps.transfer  # a part of this module, too

    def _build(self, explainers: Mapping[str, Builder], refuse: bool) -> dict[str, Explainer]:
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
    def sweep_precision(self) -> SweepPrecision:
        """Return the precision in which masked images are scored."""
        return self.evaluator.sweeps.engines["classifier"].precision

    @property
    def reads_labels(self) -> bool:
        """Return whether the labels of the data decide what is explained."""
        return self.evaluator.reads_labels

    def __getattr__(self, name: str) -> Any:
        """Return what the evaluator holds since 0.2, for callbacks that ask the module for it."""
        if name in OF_EVALUATOR and "evaluator" in vars(self):
            say(f"`ExplainerEvaluation.{name}`", f"`ExplainerEvaluation.evaluator.{name}`")
            return getattr(self.evaluator, name)
        return super().__getattr__(name)

    def setup(self, stage: str) -> None:
        """Check the classes where labels are used; reset the counts of cost, before a resumed run's are added.

        The test loop runs without inference mode, whatever the trainer was told: explainers and studies need gradients.

        Raises:
            ValueError: Labels are used, and the data name no classes or others than the classifier.
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
        self.evaluator.labels_are_classes = self.reads_labels or are_labels_for(data, self.classifier)
        self.evaluator.forget()

    def on_test_start(self) -> None:
        """Make the cache ready for what the classifier and the explainers hold now."""
        if self.sweep_precision == "bfloat16" and self.device.type == "cpu" and not cpu_has_bfloat16():
            rank_zero_warn(
                "this CPU has no instructions for bfloat16, so `sweep_precision: bfloat16` is much slower here than "
                "float32; leave it out"
            )
        self.evaluator.open()

    def test_step(self, batch: Batch, batch_idx: int) -> Explained | None:
        """Explain a batch with every explainer; None when none of its images is to be explained."""
        batch = in_float32(batch)
        return self.evaluator.explain(batch) if self.on_error == "raise" else self.evaluator.explain_or_skip(batch)
