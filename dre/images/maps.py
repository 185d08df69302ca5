"""Maps [B, 1, H, W]: resize them, and scale them to [0, 1] by their own range."""

import torch
import torch.nn.functional as F
from torch import Tensor


def upsample(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize a map to (height, width) bilinearly, corners not aligned."""
    if tuple(mask.shape[-2:]) == tuple(size):
        return mask
    return F.interpolate(mask, size=tuple(size), mode="bilinear", align_corners=False)


def min_max(saliency: Tensor) -> Tensor:
    """Scale each map to [0, 1]; a constant map becomes all zero."""
    low = saliency.amin(dim=(1, 2, 3), keepdim=True)
    spread = saliency.amax(dim=(1, 2, 3), keepdim=True) - low
    return torch.where(spread > 0, (saliency - low) / spread.where(spread > 0, 1.0), 0.0)
