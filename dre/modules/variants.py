"""Variants of the evaluated explainers for studies: on a changed classifier, on a device, or in fewer steps."""

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from dre.api import options_of
from dre.engine.cost import Meter
from dre.explainers import Explainer, PathExplainer, Precomputed
from dre.explainers.paths.projection_gap import StepGaps
from dre.explainers.paths.shared import SharedWalks
from dre.models import Classifier
from dre.models.randomisation import Deviation, Redraw, WeightLayer, add_noise, fold, randomise, weight_layers

Explain = Callable[[Tensor, Tensor, list[str]], Tensor]
Measure = Callable[[Tensor, Tensor, list[str]], tuple[Tensor, Tensor]]


class Variants:
    """Build what a study of explainers compares with; classifier and explainers of the evaluation stay as they are.

    Args:
        classifier: What is evaluated.
        builders: Name of each evaluated explainer -> how to build it from a classifier.
        built: The evaluated explainers themselves.
    """

    def __init__(
        self,
        classifier: Classifier,
        builders: Mapping[str, Callable[..., Explainer]],
        built: Mapping[str, Explainer],
    ) -> None:
        self.classifier = classifier
        self.builders, self.built = dict(builders), dict(built)
        self._layers: dict[str, WeightLayer] | None = None

    def explainers(
        self, names: Sequence[str], classifier: Classifier | None = None, steps: int | None = None
    ) -> dict[str, Explainer]:
        """Build explainers anew, so that neither their counts of passes nor what they keep is shared.

        Args:
            names: Of evaluated explainers.
            classifier: What they explain; the evaluated one when not given.
            steps: Instead of what the run file says, for path explainers alone.
        """
        chosen = classifier or self.classifier
        options = {} if steps is None else {"steps": steps}
        return {name: self.builders[name](chosen, **options).to(chosen.mean.device).eval() for name in names}

    def explain_with(
        self, names: Sequence[str], classifier: Classifier | None = None, steps: int | None = None
    ) -> dict[str, Explain]:
        """Build explainers as functions that share walks, see `dre.explainers.paths.shared`.

        A walk is shared when all functions are called for one image before the next.
        """
        walks = SharedWalks(self.explainers(names, classifier, steps))
        return {name: partial(walks.explain, name) for name in names}

    def explain_measured(self, names: Sequence[str]) -> tuple[dict[str, Explain], dict[str, Meter]]:
        """Build explainers as `explain_with` does, and the meters that count their passes.

        Maps that are not finite are returned as they are. What another's walk made is counted at what that took.
        """
        walks = SharedWalks(self.explainers(names))
        meters = {name: Meter(one.cost, one.classifier.network) for name, one in walks.explainers.items()}
        return {name: partial(walks.explain_measured, name, meters) for name in names}, meters

    def step_gaps(self, names: Sequence[str], steps: int) -> dict[str, Measure]:
        """Build path explainers with so many steps, as functions that measure how well these fit.

        See `dre.explainers.paths.projection_gap`.
        """
        built = self.explainers(names, steps=steps)
        return {name: StepGaps(one).measure for name, one in built.items() if isinstance(one, PathExplainer)}

    def is_stored(self, name: str) -> bool:
        """Return whether the maps of an evaluated explainer are read by key, so that a changed image has none."""
        return any(isinstance(part, Precomputed) for part in self.built[name].modules())

    def path_explainers(self) -> list[str]:
        """Name the evaluated explainers that walk a path in a number of steps that can be chosen."""
        return [
            name
            for name, one in self.built.items()
            if isinstance(one, PathExplainer) and "steps" in options_of(type(one))
        ]

    def layers(self) -> list[str]:
        """Name the classifier's layers with weights, from the image up."""
        return list(self._known_layers())

    def randomised(self, layers: Sequence[str], seed: int = 0, redraw: Redraw = "initial") -> Classifier:
        """Return a copy of the classifier in which these layers are drawn anew, see `dre.models.randomisation`."""
        known = self._known_layers()
        return randomise(self.classifier, [known[name] for name in layers], seed, redraw)

    def noisy(
        self, level: float, seed: int = 0, sigma: Deviation = "global", draw: int = 0, folded: bool = False
    ) -> Classifier:
        """Return a copy of the classifier with noise on its parameters, see `dre.models.randomisation`.

        With `folded` its batch norms become part of the convolutions before the noise is added.
        """
        return add_noise(fold(self.classifier) if folded else self.classifier, level, seed, sigma, draw)

    def on_device(self, device: torch.device) -> Classifier:
        """Return a copy of the classifier on another device."""
        return copy.deepcopy(self.classifier).to(device)

    def _known_layers(self) -> dict[str, WeightLayer]:
        if self._layers is None:
            self._layers = {layer.name: layer for layer in weight_layers(self.classifier)}
        return self._layers
