"""Random counts of smooth maps and random mixtures for tests."""

import torch
from scipy import ndimage

from dre.mixtures import Mixtures, quantise


def counts(batch=3, height=14, width=9, seed=0, power=1.0, bins=10):
    """Counts [B, H * W] of smooth random maps; a higher power leaves fewer pixels."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(batch, height, width, generator=generator, dtype=torch.float64).numpy()
    maps = torch.from_numpy(ndimage.gaussian_filter(noise, (0, height / 10, width / 10)))
    low, high = maps.amin(dim=(1, 2), keepdim=True), maps.amax(dim=(1, 2), keepdim=True)
    return quantise(((maps - low) / (high - low)) ** power, bins).flatten(1)


def mixtures(batch=4, components=5, seed=0, narrow=0.0):
    """Random mixtures; `narrow` draws each covariance's scale down to ten to that power."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    factors = draw(batch, components, 2, 2) * 10 ** (draw(batch, components, 1, 1).abs().clamp(max=1) * narrow / 2)
    covariances = factors @ factors.mT + 1e-6 * torch.eye(2, dtype=torch.float64)
    return Mixtures(draw(batch, components).softmax(dim=1), draw(batch, components, 2), covariances)
