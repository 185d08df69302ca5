"""Guided feature inversion: a mask made of weighted feature maps that keeps first the features, then the score."""

from collections.abc import Sequence

import torch
from torch import Tensor

from dre.checks import check_choice, check_not_negative
from dre.explainers.cam import feature_map
from dre.explainers.perturbation.optimised import OptimisedExplainer, descend
from dre.images.fill import FILLS, DrawnFill, FillDraws, blend
from dre.images.maps import upsample
from dre.models import Classifier
from dre.renamed import accepts_old_options
from dre.types import ScoreName

FIRST_WEIGHT = 0.1
DECAY = 0.5
DECAY_EVERY = 10
"""Iterations after which the step size of Adam is halved."""


def weighted_mask(weights: Tensor, maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Return masks [N, 1, H, W] in [0, 1]: weighted sums of feature maps, enlarged and normalised.

    Each sum loses its minimum and is divided by its maximum. Where it has negative values it is divided by its range:
    the maximum alone would not keep the mask in [0, 1].

    Args:
        weights: [N, C], not negative.
        maps: [N, C, h, w].
        size: (height, width).

    Source: Du et al. 2018, Eq. 3; the normalisation is that of its published code.
    """
    with torch.autocast(weights.device.type, enabled=False):
        masks = upsample((weights[:, None] @ maps.flatten(2)).view(len(maps), 1, *maps.shape[2:]), size)
    low, high = masks.amin(dim=(1, 2, 3), keepdim=True), masks.amax(dim=(1, 2, 3), keepdim=True)
    unit = high - low.clamp_max(0)
    return (masks - low) / unit.where(unit > 0, 1.0)


@accepts_old_options
class FeatureInversion(OptimisedExplainer):
    """Weight the last feature maps into a mask that keeps what the classifier needs; 149 passes and one forward pass.

    A mask is a weighted sum of the last feature map's channels. In the first iterations Adam changes the weights so
    that the masked image keeps its features. In the others the masked image shall have a high score and what the mask
    leaves out a low one, which takes two passes an iteration. A price on the weights keeps them small. `objective` is
    that of the last kind of iterations that ran.

    Args:
        classifier: What is explained; its last feature map is used.
        score: Which output is raised and lowered.
        iterations: Steps of Adam, both kinds together.
        inversion_iterations: How many of them keep the features.
        lr: Of Adam, halved every ten iterations.
        inversion_weight: Price of the squared weights while the features are kept.
        discrimination_weight: The same, while the score is raised.
        fill: What is shown where the mask hides the image, see `dre.types.FillName`; or the `mixture` of blur and
            noise of Fu et al. 2021.
        blur_sigma: Of `blur`, in pixels.
        blur_radius: Half width of its kernel, in pixels; four standard deviations when not given.
        seed: Of the mixture.
        chunk: Most images in one pass.
        layer: Name of the layer whose features are kept, such as `layer4.2`; by default the last feature map.

    Raises:
        ValueError: `iterations` is below 1, `lr` is not positive, another number is negative, or `fill` or `layer` is
            unknown.
        UnsupportedError: The classifier has no feature map.

    Source: Du et al. 2018; the values are those of its published code.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from dre.models import Classifier
        >>> layers = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)]
        >>> classifier = Classifier.wrap(nn.Sequential(*layers), size=(16, 16))
        >>> images, targets = torch.rand(1, 3, 16, 16), torch.tensor([1])
        >>> FeatureInversion(classifier, iterations=2, inversion_iterations=1)(images, targets).shape
        torch.Size([1, 1, 16, 16])
    """

    def __init__(
        self,
        classifier: Classifier,
        *,
        score: ScoreName = "probability",
        iterations: int = 80,
        inversion_iterations: int = 11,
        lr: float = 1e-2,
        inversion_weight: float = 5.0,
        discrimination_weight: float = 2.0,
        fill: DrawnFill = "blur",
        blur_sigma: float = 11.0,
        blur_radius: int | None = None,
        seed: int = 0,
        chunk: int | None = None,
        layer: str | None = None,
    ) -> None:
        super().__init__(classifier, iterations=iterations, lr=lr, score=score, seed=seed, chunk=chunk, layer=layer)
        self.tap = None if layer is None else feature_map(classifier, type(self).__name__, layer)
        check_choice("fill", fill, FILLS)
        check_not_negative(inversion_iterations=inversion_iterations, inversion_weight=inversion_weight)
        check_not_negative(discrimination_weight=discrimination_weight, blur_sigma=blur_sigma)
        self.inversion_iterations = inversion_iterations
        self.inversion_weight, self.discrimination_weight = inversion_weight, discrimination_weight
        self.fill: DrawnFill = fill
        self.blur_sigma, self.blur_radius = blur_sigma, blur_radius

    @classmethod
    def require(cls, classifier: Classifier) -> None:
        """Refuse a classifier without a feature map."""
        feature_map(classifier, cls.__name__)

    def search(
        self, images: Tensor, targets: Tensor, columns: slice, generators: Sequence[torch.Generator]
    ) -> tuple[Tensor, Tensor]:
        """See `OptimisedExplainer.search`."""
        size, probe = (images.shape[-2], images.shape[-1]), self.probe(targets.repeat(2))
        maps = probe.feature_map(images, self.tap).to(images.dtype)
        fills = FillDraws(images, self.fill, self.classifier.mean, generators, self.blur_sigma, self.blur_radius)
        weights = torch.full(maps.shape[:2], FIRST_WEIGHT, dtype=maps.dtype, device=maps.device, requires_grad=True)

        def invert(_: int) -> Tensor:
            shown = blend(images, weighted_mask(weights, maps, size), fills.draw())
            distances = self.attach(shown, *probe.feature_distance(shown.detach(), maps, self.tap))
            return distances + self.inversion_weight * weights.square().sum(1)

        def discriminate(_: int) -> Tensor:
            mask, hidden = weighted_mask(weights, maps, size), fills.draw()
            shown = torch.cat([blend(images, mask, hidden), blend(hidden, mask, images)])
            kept, left = self.attach(shown, *probe.gradient(shown.detach())).chunk(2)
            return left - kept + self.discrimination_weight * weights.square().sum(1)

        optimiser = torch.optim.Adam([weights], lr=self.lr)
        scheduler = torch.optim.lr_scheduler.StepLR(optimiser, DECAY_EVERY, DECAY)
        first = min(self.inversion_iterations, self.iterations)
        for losses, iterations in ((invert, first), (discriminate, self.iterations - first)):
            if iterations:
                objective = descend(weights, optimiser, losses, iterations, (0.0, None), scheduler)
        return weighted_mask(weights.detach(), maps, size), objective
