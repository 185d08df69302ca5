"""Input similarity: correlation, SSIM and other similarities between a saliency map and its own image."""

from typing import Literal, get_args

from torch import Tensor

from dre.checks import check_saliency
from dre.metrics.base import ImageMean
from dre.metrics.similarity import reverse_squared_error, spearman, structural_similarity, weighted_jaccard

Measure = Literal["spearman", "weighted_jaccard", "structural_similarity", "reverse_squared_error"]
MEASURES = {
    "spearman": spearman,
    "weighted_jaccard": weighted_jaccard,
    "structural_similarity": structural_similarity,
    "reverse_squared_error": reverse_squared_error,
}


class InputSimilarity(ImageMean):
    """Compute the mean over images of the similarity between a map and its image, both scaled to [0, 1]: at most 1.

    The channels of an image are averaged. Images for which the measure is not defined, such as a correlation with a
    constant map, are left out and counted in `dropped`. An edge detector does well by it: it describes a map and says
    nothing about the classifier.

    Args:
        measure: Name of the similarity, a function of this package; the image is the reference.

    Raises:
        ValueError: `measure` is not one of these names.

    Source: Rahman et al. 2022, Table 1, on MNIST.

    Example:
        >>> import torch
        >>> metric = InputSimilarity()
        >>> metric.update(torch.tensor([[[[0.0, 1.0, 2.0]]]]), torch.tensor([[[[0.1, 0.5, 0.9]]]]))
        >>> metric.compute()
        tensor(1., dtype=torch.float64)
    """

    higher_is_better = True

    def __init__(self, measure: Measure = "spearman") -> None:
        super().__init__()
        if measure not in get_args(Measure):
            raise ValueError(f"no measure {measure!r} of similarity; choose {', '.join(get_args(Measure))}")
        self.measure = measure

    def update(self, saliency: Tensor, images: Tensor) -> None:
        """Add a batch of maps [B, 1, H, W] and their images [B, C, H, W].

        Raises:
            ValueError: The maps are broken, or the images are of another number or size.
        """
        check_saliency(saliency)
        if images.shape[0] != saliency.shape[0] or images.shape[2:] != saliency.shape[2:]:
            raise ValueError(
                f"`images` must be {len(saliency)} of {list(saliency.shape[2:])} pixels to match `saliency`, "
                f"got {list(images.shape)}"
            )
        values = MEASURES[self.measure](saliency, images.mean(dim=1, keepdim=True))
        self.accumulate(values, keep=~values.isnan())
