"""JPEG and device stability: compare maps of an image and its JPEG copy, and maps of the CPU and the GPU."""

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import pandas as pd
import torch
from torch import Tensor

from callbacks.image_selection import StudyImage
from callbacks.studies.study import Compare, Row, Study, compared, explain
from dre.images.information import recompress
from dre.metrics import log_squared_error, scaled_squared_error, spearman
from dre.modules import ExplainerEvaluation
from dre.modules.variants import Explain

DISTANCES: dict[str, Compare] = {
    "error_sum": lambda saliency, reference: scaled_squared_error(saliency, reference, "sum"),
    "log_error_sum": lambda saliency, reference: log_squared_error(saliency, reference, "sum"),
    "log_error": log_squared_error,
    "spearman": spearman,
}
"""By the end of a quantity's name, how two maps that should be equal are compared."""


class Stability(Study):
    """Compare the maps of two conditions that should be the same; mean and median over the images."""

    @property
    @abstractmethod
    def prefix(self) -> str:
        """Begin the names of quantities."""

    @abstractmethod
    def pair(self, evaluation: ExplainerEvaluation) -> tuple[Mapping[str, Explain], Mapping[str, Explain]]:
        """Build the explainers of both conditions."""

    @abstractmethod
    def shown(self, image: StudyImage, evaluation: ExplainerEvaluation) -> tuple[Tensor, Tensor]:
        """Return what both conditions see of an image, [1, C, H, W] each."""

    def points(self, evaluation: ExplainerEvaluation) -> list[tuple[str, float]]:
        """Return each quantity with its only place, 0."""
        return [(f"{self.prefix}_{end}", 0.0) for end in DISTANCES]

    def headlines(self, quantity: str, curve: pd.DataFrame) -> dict[str, float]:
        """Return mean and median of logarithms and correlations; of an error the logarithm of the mean."""
        mean, median = float(curve["mean"].iloc[0]), float(curve["median"].iloc[0])
        if quantity == f"{self.prefix}_error_sum":
            return {"_log": -math.log10(mean) if mean > 0 else math.nan}
        return {"": mean, "_median": median}

    def is_drawn(self, quantity: str) -> bool:
        """Leave out the errors themselves, which lie decades apart."""
        return quantity != f"{self.prefix}_error_sum"

    def measure(self, evaluation: ExplainerEvaluation, images: Sequence[StudyImage]) -> Iterator[Row]:
        """Explain every image under both conditions."""
        first, second = self.pair(evaluation)
        for image in images:
            here, there = self.shown(image, evaluation)
            references = {name: explain(one, image, here).cpu() for name, one in first.items()}
            for name, explainer in second.items():
                saliency = explain(explainer, image, there).cpu()
                for end, compare in DISTANCES.items():
                    value = compared(compare, saliency, references[name])
                    yield Row(image.key, name, f"{self.prefix}_{end}", 0.0, value)


class JpegStability(Stability):
    """Compress images as JPEG once more and see how far each map moves.

    - `jpeg_error_sum`: mean squared difference, each map divided by its own signed sum first; what is logged, and what
      compares with the paper's table, is `jpeg_error_sum_log`, - log10 of its mean over the images;
    - `jpeg_log_error_sum`: - log10 of the same, image by image; a few images with a sum close to zero decide less;
    - `jpeg_log_error`: the same, divided by the sum of magnitudes;
    - `jpeg_spearman`: rank correlation of both maps.

    Higher is steadier but for the first. Equal maps have no logarithm: they are counted as `infinite`, and left out of
    mean and median. The explained class is that of the original image. The crop that the classifier sees is
    compressed, not the file.

    Args:
        images: Images to study.
        explainers: Evaluated explainers to study; all when not given.
        quality: Of the JPEG file.

    Raises:
        ValueError: `quality` is outside 1 to 95, `images` is below 1, or `explainers` empty.

    Source: Singhi and Kumari 2024, Table 5.
    """

    name = "jpeg_stability"
    prefix = "jpeg"
    directions: ClassVar[Mapping[str, bool]] = {
        "jpeg_log_error_sum": True,
        "jpeg_log_error": True,
        "jpeg_spearman": True,
    }

    def __init__(self, images: int = 16, explainers: list[str] | None = None, quality: int = 75) -> None:
        super().__init__(images, explainers)
        recompress(torch.zeros(1, 3, 8, 8), quality)  # refuses an impossible quality now
        self.quality = quality

    def pair(self, evaluation: ExplainerEvaluation) -> tuple[Mapping[str, Explain], Mapping[str, Explain]]:
        """See `Stability`."""
        explainers = evaluation.variants.explain_with(self.names(evaluation))
        return explainers, explainers

    def shown(self, image: StudyImage, evaluation: ExplainerEvaluation) -> tuple[Tensor, Tensor]:
        """See `Stability`."""
        return image.pixels.to(evaluation.device), recompress(image.pixels, self.quality).to(evaluation.device)

    def settings(self, evaluation: ExplainerEvaluation) -> dict[str, Any]:
        """See `Study`."""
        return {"quality": self.quality}


class DeviceStability(Stability):
    """Explain on the CPU and on the GPU and see how far each map moves.

    Both explain without autocast, in float32 also where the run has mixed precision: it would cover the run's own
    device alone, and the maps would differ by the precision. Where there is no GPU it says so and is left out. The
    quantities are those of `JpegStability`, named `device_...`.

    Args:
        images: Images to study.
        explainers: Evaluated explainers to study; all when not given.

    Source: Singhi and Kumari 2024, Section 4.5.2 (such maps of Guided IG).
    """

    name = "device_stability"
    prefix = "device"

    def other_device(self, device: torch.device) -> torch.device | None:
        """Return the device to compare with: the CPU for a GPU, a GPU for the CPU, None where there is no other."""
        if device.type != "cpu":
            return torch.device("cpu")
        return torch.device("cuda") if torch.cuda.is_available() else None

    def unsupported(self, evaluation: ExplainerEvaluation) -> str:
        """See `Study`."""
        return "" if self.other_device(evaluation.device) else "there is no GPU to compare the CPU with"

    def pair(self, evaluation: ExplainerEvaluation) -> tuple[Mapping[str, Explain], Mapping[str, Explain]]:
        """See `Stability`."""
        names = self.names(evaluation)
        other = evaluation.variants.on_device(self._other(evaluation))
        pair = evaluation.variants.explain_with(names), evaluation.variants.explain_with(names, other)
        here, there = ({name: in_float32(one) for name, one in explainers.items()} for explainers in pair)
        return here, there

    def shown(self, image: StudyImage, evaluation: ExplainerEvaluation) -> tuple[Tensor, Tensor]:
        """See `Stability`."""
        return image.pixels.to(evaluation.device), image.pixels.to(self._other(evaluation))

    def settings(self, evaluation: ExplainerEvaluation) -> dict[str, Any]:
        """See `Study`."""
        return {"devices": [evaluation.device.type, self._other(evaluation).type]}

    def _other(self, evaluation: ExplainerEvaluation) -> torch.device:
        other = self.other_device(evaluation.device)
        if other is None:
            raise ValueError(self.unsupported(evaluation))
        return other


def in_float32(explainer: Explain) -> Explain:
    """Explain without autocast."""

    def run(images: Tensor, targets: Tensor, keys: list[str]) -> Tensor:
        with torch.autocast(images.device.type, enabled=False):
            return explainer(images, targets, keys)

    return run
