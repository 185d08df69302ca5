"""Background replacement: explain images again with a checkerboard behind the object, and compare the maps."""

from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from callbacks.image_selection import StudyImage
from callbacks.studies.study import CLASSIFIER, Row, Study, compared, explain, probability
from dre.checks import check_count
from dre.images.fill import blend, checkerboard
from dre.metrics import background_share, inside, spearman
from dre.modules import ExplainerEvaluation

OF_EXPLAINERS = ("spearman_inside", "spearman_abs_inside", "share_before", "share_after", "share_moved")
OF_CLASSIFIER = ("probability_before", "probability_after", "same_class", "area")


class BackgroundReplacement(Study):
    """Replace what lies outside the object by a black and white checkerboard and explain the same class again.

    For each explainer: Spearman's correlation of both maps on the pixels of the object, of values and of magnitudes;
    the share of the normalised saliency on the background before and after, and the difference, `share_moved`. For the
    classifier: the probability of the class before and after, how often it is still the best one, and the
    background's share of the area, which is the share that a random map has there.

    The object is the mask of an image or else its boxes. Images without an object, or which it fills, are left out and
    counted.

    Args:
        images: Images to study.
        explainers: Evaluated explainers to study; all when not given.
        cell: Side of a square of the checkerboard in pixels.
        photographs: Images whose maps are drawn into `background_replacement_maps.png`.
        colours: A colour map of matplotlib in which they are drawn alone; by default they lie over the photograph.

    Raises:
        ValueError: `images` or `cell` is below 1, `photographs` negative, `explainers` empty, or the colour map
            unknown.

    Source: Rahman et al. 2022, Figures 8, 19 and 20; what is measured is our choice, the paper shows pictures.
    """

    name = "background_replacement"
    with_objects = True

    def __init__(
        self,
        images: int = 16,
        explainers: list[str] | None = None,
        cell: int = 16,
        photographs: int = 4,
        colours: str | None = None,
    ) -> None:
        super().__init__(images, explainers, photographs, colours)
        check_count("cell", cell)
        self.cell = cell

    def points(self, evaluation: ExplainerEvaluation) -> list[tuple[str, float]]:
        """Return each quantity with its only place, 0."""
        return [(f"checkerboard_{name}", 0.0) for name in (*OF_EXPLAINERS, *OF_CLASSIFIER)]

    def settings(self, evaluation: ExplainerEvaluation) -> dict[str, Any]:
        """See `Study`."""
        return {"cell": self.cell}

    def measure(self, evaluation: ExplainerEvaluation, images: Sequence[StudyImage]) -> Iterator[Row]:
        """Explain every image on its own background and on the checkerboard."""
        explainers = evaluation.variants.explain_with(self.names(evaluation))
        for image in images:
            pixels = image.pixels.to(evaluation.device)
            objects = cast(Tensor, image.objects).to(evaluation.device)
            changed = blend(pixels, objects, checkerboard(pixels, self.cell))
            self.maps.keep_picture(image, "background replaced", "checkerboard", changed[0])
            for name, value in self._of_classifier(evaluation, image, pixels, changed, objects).items():
                yield Row(image.key, CLASSIFIER, f"checkerboard_{name}", 0.0, value)
            unchanged = {name: explain(explainer, image, pixels) for name, explainer in explainers.items()}
            for explainer_name, explainer in explainers.items():
                before, after = unchanged[explainer_name], explain(explainer, image, changed)
                for label, saliency, shown in (("before", before, pixels), ("after", after, changed)):
                    self.maps.keep(image, explainer_name, label, saliency, shown)
                for name, value in _moves(before, after, objects).items():
                    yield Row(image.key, explainer_name, f"checkerboard_{name}", 0.0, value)

    def _of_classifier(
        self, evaluation: ExplainerEvaluation, image: StudyImage, pixels: Tensor, changed: Tensor, objects: Tensor
    ) -> dict[str, float]:
        with torch.no_grad():
            best = int(evaluation.classifier(changed).argmax(dim=1))
        before, after = (probability(evaluation.classifier, image, shown) for shown in (pixels, changed))
        values = (before, after, float(best == int(image.target)), 1 - float(objects.mean()))
        return dict(zip(OF_CLASSIFIER, values, strict=True))


def _moves(before: Tensor, after: Tensor, objects: Tensor) -> dict[str, float]:
    """Compare the maps of one image before and after its background was replaced."""

    def on_object(saliency: Tensor, reference: Tensor) -> Tensor:
        return inside(spearman, saliency, reference, objects)

    shares = [
        compared(lambda one, _: background_share(one, objects), saliency, saliency) for saliency in (before, after)
    ]
    values = (
        compared(on_object, after, before),
        compared(on_object, after.abs(), before.abs()),
        *shares,
        shares[1] - shares[0],
    )
    return dict(zip(OF_EXPLAINERS, values, strict=True))
