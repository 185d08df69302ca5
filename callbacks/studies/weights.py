"""Sanity checks by weights: redraw the classifier's weights, or add noise to them, and compare the maps."""

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, ClassVar, Literal, NamedTuple, cast, get_args

import pandas as pd
import pytorch_lightning as pl
from torch import Tensor

from callbacks.image_selection import StudyImage
from callbacks.studies.figures import spread
from callbacks.studies.study import CLASSIFIER, Compare, Row, Study, compared, explain, probability
from dre.checks import check_choice, check_count
from dre.metrics import gradient_correlation, spearman, structural_similarity
from dre.models import Classifier
from dre.modules import ExplainerEvaluation

Order = Literal["top_down", "bottom_up", "independent"]
ORDERS = ("top_down", "bottom_up", "independent")
BatchNorms = Literal["as_built", "folded", "both"]

SIMILARITIES: dict[str, Compare] = {
    "spearman": spearman,
    "spearman_abs": lambda saliency, reference: spearman(saliency.abs(), reference.abs()),
    "ssim": structural_similarity,
    "hog": gradient_correlation,
}
"""By the end of a quantity's name, how a map is compared with the map of the unchanged classifier."""


class Condition(NamedTuple):
    """Hold how far the classifier is changed (`x`), a function that builds the changed copy, and the draws it is."""

    prefix: str
    x: float
    build: Callable[[], Classifier]
    draws: tuple[int, ...] = (0,)


class ChangedClassifier(Study):
    """Compare the maps of changed classifiers with those of the classifier itself, and follow the class's probability.

    The first condition of a curve changes nothing: its similarity is 1 unless an explainer is not deterministic.
    """

    panels_in_a_line: ClassVar[int] = len(SIMILARITIES) + 1

    @abstractmethod
    def conditions(self, evaluation: ExplainerEvaluation) -> list[Condition]:
        """Return the changes, in the order in which they are studied."""

    def points(self, evaluation: ExplainerEvaluation) -> list[tuple[str, float]]:
        """Return every similarity and the probability under each condition, grouped by kind of change."""
        conditions = self.conditions(evaluation)
        prefixes = dict.fromkeys(condition.prefix for condition in conditions)
        named = [(prefix, f"{prefix}_{end}") for prefix in prefixes for end in (*SIMILARITIES, "probability")]
        places = [(quantity, one.x) for prefix, quantity in named for one in conditions if one.prefix == prefix]
        return list(dict.fromkeys(places))

    def drawn(self, evaluation: ExplainerEvaluation) -> set[tuple[str, float]]:
        """Choose the conditions whose maps are drawn: some of the first kind, from the first to the last."""
        first, *_ = conditions = self.conditions(evaluation)
        places = list(dict.fromkeys(one.x for one in conditions if one.prefix == first.prefix))
        return {(first.prefix, x) for x in spread(places)}

    def measure(self, evaluation: ExplainerEvaluation, images: Sequence[StudyImage]) -> Iterator[Row]:
        """Explain every image under every condition."""
        names = self.names(evaluation)
        unchanged = evaluation.variants.explain_with(names)
        references = {
            (name, image.key): explain(explainer, image, image.pixels.to(evaluation.device))
            for image in images
            for name, explainer in unchanged.items()
        }
        del unchanged  # learned explainers are large
        drawn = self.drawn(evaluation)
        self.maps.caption = f"Rows: {self.x_label(next(iter(drawn))[0])}"
        for condition in self.conditions(evaluation) if images else ():
            classifier = condition.build()
            explainers = evaluation.variants.explain_with(names, classifier)
            for image in images:
                pixels = image.pixels.to(evaluation.device)
                value = probability(classifier, image, pixels)
                for draw in condition.draws:
                    yield Row(image.key, CLASSIFIER, f"{condition.prefix}_probability", condition.x, value, draw)
                for name, explainer in explainers.items():
                    saliency = explain(explainer, image, pixels)
                    if condition[:2] in drawn and condition.draws[0] == 0:
                        self.maps.keep(image, name, f"{condition.x:g}", saliency, pixels)
                    yield from _similarities(image.key, name, condition, saliency, references[name, image.key])


