"""The command line that trains classifiers, and the choice between it and the one that trains mask generators."""

import sys
from collections.abc import Sequence

from pytorch_lightning.cli import LightningArgumentParser
from pytorch_lightning.utilities import rank_zero_info

from dre.cli.arguments import add_choice_of_training, chosen_training
from dre.cli.base import CommandLine, TrainingCommandLine
from dre.models import read_classifier_checkpoint
from dre.modules import ClassifierTraining
from dre.runs.directory import CHECKPOINT


class ClassifierCommandLine(CommandLine):
    """Command line of train.py where it trains a classifier."""

    def __init__(self, args: Sequence[str] | None = None) -> None:
        super().__init__(ClassifierTraining, "configs/train/classifier_birds_efficientnet_lite0.yaml", "runs", args)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the choice that led here."""
        super().add_arguments_to_parser(parser)
        add_choice_of_training(parser, "classifier")

    def run(self) -> None:
        """Train, and say how good the classifier is and how it is explained."""
        self.fit(read_classifier_checkpoint)
        if not self.has_written():
            return
        values = self.trainer.callback_metrics
        shares = [f"top-{k} {100 * values[f'val/top{k}']:.1f} %" for k in (1, 5) if f"val/top{k}" in values]
        if shares:
            images = self.datamodule.expected_images("val")
            rank_zero_info(f"accuracy    {', '.join(shares)} of {images} images at the last validation")
        weights = self.run_directory / CHECKPOINT
        rank_zero_info(f"explain it: dre.models.Classifier(weights='{weights}'), or in a run file:")
        rank_zero_info(f"            --model.classifier.name {self.model.name} --model.classifier.weights {weights}")


def training_command_line(args: Sequence[str] | None = None) -> TrainingCommandLine | ClassifierCommandLine:
    """Build the command line of train.py that fits what is to be trained."""
    wanted = chosen_training(sys.argv[1:] if args is None else args)
    return ClassifierCommandLine(args) if wanted == "classifier" else TrainingCommandLine(args)
