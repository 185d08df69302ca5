"""Noise stability: compare the map of an image with those of copies under a little noise."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

import pandas as pd
import torch
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor

from callbacks.image_selection import StudyImage, gathered
from callbacks.studies.study import CLASSIFIER, Row, Study
from dre.checks import check_count, check_number
from dre.engine.cost import PASSES, Meter
from dre.images.randomness import noisy_copies
from dre.metrics import (
    local_lipschitz,
    max_sensitivity,
    relative_input_stability,
    relative_output_stability,
)
from dre.metrics.noise_stability import negligible
from dre.modules import ExplainerEvaluation
from dre.modules.variants import Explain

STABILITY = ("max_sensitivity", "local_lipschitz", "relative_input", "relative_output")
"""Ends of the names of the quantities that are drawn and logged with their median."""

SHARES = ("left_out", "same_prediction")

PART = 16
"""Copies in one pass of the classifier alone."""


class Copies(NamedTuple):
    """Hold an image and its noisy copies: pixels and logits of the image, [1, ...], and of the copies, [1, D, ...]."""

    image: Tensor
    noisy: Tensor
    logits: Tensor
    noisy_logits: Tensor

    @property
    def counts(self) -> Tensor:
        """Return which copies have the prediction of the image, bool [1, D]."""
        return self.noisy_logits.argmax(dim=2) == self.logits.argmax(dim=1)[:, None]


class NoiseStability(Study):
    """Add a little noise to images and see how far each map moves; lower is steadier.

    Four numbers from the same `draws` noisy copies of an image, each the largest over the copies, all of the class that
    is explained of the image itself:

    - `noise_max_sensitivity`: distance of the maps over the norm of the image's map;
    - `noise_local_lipschitz`: distance of the maps, divided by their largest magnitudes, over that of the images;
    - `noise_relative_input`: norm of the map's relative change over that of the image's, pixel by pixel;
    - `noise_relative_output`: the same over the distance of the logits.

    The relative ones are of the copies alone that keep the prediction, and leave out pixels that are next to nothing
    (see `dre.metrics.relative_input_stability`). Beside them, for each explainer: `noise_left_out`, the share of a
    map's pixels that they leave out, and `noise_forwards`, `noise_backwards` and `noise_head_backwards`, the passes of
    explaining the image and its copies. Of the classifier: `noise_left_out` of the image's values,
    `noise_same_prediction`, the share of the copies that keep the prediction, and `noise_forwards`. Values that are
    not defined are left out, and the file counts them by reason.

    The noise is uniform, in pixels, before the classifier's normalisation; copies are cut off at 0 and 1. It depends on
    the image's key, and explainers that draw do so alike for all copies: what moves a map is the noise alone. All
    copies of an image are explained in one batch.

    Args:
        images: Images to study.
        explainers: Evaluated explainers to study; all when not given.
        draws: Noisy copies of each image.
        radius: Most that is added to a value of the image, or taken away.
        seed: Of the noise.

    Raises:
        ValueError: `images` is below 1, `draws` outside 1 to 1000, `radius` outside (0, 1], `seed` negative, or
            `explainers` empty.
        TypeError: `draws` or `radius` is no number.

    Source: Yeh et al. 2019; Alvarez-Melis and Jaakkola 2018; Agarwal et al. 2022.
    """

    name = "noise_stability"
    directions = dict.fromkeys((f"noise_{end}" for end in STABILITY), False)

    def __init__(
        self,
        images: int = 16,
        explainers: list[str] | None = None,
        draws: int = 10,
        radius: float = 0.02,
        seed: int = 0,
    ) -> None:
        super().__init__(images, explainers)
        check_number("draws", draws, 1, 1000)
        check_number("radius", radius, 0, 1, whole=False)
        if radius == 0:
            raise ValueError("`radius` of the noise must be positive, got 0; copies without noise say nothing")
        check_count("seed", seed, 0)
        self.copies, self.radius, self.seed = draws, radius, seed
        self.reasons: Counter[tuple[str, str, str]] = Counter()

    def points(self, evaluation: ExplainerEvaluation) -> list[tuple[str, float]]:
        """Return each quantity with its only place, 0."""
        return [(f"noise_{end}", 0.0) for end in (*STABILITY, *SHARES, *PASSES)]

    def is_drawn(self, quantity: str) -> bool:
        """Leave out shares and passes."""
        return quantity.removeprefix("noise_") in STABILITY

    def headlines(self, quantity: str, curve: pd.DataFrame) -> dict[str, float]:
        """Return the mean, and of the four numbers, whose largest values lie far out, the median; passes of none."""
        if quantity.removeprefix("noise_") in PASSES:
            return {}
        found = {"": float(curve["mean"].iloc[0])}
        return found | {"_median": float(curve["median"].iloc[0])} if self.is_drawn(quantity) else found

    def settings(self, evaluation: ExplainerEvaluation) -> dict[str, Any]:
        """See `Study`."""
        return {"draws": self.copies, "radius": self.radius, "seed": self.seed}

    def measure(self, evaluation: ExplainerEvaluation, images: Sequence[StudyImage]) -> Iterator[Row]:
        """Explain every image, and all its copies in a batch."""
        self.reasons.clear()
        explainers, meters = evaluation.variants.explain_measured(self.names(evaluation))
        for image in images:
            shown = self._shown(evaluation, image)
            yield from self._of_classifier(image.key, shown)
            maps = {name: _explained(one, meters[name], image, shown.image) for name, one in explainers.items()}
            for name, one in explainers.items():
                saliency, passes = maps[name]
                noisy, more = _explained(one, meters[name], image, shown.noisy[0])
                values = self._values(name, saliency, noisy[None], shown)
                values |= {end: passes[end] + more[end] for end in PASSES}
                yield from (Row(image.key, name, f"noise_{end}", 0.0, value) for end, value in values.items())

    def remarks(self) -> dict[str, Any]:
        """Count the values that are not defined by explainer, quantity and reason, of all ranks."""
        counted = Counter(chain(*gathered(list(self.reasons.elements()))))
        rows = []
        for (explainer, quantity, reason), count in sorted(counted.items()):
            rank_zero_info(f"{self.name}: {explainer} has no {quantity} of {count} images: {reason}")
            rows.append({"explainer": explainer, "quantity": quantity, "reason": reason, "count": count})
        return {"undefined": rows}

    @torch.no_grad()
    def _shown(self, evaluation: ExplainerEvaluation, image: StudyImage) -> Copies:
        exact = image.pixels.float()  # of a run in half precision, too: it would round the noise
        noisy = noisy_copies(exact, [image.key], self.copies, self.radius, self.seed)
        pixels, copies = exact.to(evaluation.device), noisy.to(evaluation.device)
        logits = [evaluation.classifier(part).double().cpu() for part in (pixels, *torch.split(copies[0], PART))]
        return Copies(pixels, copies, logits[0], torch.cat(logits[1:])[None])

    def _of_classifier(self, key: str, shown: Copies) -> Iterator[Row]:
        values = {
            "left_out": float(negligible(shown.image).double().mean()),
            "same_prediction": float(shown.counts.double().mean()) if _is_finite(shown) else torch.nan,
            "forwards": 1.0 + self.copies,
        }
        yield from (Row(key, CLASSIFIER, f"noise_{end}", 0.0, value) for end, value in values.items())

    def _values(self, name: str, saliency: Tensor, noisy: Tensor, shown: Copies) -> dict[str, float]:
        """Return the numbers of one explainer and image, and count the reasons of those that are not defined."""
        images, copies = shown.image.cpu(), shown.noisy.cpu()
        found = {
            "max_sensitivity": max_sensitivity(saliency, noisy),
            "local_lipschitz": local_lipschitz(saliency, noisy, images, copies),
            "relative_input": relative_input_stability(saliency, noisy, images, copies, shown.counts),
            "relative_output": relative_output_stability(
                saliency, noisy, shown.logits, shown.noisy_logits, shown.counts
            ),
            "left_out": negligible(saliency).double().mean().where(saliency.isfinite().all(), torch.nan),
        }
        values = {end: float(value) for end, value in found.items()}
        if not _is_finite(shown):
            values |= {"relative_input": torch.nan, "relative_output": torch.nan}
        for end, value in values.items():
            if math.isnan(value):
                self.reasons[name, f"noise_{end}", _reason(saliency, noisy, shown)] += 1
        return values


def _is_finite(shown: Copies) -> bool:
    return bool(shown.logits.isfinite().all() and shown.noisy_logits.isfinite().all())


def _explained(explainer: Explain, meter: Meter, image: StudyImage, pixels: Tensor) -> tuple[Tensor, dict[str, float]]:
    """Explain the class of an image in a batch that all its noise belongs to; return the maps and the passes."""
    targets = image.target.to(pixels.device).expand(len(pixels))
    saliency = explainer(pixels, targets, [image.key] * len(pixels)).cpu()
    return saliency, {end: len(pixels) * getattr(meter.last, end) for end in PASSES}


def _reason(saliency: Tensor, noisy: Tensor, shown: Copies) -> str:
    """Say why a number is not defined."""
    if not saliency.isfinite().all():
        return "the map is not finite"
    if not saliency.any():
        return "the map is zero"
    if not noisy.isfinite().all():
        return "the map of a noisy copy is not finite"
    if not _is_finite(shown):
        return "a logit is not finite"
    if not shown.image.any():
        return "the image is black"
    return "no noisy copy keeps the prediction"