class ModelRandomisation(ChangedClassifier):
    """Redraw the classifier's weights and see how much of each map stays: an explanation should not.

    `top_down` redraws from the logits down, more and more, `bottom_up` from the image up; `independent` redraws one
    group of layers at a time. Similarities to the original map: Spearman of the values and of their magnitudes, SSIM,
    and the correlation of histograms of oriented gradients. Logged is the value with everything redrawn, and for
    `independent` the mean over the groups.

    Args:
        images: Images to study.
        explainers: Evaluated explainers to study; all when not given.
        orders: Any of `top_down`, `bottom_up` and `independent`.
        depths: Groups of about equally many layers that are redrawn together; null takes every layer by itself.
        redraw: `initial` draws the usual start of training, `shuffled` permutes each tensor's own values.
        seed: With the name of a tensor it decides what is drawn.
        photographs: Images whose maps are drawn, of the first order, into `model_randomisation_maps.png`.
        colours: A colour map of matplotlib in which they are drawn alone; by default they lie over the photograph.

    Raises:
        ValueError: `images` or `depths` is below 1, `seed` negative, `orders` or `explainers` empty, or a name is
            unknown.

    Source: Adebayo et al. 2018; Rahman et al. 2022, Figures 7 and 21 to 23.
    """

    name = "model_randomisation"

    def __init__(
        self,
        images: int = 16,
        explainers: list[str] | None = None,
        orders: list[Order] | None = None,
        depths: int | None = 8,
        redraw: Literal["initial", "shuffled"] = "initial",
        seed: int = 0,
        photographs: int = 4,
        colours: str | None = None,
    ) -> None:
        super().__init__(images, explainers, photographs, colours)
        self.orders: list[Order] = orders if orders is not None else ["top_down", "independent"]
        if not self.orders:
            raise ValueError(f"`orders` is empty; choose among {', '.join(ORDERS)}")
        for order in self.orders:
            check_choice("orders", order, ORDERS)
        check_choice("redraw", redraw, ("initial", "shuffled"))
        if depths is not None:
            check_count("depths", depths)
        check_count("seed", seed, 0)
        self.depths, self.redraw, self.seed = depths, redraw, seed

    def groups(self, evaluation: ExplainerEvaluation) -> list[list[str]]:
        """Layers that are redrawn together, from the logits down."""
        layers = evaluation.variants.layers()[::-1]
        count = min(self.depths or len(layers), len(layers))
        bounds = [round(place * len(layers) / count) for place in range(count + 1)]
        return [layers[start:stop] for start, stop in pairwise(bounds)]

    def conditions(self, evaluation: ExplainerEvaluation) -> list[Condition]:
        """See `ChangedClassifier`."""
        groups = self.groups(evaluation)
        return [condition for order in self.orders for condition in self._of(order, groups, evaluation)]

    def _of(self, order: Order, groups: list[list[str]], evaluation: ExplainerEvaluation) -> Iterator[Condition]:
        """Return the conditions of one order; their `x` counts layers, for `independent` from the logits down."""

        def build(layers: list[str]) -> Callable[[], Classifier]:
            return lambda: evaluation.variants.randomised(layers, self.seed, self.redraw)

        reached: list[str] = []
        if order != "independent":
            yield Condition(order, 0, build([]))
        for group in groups[::-1] if order == "bottom_up" else groups:
            reached = [*reached, *group]
            yield Condition(order, len(reached), build(group if order == "independent" else reached))

    def x_label(self, quantity: str) -> str:
        """Say which layers were redrawn."""
        ends = {"top_down": "layers redrawn, from the top", "bottom_up": "layers redrawn, from the bottom"}
        return next(
            (label for order, label in ends.items() if quantity.startswith(order)), "layer redrawn, from the top"
        )

    def headlines(self, quantity: str, curve: pd.DataFrame) -> dict[str, float]:
        """Return the value with everything redrawn, or the mean over groups that were redrawn alone."""
        return (
            {"": float(curve["mean"].mean())}
            if quantity.startswith("independent")
            else super().headlines(quantity, curve)
        )

    def settings(self, evaluation: ExplainerEvaluation) -> dict[str, Any]:
        """See `Study`."""
        return {
            "redraw": self.redraw,
            "seed": self.seed,
            "chance": 1 / evaluation.classifier.num_classes,
            "groups": self.groups(evaluation),
        }


