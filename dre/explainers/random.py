"""Reference explainers that ignore the classifier: random noise, a centred Gaussian and an edge detector."""

import torch
import torch.nn.functional as F
from torch import Tensor

from dre.explainers.base import Explainer
from dre.models import Classifier
from dre.types import ScoreName


class Random(Explainer):
    """Draw uniform noise in [0, 1] for each image, seeded by its key; no pass.

    Args:
        classifier: Not used.
        score: Not used.
        seed: Of the draws.

    Raises:
        ValueError: `seed` is negative.

    Source: our choice.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from dre.models import Classifier
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
        >>> classifier = Classifier.wrap(network, size=(8, 8))
        >>> images, targets = torch.rand(1, 3, 8, 8), torch.tensor([1])
        >>> Random(classifier)(images, targets).shape
        torch.Size([1, 1, 8, 8])
    """

    asks_outputs_alone = True

    def __init__(self, classifier: Classifier, *, score: ScoreName = "probability", seed: int = 0) -> None:
        super().__init__(classifier, score=score)
        self.seed = seed

    def explain(self, images: Tensor, targets: Tensor) -> Tensor:
        """See `Explainer.forward`."""
        shape = (1, *images.shape[-2:])
        draws = [torch.rand(shape, generator=generator) for generator in self.generators(images, self.seed)]
        return torch.stack(draws).to(images.device)


class CentredGaussian(Explainer):
    """Return a Gaussian in the middle of the image, 1 at its top; no pass. Photographers centre their objects.

    Args:
        classifier: Not used.
        score: Not used.
        width: Standard deviation as a share of each side.

    Raises:
        ValueError: `width` is not positive.

    Source: our choice.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from dre.models import Classifier
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
        >>> classifier = Classifier.wrap(network, size=(8, 8))
        >>> images, targets = torch.rand(1, 3, 8, 8), torch.tensor([1])
        >>> CentredGaussian(classifier)(images, targets).shape
        torch.Size([1, 1, 8, 8])
    """

    asks_outputs_alone = True

    def __init__(self, classifier: Classifier, *, score: ScoreName = "probability", width: float = 0.25) -> None:
        super().__init__(classifier, score=score)
        if width <= 0:
            raise ValueError(f"`width` must be positive, got {width}")
        self.width = width

    def explain(self, images: Tensor, targets: Tensor) -> Tensor:
        """See `Explainer.forward`."""
        bumps = []
        for side in images.shape[-2:]:
            places = (torch.arange(side, device=images.device) + 0.5) / side - 0.5
            bumps.append(torch.exp(-0.5 * (places / self.width) ** 2))
        bump = bumps[0][:, None] * bumps[1][None, :]
        return bump.expand(len(images), 1, -1, -1)


class EdgeDetector(Explainer):
    """Compute the magnitude of the Sobel gradient of the mean channel, in brightness per pixel; no pass.

    A map that resembles it may show the image rather than the classifier (Adebayo et al. 2018). The pixels at the
    border are repeated beyond it, so a frame is no edge.

    Args:
        classifier: Not used.
        score: Not used.

    Source: Adebayo et al. 2018, who compare maps with those of an edge detector; the Sobel filter is our choice.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from dre.models import Classifier
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
        >>> classifier = Classifier.wrap(network, size=(8, 8))
        >>> images, targets = torch.rand(1, 3, 8, 8), torch.tensor([1])
        >>> EdgeDetector(classifier)(images, targets).shape
        torch.Size([1, 1, 8, 8])
    """

    asks_outputs_alone = True

    def __init__(self, classifier: Classifier, *, score: ScoreName = "probability") -> None:
        super().__init__(classifier, score=score)

    def explain(self, images: Tensor, targets: Tensor) -> Tensor:
        """See `Explainer.forward`."""
        grey = F.pad(images.mean(dim=1, keepdim=True), (1, 1, 1, 1), mode="replicate")
        across = grey[..., 2:] - grey[..., :-2]
        down = grey[..., 2:, :] - grey[..., :-2, :]
        across = (across[..., :-2, :] + 2 * across[..., 1:-1, :] + across[..., 2:, :]) / 8
        down = (down[..., :-2] + 2 * down[..., 1:-1] + down[..., 2:]) / 8
        return torch.hypot(across, down)
