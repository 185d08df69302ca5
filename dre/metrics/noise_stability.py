"""Max-sensitivity, local Lipschitz estimate, relative input and output stability of maps under a little noise.

All compare the map of an image with those of noisy copies of it, `dre.images.randomness.noisy_copies`, and take the
largest value. Where a value is not defined it is NaN: a map that is zero or not finite, or no copy that counts.
"""

import torch
from torch import Tensor
from torch.linalg import vector_norm

SMALLEST = 1e-6
"""Magnitudes below this share of the largest divide nothing, and no distance that divides is smaller than this."""


def max_sensitivity(saliency: Tensor, noisy: Tensor) -> Tensor:
    """Return the largest change of a map under noise, as a share of its norm: float64 [B], at least 0.

    0 for maps that are equal; lower is steadier. It does not depend on the unit of the map. NaN for a map of zeros.

    Args:
        saliency: [B, 1, H, W], maps of the images.
        noisy: [B, D, 1, H, W], maps of D noisy copies of each image, for the same target.

    Raises:
        ValueError: The shapes do not belong together.

    Source: Yeh et al. 2019 (max-sensitivity), relative to the norm of the map as in captum's `sensitivity_max`.

    Example:
        >>> import torch
        >>> max_sensitivity(torch.tensor([[[[3.0, 4.0]]]]), torch.tensor([[[[[3.0, 3.0]]], [[[3.0, 6.0]]]]]))
        tensor([0.4000], dtype=torch.float64)
    """
    check_copies("saliency", saliency, "noisy", noisy)
    size: Tensor = vector_norm(saliency.double().flatten(1), dim=1)
    return largest(distances(saliency, noisy)) / size.where(size > 0, torch.nan)


def local_lipschitz(
    saliency: Tensor, noisy: Tensor, images: Tensor, noisy_images: Tensor, normalised: bool = True
) -> Tensor:
    """Return the largest distance of maps over distance of images: float64 [B], at least 0.

    Lower is steadier. NaN for a map of zeros that is normalised, and where no copy differs from its image.

    Args:
        saliency: [B, 1, H, W], maps of the images.
        noisy: [B, D, 1, H, W], maps of D noisy copies of each image, for the same target.
        images: [B, C, H, W].
        noisy_images: [B, D, C, H, W].
        normalised: Divide each map by its largest magnitude first, so that maps of different units compare; as they
            are otherwise.

    Raises:
        ValueError: The shapes do not belong together.

    Source: Alvarez-Melis and Jaakkola 2018, the local Lipschitz estimate on a sample; normalised as Quantus does.

    Example:
        >>> import torch
        >>> images, copies = torch.zeros(1, 1, 1, 2), torch.tensor([[[[[0.0, 0.1]]]]])
        >>> local_lipschitz(torch.tensor([[[[0.0, 4.0]]]]), torch.tensor([[[[[2.0, 4.0]]]]]), images, copies)
        tensor([5.0000], dtype=torch.float64)
    """
    check_copies("saliency", saliency, "noisy", noisy)
    check_copies("images", images, "noisy_images", noisy_images)
    check_draws(noisy, noisy_images=noisy_images)
    one, others = saliency.double(), noisy.double()
    if normalised:
        top = one.abs().amax(dim=(1, 2, 3), keepdim=True)
        tops = others.abs().amax(dim=(2, 3, 4), keepdim=True)
        one, others = one / top.where(top > 0, torch.nan), others / tops.where(tops != 0, 1.0)
    moved = distances(images, noisy_images)
    return largest(distances(one, others) / moved.where(moved > 0, torch.nan), moved > 0)


def relative_input_stability(
    saliency: Tensor, noisy: Tensor, images: Tensor, noisy_images: Tensor, counts: Tensor | None = None
) -> Tensor:
    """Return the largest relative change of a map over the relative change of the image: float64 [B], at least 0.

    |(e - e') / e| / max(|(x - x') / x|, 1e-6), with Euclidean norms over pixels. Lower is steadier. It does not depend
    on the unit of the map. Entries of e and x below 1e-6 of the largest magnitude are left out of their norms (see
    `negligible`); those just above may decide the value. NaN for a map or an image of zeros, and where no copy counts.

    Args:
        saliency: [B, 1, H, W], maps of the images.
        noisy: [B, D, 1, H, W], maps of D noisy copies of each image, for the same target.
        images: [B, C, H, W].
        noisy_images: [B, D, C, H, W].
        counts: Bool [B, D], copies with the prediction of their image; all when not given.

    Raises:
        ValueError: The shapes do not belong together.

    Source: Agarwal et al. 2022 (RIS). They, and Quantus, divide by every entry but zeros.

    Example:
        >>> import torch
        >>> images, copies = torch.full((1, 1, 1, 2), 0.5), torch.tensor([[[[[0.5, 0.6]]]]])
        >>> saliency, noisy = torch.tensor([[[[0.0, 4.0]]]]), torch.tensor([[[[[9.0, 2.0]]]]])
        >>> relative_input_stability(saliency, noisy, images, copies).round(decimals=4)
        tensor([2.5000], dtype=torch.float64)
    """
    check_copies("saliency", saliency, "noisy", noisy)
    check_copies("images", images, "noisy_images", noisy_images)
    check_draws(noisy, noisy_images=noisy_images, counts=counts)
    moved = relative_changes(images, noisy_images).clamp_min(SMALLEST)
    return largest(relative_changes(saliency, noisy) / moved, counts)