class WeightPerturbation(ChangedClassifier):
    """Add noise to every parameter and see how soon the map dissolves with the class's probability.

    With growing noise the probability of the explained class should fall towards one over the number of classes, and
    the similarity of the maps towards 0. Logged is the value at the highest level.

    Args:
        images: Images to study.
        explainers: Evaluated explainers to study; all when not given.
        levels: Standard deviations of the noise, as shares of sigma, ascending from 0.
        draws: How often the noise of a level is drawn. Intervals are over images and draws: those over the images of
            one draw do not see that another draw makes another classifier.
        sigma: Standard deviation of all parameters together (`global`, as the paper has it), or of each `tensor`.
        batch_norms: Add the noise to the parameters `as_built`; to those with batch norms `folded` into the
            convolutions before them, which have another sigma; or to `both`, where what was folded is
            `perturbed_folded_...`. The last needs a classifier that keeps its batch norms (`fold: false`).
        seed: With the level, the draw and the name of a parameter it decides what is drawn.
        photographs: Images whose maps are drawn, into `weight_perturbation_maps.png`.
        colours: A colour map of matplotlib in which they are drawn alone; by default they lie over the photograph.

    Raises:
        ValueError: `levels` do not ascend from 0 on, `images` or `draws` is below 1, or a name is unknown.

    Source: Rahman et al. 2022, Section 4, Figure 4.
    """

    name = "weight_perturbation"

    def __init__(
        self,
        images: int = 16,
        explainers: list[str] | None = None,
        levels: list[float] | None = None,
        draws: int = 3,
        sigma: Literal["global", "tensor"] = "global",
        batch_norms: BatchNorms = "as_built",
        seed: int = 0,
        photographs: int = 4,
        colours: str | None = None,
    ) -> None:
        super().__init__(images, explainers, photographs, colours)
        self.levels = levels if levels is not None else [step / 10 for step in range(11)]
        ascends = all(math.isfinite(level) for level in self.levels) and self.levels == sorted(set(self.levels))
        if not self.levels or not ascends or self.levels[0] < 0:
            raise ValueError(f"`levels` are shares of sigma and must ascend from 0 on, got {self.levels}")
        alike = next((pair for pair in pairwise(self.levels) if len({f"{level:.6g}" for level in pair}) == 1), None)
        if alike is not None:
            raise ValueError(f"`levels` draw their noise by six digits, in which {alike[0]} and {alike[1]} are equal")
        check_choice("sigma", sigma, ("global", "tensor"))
        check_choice("batch_norms", batch_norms, get_args(BatchNorms))
        check_count("draws", draws)
        check_count("seed", seed, 0)
        self.draws, self.sigma, self.batch_norms, self.seed = draws, sigma, batch_norms, seed

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse batch norms that are folded already where they are studied unfolded as well.

        Raises:
            ValueError: The batch norms are folded already, or an explainer that is named cannot be studied.
        """
        super().setup(trainer, pl_module, stage)
        if stage == "test" and self.batch_norms == "both" and cast(ExplainerEvaluation, pl_module).classifier.folded:
            raise ValueError(
                "`batch_norms` of WeightPerturbation is both, and the classifier was built with them folded; "
                "give --model.classifier.init_args.fold false, or batch_norms: as_built"
            )

    def conditions(self, evaluation: ExplainerEvaluation) -> list[Condition]:
        """See `ChangedClassifier`; a level of 0 is the same in all draws and built once."""

        def build(level: float, draw: int, folded: bool) -> Callable[[], Classifier]:
            return lambda: evaluation.variants.noisy(level, self.seed, self.sigma, draw, folded)

        every = tuple(range(self.draws))
        kinds = {"as_built": [("perturbed", False)], "folded": [("perturbed", True)]}
        kinds["both"] = [*kinds["as_built"], ("perturbed_folded", True)]
        return [
            Condition(prefix, level, build(level, draws[0], folded), draws)
            for prefix, folded in kinds[self.batch_norms]
            for level in self.levels
            for draws in ([(draw,) for draw in every] if level > 0 else [every])
        ]

    def x_label(self, quantity: str) -> str:
        """Say what the noise is a share of."""
        return "standard deviation of the noise / sigma"

    def settings(self, evaluation: ExplainerEvaluation) -> dict[str, Any]:
        """See `Study`."""
        return {
            "sigma": self.sigma,
            "draws": self.draws,
            "batch_norms": self.batch_norms,
            "built_folded": bool(evaluation.classifier.folded),
            "seed": self.seed,
            "chance": 1 / evaluation.classifier.num_classes,
        }


def _similarities(key: str, name: str, condition: Condition, saliency: Tensor, reference: Tensor) -> Iterator[Row]:
    for end, compare in SIMILARITIES.items():
        value = compared(compare, saliency, reference)
        for draw in condition.draws:
            yield Row(key, name, f"{condition.prefix}_{end}", condition.x, value, draw)
