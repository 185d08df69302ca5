"""The skew controller of DRE: it bends the scores of each map towards a right-skewed distribution."""

import torch.nn.functional as F
from torch import Tensor, nn

SMALLEST_SIGMOID = 1e-6
"""Lower bound of the sigmoid: below it, the gradient of the power for h < 1 would grow without bound."""


class SkewController(nn.Module):
    """Standardise each map, then take sigmoid(eta * y) ** h: monotone, and right-skewed for h > 1.

    Args:
        eta: Slope; 1.5 brings a normal input close to uniform before the power.
        h: Exponent; 2.5 leaves a clear tail towards 1, values below 1 give left-skewed maps.
        monotone: Off, standardised scores are squared, and standardised again, before the sigmoid: the lowest ones
            come out as high as the highest. For the ablation of Fu et al. 2021, figure 4, alone.

    Raises:
        ValueError: `eta` or `h` is not positive.

    Source: Fu et al. 2021, Eq. 5 to 7; that the square is taken of standardised scores is our choice.

    Example:
        >>> import torch
        >>> SkewController()(torch.tensor([[[[-1.0, 0.0, 1.0]]]]))
        tensor([[[[0.0070, 0.1768, 0.6911]]]])
    """

    def __init__(self, eta: float = 1.5, h: float = 2.5, monotone: bool = True) -> None:
        super().__init__()
        if eta <= 0 or h <= 0:
            raise ValueError(f"`eta` and `h` must be positive so that the controller is monotone, got {eta} and {h}")
        self.eta, self.h, self.monotone = eta, h, monotone

    def forward(self, scores: Tensor) -> Tensor:
        """Map raw scores [B, 1, H, W] to (0, 1), image by image; a constant map becomes 0.5 ** h everywhere."""
        standardised = F.instance_norm(scores, eps=1e-5)
        if not self.monotone:
            standardised = F.instance_norm(standardised.square(), eps=1e-5)
        return (self.eta * standardised).sigmoid().clamp_min(SMALLEST_SIGMOID) ** self.h
