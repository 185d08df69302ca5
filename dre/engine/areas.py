"""Masks of a random area, which training can show: keep a random share of the highest places of each map."""

import torch
from torch import Tensor

from dre.models.generator import standardise

AREA_RANGE = (0.03, 0.98)
"""Smallest and largest share of kept places that `random_shares` draws: those of M_F."""


def random_shares(raw: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw for each map of [B, 1, h, w] the share of places to keep, uniform over the shares that M_F asks for: [B]."""
    low, high = AREA_RANGE
    return low + (high - low) * torch.rand(len(raw), device=raw.device, generator=generator)


def stratified_shares(rounds: int, areas: int, generator: torch.Generator | None = None) -> Tensor:
    """Draw shares of places to keep, one from each of as many equal parts of `AREA_RANGE` as there are areas.

    Args:
        rounds: How often to draw all areas.
        areas: Shares of each round.
        generator: Source of randomness, on the CPU.

    Returns:
        [rounds, areas], each row ascending.

    Source: our choice. A few shares cover the range that M_F asks for more evenly than independent ones.

    Example:
        >>> shares = stratified_shares(5, 2, torch.Generator().manual_seed(0))
        >>> shares.shape, bool((shares[:, 0] < 0.505).all()), bool((shares[:, 1] >= 0.505).all())
        (torch.Size([5, 2]), True, True)
    """
    low, high = AREA_RANGE
    return low + (high - low) * (torch.arange(areas) + torch.rand(rounds, areas, generator=generator)) / areas


def mask_of_area(raw: Tensor, shares: Tensor, softness: float) -> Tensor:
    """Keep about the given share of each map's highest places, with a soft edge: [B, 1, h, w] in (0, 1).

    Args:
        raw: Scores before the controller, [B, 1, h, w].
        shares: [B] in (0, 1), of the places kept.
        softness: Width of the edge in standard deviations of the map; the ranking learns from the places there.

    Source: our choice. M_F scores the image at every share of kept pixels; the fixed distribution of the controller's
    masks trains only one of them.
    """
    standard = standardise(raw)
    ranked = standard.detach().flatten(1).sort(dim=1).values
    places = ((1 - shares) * ranked.shape[1]).long().clamp_max(ranked.shape[1] - 1)
    threshold = ranked.gather(1, places[:, None]).view(-1, 1, 1, 1)
    return ((standard - threshold) / softness).sigmoid()
