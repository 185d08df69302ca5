"""Projection gap: how far the score where a path rule steps to is from the score that the rule assumes there."""

from collections.abc import Iterator, Sequence
from typing import Any, cast

import pytorch_lightning as pl

from callbacks.image_selection import StudyImage
from callbacks.studies.steps import check_walks
from callbacks.studies.study import Row, Study
from dre.modules import ExplainerEvaluation


class ProjectionGap(Study):
    """Follow |f(x_jp) - f(x_j+1)|, the mean over the steps of a path, against the number of steps.

    x_jp is where IDGI moves from stop j along the gradient, as far as a straight score would need to reach the score
    of stop j + 1: x_j + g (f(x_j+1) - f(x_j)) / |g|^2. IDGI explains the step as if both had the same score. Stops
    without a gradient lead nowhere and are left out. `projection_relative` is the gap over the mean of
    |f(x_j+1) - f(x_j)|. A path that is several walks (SAMP's two directions, several baselines) has one mean over the
    steps of all of them, each step weighted by the magnitude with which its walk counts in the map.

    Args:
        images: Images to study.
        explainers: Evaluated path explainers to study; all when not given. A rule does not change a path.
        steps: Ascending numbers of gradient evaluations.

    Raises:
        ValueError: `steps` are not at least two ascending numbers from 2 on, `images` is below 1, or `explainers`
            empty.

    Source: Singhi and Kumari 2024, Sections 3 and 4.5.1.
    """

    name = "projection_gap"

    def __init__(
        self, images: int = 16, explainers: list[str] | None = None, steps: Sequence[int] = (8, 16, 32, 64, 128)
    ) -> None:
        super().__init__(images, explainers)
        if len(steps) < 2 or steps[0] < 2 or list(steps) != sorted(set(steps)):
            raise ValueError(f"`steps` must be at least two ascending numbers from 2 on, got {list(steps)}")
        self.steps = tuple(steps)

    def names(self, evaluation: ExplainerEvaluation) -> list[str]:
        """Name the explainers whose steps can be chosen, those of a rule left out where their path is there without."""
        walking = evaluation.variants.path_explainers()
        if self.explainers is not None:
            return [name for name in self.explainers if name in walking]
        return [name for name in walking if name.partition("+")[0] not in walking or "+" not in name]

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse explainers without steps, and steps that an explainer refuses, before anything is explained.

        Raises:
            ValueError: An explainer is not evaluated, walks no path in steps, or takes no such number of steps.
        """
        super().setup(trainer, pl_module, stage)
        if stage != "test":
            return
        evaluation = cast(ExplainerEvaluation, pl_module)
        check_walks(evaluation, self.explainers)
        for steps in self.steps:
            evaluation.variants.step_gaps(self.names(evaluation), steps)

    def unsupported(self, evaluation: ExplainerEvaluation) -> str:
        """See `Study`."""
        return "" if self.names(evaluation) else "no path explainer is evaluated"

    def points(self, evaluation: ExplainerEvaluation) -> list[tuple[str, float]]:
        """Return both quantities at every number of steps."""
        return [(name, float(steps)) for name in ("projection_gap", "projection_relative") for steps in self.steps]

    def measure(self, evaluation: ExplainerEvaluation, images: Sequence[StudyImage]) -> Iterator[Row]:
        """Walk every path with every number of steps."""
        for steps in self.steps:
            for name, measure in evaluation.variants.step_gaps(self.names(evaluation), steps).items():
                for image in images:
                    pixels, target = image.pixels.to(evaluation.device), image.target.to(evaluation.device)
                    gap, moved = measure(pixels, target, [image.key])
                    yield Row(image.key, name, "projection_gap", float(steps), float(gap))
                    yield Row(image.key, name, "projection_relative", float(steps), float(gap / moved))

    def x_label(self, quantity: str) -> str:
        """Say what was changed."""
        return "steps"

    def settings(self, evaluation: ExplainerEvaluation) -> dict[str, Any]:
        """See `Study`."""
        return {"steps": list(self.steps)}
