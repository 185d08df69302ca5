"""DRE's controller on the maps of any explainer."""

from collections.abc import Callable

import torch
from torch import Tensor

from dre.explainers.base import Explainer, maps_below
from dre.models import Classifier, SkewController


class ControlledExplainer(Explainer):
    """Apply DRE's controller to the maps of any explainer; it costs what that explainer costs.

    The order of the pixels stays, except for values so far from the mean that rounding makes them equal; the
    distribution becomes right-skewed. Maps lie in (0, 1). A constant map stays constant.

    Args:
        classifier: What is explained.
        explainer: Builds the explainer whose maps are controlled.
        eta: Slope of the controller.
        h: Exponent of the controller; above 1 for right-skewed maps.

    Raises:
        ValueError: `eta` or `h` is not positive.
        UnsupportedError: The explainer does not work for the classifier.

    Source: Fu et al. 2021, Eq. 5 to 7.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from dre.explainers import VanillaGradient
        >>> from dre.models import Classifier
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
        >>> classifier = Classifier.wrap(network, size=(8, 8))
        >>> images, targets = torch.rand(1, 3, 8, 8), torch.tensor([1])
        >>> ControlledExplainer(classifier, VanillaGradient)(images, targets).shape
        torch.Size([1, 1, 8, 8])
    """

    def __init__(
        self, classifier: Classifier, explainer: Callable[[Classifier], Explainer], *, eta: float = 1.5, h: float = 2.5
    ) -> None:
        controlled = explainer(classifier)
        super().__init__(classifier, score=controlled.score)
        self.explainer = controlled
        self.controller = SkewController(eta, h)
        self.cost = controlled.cost

    def explain(self, images: Tensor, targets: Tensor) -> Tensor:
        """See `Explainer.forward`."""
        saliency = maps_below(self.explainer, images, targets, self.keys).double()
        spread, mean = torch.std_mean(saliency, dim=(1, 2, 3), keepdim=True, correction=0)
        standard = (saliency - mean) / spread.where(spread > 0, 1.0)  # first: the controller adds to the variance
        controlled: Tensor = self.controller(standard)
        return controlled
