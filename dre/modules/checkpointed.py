"""Checkpoints of mask training: what is stored, what is refused, and a training built again from one."""

import inspect
from pathlib import Path
from typing import Any, Self

import pytorch_lightning as pl

from dre.engine.class_masks import ClassMaskTerms
from dre.engine.objectives import Constraints
from dre.engine.shapley import ShapleySettings
from dre.models import Classifier, EstimatorSettings, MaskEstimator, check_compatible, check_state
from dre.models.checkpoints import (
    CLASSIFIER_KEY,
    ESTIMATOR_KEY,
    RECIPE_KEY,
    STATE_PREFIX,
    TAPS_KEY,
    read_checkpoint,
    read_taps,
)
from dre.models.packed import with_head
from dre.modules.schedules import StageSchedules

SETTINGS = ("variant", "eta", "h", "monotone", "widths", "upsample", "filter_gain", "evidence", "residual_weight")
"""Options that a checkpoint of any version holds."""

GROUPS = {"constraints": Constraints, "fast_shap": ShapleySettings, "nn_explainer": ClassMaskTerms}
"""Options that a recipe holds as a dict, and what they are."""


class CheckpointedTraining(pl.LightningModule):
    """Store an estimator, its recipe and its classifier's identity in checkpoints, and refuse those that do not fit."""

    classifier: Classifier
    estimator: MaskEstimator
    rates: StageSchedules
    recipe: dict[str, Any]

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]  # Lightning's own cannot know the classifier
        cls, checkpoint_path: str | Path, classifier: Classifier, **options: Any
    ) -> Self:
        """Build the training that wrote a checkpoint, with its weights: to look at, to validate or to train on.

        Args:
            checkpoint_path: A file, a run directory, a directory of runs, of which the newest is taken, or "package".
            classifier: The classifier that it was trained to explain; a checkpoint never holds it.
            options: In place of those of the checkpoint's recipe.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is no checkpoint of mask training, or it is one of another classifier.
        """
        content = read_checkpoint(checkpoint_path)
        check_compatible(content, classifier, checkpoint_path)
        content = with_head(content, classifier, checkpoint_path)
        settings = {key: content[ESTIMATOR_KEY][key] for key in SETTINGS if key in content[ESTIMATOR_KEY]}
        known = inspect.signature(cls.__init__).parameters.keys() - {"self", "classifier"}
        recipe = {key: value for key, value in (content.get(RECIPE_KEY) or {}).items() if key in known}
        try:
            for name, kind in GROUPS.items():
                if isinstance(recipe.get(name), dict):
                    recipe[name] = kind(**recipe[name])
            training = cls(classifier, **{**recipe, **settings, **options})
        except (TypeError, ValueError) as error:
            raise ValueError(f"{checkpoint_path} has no recipe that this version can follow: {error}") from None
        training.on_load_checkpoint(content)
        training.load_state_dict(content["state_dict"], strict=False)
        return training

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the estimator, its recipe and its classifier's identity; leave the classifier out."""
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name: value for name, value in state.items() if name.startswith(STATE_PREFIX)}
        checkpoint[ESTIMATOR_KEY] = self.estimator.settings.to_dict()
        checkpoint[CLASSIFIER_KEY] = self.classifier.identity()
        checkpoint[TAPS_KEY] = [tap.name for tap in self.classifier.taps]
        checkpoint[RECIPE_KEY] = self.recipe

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another classifier or of other settings.

        Raises:
            ValueError: It is one of another classifier or of other settings.
        """
        check_compatible(checkpoint, self.classifier, "this checkpoint")
        ours = self.estimator.settings.to_dict()
        theirs = EstimatorSettings(**checkpoint[ESTIMATOR_KEY]).to_dict()  # a setting that it does not name is default
        differing = [key for key in ours if theirs.get(key) != ours[key]]
        if differing:
            key = differing[0]
            raise ValueError(
                f"the checkpoint was trained with {key} = {theirs.get(key)}, this run has {key} = {ours[key]}; "
                "resume with the configuration that is saved beside the checkpoint"
            )
        check_state(checkpoint["state_dict"], self.estimator, "this checkpoint")
        self._check_taps(checkpoint)
        if self._trainer is not None:
            self.rates.overrule(checkpoint, self.trainer.max_epochs or 0)

    def _check_taps(self, checkpoint: dict[str, Any]) -> None:
        """Read the layers that 0.1 tapped for a checkpoint of 0.1; refuse one that was trained on other layers."""
        taps = read_taps(checkpoint, self.classifier, "this checkpoint")
        theirs, ours = [tap.name for tap in taps], [tap.name for tap in self.classifier.taps]
        if TAPS_KEY not in checkpoint:
            self.classifier.taps = taps
        elif theirs != ours:
            raise ValueError(
                f"the checkpoint was trained on the layers {theirs}, this run reads {ours}; "
                f"give --model.classifier.taps '{theirs}'"
            )
