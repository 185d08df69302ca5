"""Command lines of train.py: training of mask generators, training of classifiers, and the choice between them."""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from pytorch_lightning.cli import LightningArgumentParser
from pytorch_lightning.utilities import rank_zero_info, rank_zero_only

from dre.cli.arguments import add_choice_of_training, chosen_training
from dre.cli.base import CommandLine
from dre.cli.repository import Kind, located, shipped_path
from dre.explainers import DRE, FastSHAP, MGnet, NNExplainer
from dre.explainers.function import Attribution, Builder
from dre.models import read_checkpoint, read_classifier_checkpoint
from dre.modules import ClassifierTraining, ExplainerEvaluation, MaskTraining
from dre.runs.directory import CHECKPOINT, DEFAULT_TRAINING, amend_record

LEARNED = {kind.variant: kind for kind in (DRE, MGnet, FastSHAP, NNExplainer)}
"""Explainer of each variant."""

SCORED_TOGETHER = "learned"
"""Run file that scores the learned explainers which the one named as the run does not have."""


class TrainingCommandLine(CommandLine):
    """Train a mask generator and, if asked for, score it beside the explainers of `--score.explainers`."""

    kind: ClassVar[Kind] = "train"

    def __init__(self, args: Sequence[str] | None = None) -> None:
        super().__init__(MaskTraining, str(DEFAULT_TRAINING), "runs", args)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the explainers that are scored at the end."""
        super().add_arguments_to_parser(parser)
        add_choice_of_training(parser, "masks")
        parser.add_argument(
            "--score.explainers",
            type=dict[str, Builder | Attribution],
            default={},
            help="Explainers to score beside the trained one when training ends; none skips the score.",
            sub_configs=True,
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse; runs of DRE's rivals get a folder of their own, whatever run file they are based on.

        Raises:
            ValueError: An explainer of `--score.explainers` has the name under which the trained generator is scored.
        """
        super().parse_arguments(parser, args)
        variant = self.config.model.variant
        if variant in (self.config.score.explainers or {}):
            raise ValueError(
                f"--score.explainers.{variant} would stand for the generator that is trained, which is scored under "
                "that name; give it another one"
            )
        if variant != "dre" and variant not in self.config.name:
            self.config.name = f"{variant}_{self.config.name}"

    def instantiate_classes(self) -> None:
        """Build everything and record the recipe: the options of the training, those that were not given too."""
        super().instantiate_classes()
        if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
            amend_record(self.run_directory, {"recipe": self.model.recipe})

    def run(self) -> None:
        """Train, then score the last checkpoint and print where the results are."""
        self.fit(read_checkpoint)
        others = self.config_init.score.explainers
        name = self.model.estimator.settings.variant
        if others:
            learned = partial(LEARNED[name].from_estimator, estimator=self.model.estimator.eval())
            evaluation = ExplainerEvaluation(self.model.classifier, {name: learned, **others})
            with self.stop.exiting(lambda: "stopped while the explainers were scored; the training is complete"):
                self.trainer.test(evaluation, datamodule=self.datamodule, verbose=False)
        if self.has_written():
            self._print_next_step(name)

    def _print_next_step(self, variant: str) -> None:
        """Print the path of the gallery and, where a run file scores this kind of run, the next command."""
        checkpoint, gallery = self.run_directory / CHECKPOINT, self.run_directory / "gallery.png"
        if gallery.is_file():
            rank_zero_info(f"gallery     {gallery}")
        own = self.config.name.removeprefix(f"{variant}_") if variant in ("dre", "mgnet") else SCORED_TOGETHER
        run_file = Path("configs/evaluate") / f"{own}.yaml"
        option = "ckpt_path" if variant == "dre" else f"{variant}_ckpt_path"
        if Path(shipped_path(str(run_file))).is_file():
            rank_zero_info(f"score it on all images: python evaluate.py --config {run_file} --{option} {checkpoint}")


class ClassifierCommandLine(CommandLine):
    """Train a classifier."""

    kind: ClassVar[Kind] = "train"

    def __init__(self, args: Sequence[str] | None = None) -> None:
        super().__init__(ClassifierTraining, "configs/train/classifier_birds_efficientnet_lite0.yaml", "runs", args)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add `--train`, which is `classifier` here."""
        super().add_arguments_to_parser(parser)
        add_choice_of_training(parser, "classifier")

    def run(self) -> None:
        """Train, then print the accuracy and how to explain the classifier, or how a surrogate is used."""
        self.fit(read_classifier_checkpoint)
        if not self.has_written():
            return
        values = self.trainer.callback_metrics
        shares = [f"top-{k} {100 * values[f'val/top{k}']:.1f} %" for k in (1, 5) if f"val/top{k}" in values]
        if shares:
            images = self.datamodule.expected_images("val")
            what = "agreement" if self.model.task else "accuracy "
            rank_zero_info(f"{what}   {', '.join(shares)} of {images} images at the last validation")
        weights = self.run_directory / CHECKPOINT
        if self.model.task:
            rank_zero_info(f"use it: python train.py --config fast_shap --model.fast_shap.surrogate {weights}")
            return
        rank_zero_info(f"explain it: dre.models.Classifier(weights='{weights}'), or in a run file:")
        rank_zero_info(f"            --model.classifier.name {self.model.name} --model.classifier.weights {weights}")


def training_command_line(args: Sequence[str] | None = None) -> TrainingCommandLine | ClassifierCommandLine:
    """Return the command line of train.py for what is to be trained."""
    wanted = chosen_training(located(sys.argv[1:] if args is None else args, "train"))
    return ClassifierCommandLine(args) if wanted == "classifier" else TrainingCommandLine(args)