def relative_output_stability(
    saliency: Tensor, noisy: Tensor, logits: Tensor, noisy_logits: Tensor, counts: Tensor | None = None
) -> Tensor:
    """Return the largest relative change of a map over the distance of the logits: float64 [B], at least 0.

    |(e - e') / e| / max(|h(x) - h(x')|, 1e-6). Lower is steadier. Everything else is as in `relative_input_stability`.

    Args:
        saliency: [B, 1, H, W], maps of the images.
        noisy: [B, D, 1, H, W], maps of D noisy copies of each image, for the same target.
        logits: [B, K].
        noisy_logits: [B, D, K].
        counts: Bool [B, D], copies with the prediction of their image; all when not given.

    Raises:
        ValueError: The shapes do not belong together.

    Source: Agarwal et al. 2022 (ROS), see `relative_input_stability`.

    Example:
        >>> import torch
        >>> logits, others = torch.tensor([[1.0, 0.0]]), torch.tensor([[[1.0, 0.25]]])
        >>> saliency, noisy = torch.tensor([[[[0.0, 4.0]]]]), torch.tensor([[[[[9.0, 2.0]]]]])
        >>> relative_output_stability(saliency, noisy, logits, others)
        tensor([2.], dtype=torch.float64)
    """
    check_copies("saliency", saliency, "noisy", noisy)
    check_copies("logits", logits, "noisy_logits", noisy_logits)
    check_draws(noisy, noisy_logits=noisy_logits, counts=counts)
    return largest(relative_changes(saliency, noisy) / distances(logits, noisy_logits).clamp_min(SMALLEST), counts)


def negligible(values: Tensor) -> Tensor:
    """Return where relative changes leave a map or an image out: bool, [B, ...] as given.

    Example:
        >>> import torch
        >>> negligible(torch.tensor([[0.0, 1e-7, 1e-5, -1.0]]))
        tensor([[ True,  True, False, False]])
    """
    sizes = values.double().abs()
    top = sizes.flatten(1).amax(dim=1).view(-1, *[1] * (values.ndim - 1))
    return (sizes < SMALLEST * top) | (sizes == 0)


def relative_changes(values: Tensor, noisy: Tensor) -> Tensor:
    """Return the norm of (v - v') / v over what is not negligible: float64 [B, D]; NaN where all of it is."""
    kept = ~negligible(values).flatten(1)[:, None]
    one, others = values.double().flatten(1)[:, None], noisy.double().flatten(2)
    quotients = ((one - others) / one.where(kept, 1.0)).where(kept, 0.0)
    is_known = kept.any(dim=2) & others.isfinite().all(dim=2)
    changes: Tensor = vector_norm(quotients, dim=2).where(is_known, torch.nan)
    return changes


def distances(values: Tensor, noisy: Tensor) -> Tensor:
    """Return the Euclidean distance of each copy, float64 [B, D]."""
    found: Tensor = vector_norm(noisy.double().flatten(2) - values.double().flatten(1)[:, None], dim=2)
    return found


def largest(values: Tensor, counts: Tensor | None = None) -> Tensor:
    """Return the largest value of the copies that count, [B]; NaN where one of them is NaN, or none counts."""
    top = (values if counts is None else values.where(counts, -torch.inf)).amax(dim=1)
    return top.where(top > -torch.inf, torch.nan)


def check_copies(name: str, values: Tensor, noisy_name: str, noisy: Tensor) -> None:
    """Check that noisy copies [B, D, ...] belong to what they are copies of, [B, ...].

    Raises:
        ValueError: The shapes do not fit, or there is no copy.
    """
    if noisy.ndim != values.ndim + 1 or noisy.shape[2:] != values.shape[1:] or len(noisy) != len(values):
        shown = [len(values), "D", *values.shape[1:]]
        raise ValueError(
            f"`{noisy_name}` must be [{', '.join(map(str, shown))}], D noisy copies of each of `{name}`, "
            f"got {list(noisy.shape)}"
        )
    if not noisy.shape[1]:
        raise ValueError(f"`{noisy_name}` holds no copy, {list(noisy.shape)}; draw at least one")


def check_draws(noisy: Tensor, **others: Tensor | None) -> None:
    """Check that there are as many copies of one thing as of another: the first two axes are B and D.

    Raises:
        ValueError: The numbers of images or of copies differ.
    """
    for name, other in others.items():
        if other is not None and other.shape[:2] != noisy.shape[:2]:
            raise ValueError(
                f"`{name}` must begin with {list(noisy.shape[:2])}, as `noisy` does, got {list(other.shape[:2])}"
            )
