"""Other implementations of explainers for comparison: captum, zennit, `saliency`, pytorch-grad-cam and plain loops.

Each function builds a call that explains a batch as a user of that library would, or raises ImportError where the
library is not installed. All get the same images, targets and counts as ours.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dre.engine.scoring import score
from dre.explainers import Explainer, Zennit
from dre.explainers.cam import feature_map
from dre.explainers.perturbation.cell_masks import CellMasks
from dre.explainers.perturbation.extremal import AREA_WEIGHT_GROWTH, DAMPENING, FIRST_AREA_WEIGHT, MOMENTUM
from dre.explainers.perturbation.smooth_max import COLDNESS, SmoothMax, bump_heights
from dre.images.blur import gaussian_blur
from dre.models import Classifier
from dre.types import ScoreName

Peer = Callable[[Classifier, Tensor, Tensor], Callable[[], object]]


def captum_integrated_gradients(steps: int, together: int) -> Peer:
    """Captum's, with `together` rows in a pass: its loop cuts the expanded batch into such parts."""

    def peer(classifier: Classifier, images: Tensor, targets: Tensor) -> Callable[[], object]:
        from captum.attr import IntegratedGradients

        explainer = IntegratedGradients(lambda pixels: classifier(pixels).softmax(1))
        return lambda: explainer.attribute(images, target=targets, n_steps=steps, internal_batch_size=together)

    return peer


def captum_smooth_grad(samples: int, together: int) -> Peer:
    """Captum's noise tunnel over its saliency."""

    def peer(classifier: Classifier, images: Tensor, targets: Tensor) -> Callable[[], object]:
        from captum.attr import NoiseTunnel, Saliency

        explainer = NoiseTunnel(Saliency(lambda pixels: classifier(pixels).softmax(1)))
        return lambda: explainer.attribute(
            images,
            target=targets,
            nt_samples=samples,
            nt_samples_batch_size=max(1, together // len(images)),
            stdevs=0.15,
        )

    return peer


def captum_deep_lift(classifier: Classifier, images: Tensor, targets: Tensor) -> Callable[[], object]:
    """Captum's rescale rule from a black baseline; it needs networks without reused or functional activations."""
    from captum.attr import DeepLift

    explainer = DeepLift(classifier)
    return lambda: explainer.attribute(images.clone(), torch.zeros_like(images), target=targets)


def zennit_composite(classifier: Classifier, images: Tensor, targets: Tensor) -> Callable[[], object]:
    """Zennit's gamma rule in convolutions, epsilon rule in linear layers and z-box at the pixels, as our LRP has."""
    import zennit.composites  # noqa: F401  # so that its absence is an ImportError

    explainer = Zennit(classifier, "EpsilonGammaBox")
    return lambda: explainer(images, targets)


def saliency_blur_ig(steps: int) -> Peer:
    """Run the package's BlurIG image by image, eight steps in one call of the network."""

    def peer(classifier: Classifier, images: Tensor, targets: Tensor) -> Callable[[], object]:
        from saliency.core import BlurIG

        explainer = BlurIG()
        return _each_image(
            classifier, images, targets, lambda image, ask: explainer.GetMask(image, ask, steps=steps, batch_size=8)
        )

    return peer


def saliency_guided_ig(steps: int) -> Peer:
    """Run the package's Guided IG image by image."""

    def peer(classifier: Classifier, images: Tensor, targets: Tensor) -> Callable[[], object]:
        from saliency.core import GuidedIG

        explainer = GuidedIG()
        _repair_quantile()
        return _each_image(
            classifier,
            images,
            targets,
            lambda image, ask: explainer.GetMask(
                image, ask, x_baseline=np.zeros_like(image), x_steps=steps, fraction=0.5, max_dist=1.0
            ),
        )

    return peer


def plain_rise(masks: int, together: int) -> Peer:
    """TorchRay's loop, which does not import on today's packages: masks built and shown one part at a time."""

    def peer(classifier: Classifier, images: Tensor, targets: Tensor) -> Callable[[], object]:
        size = (images.shape[-2], images.shape[-1])

        @torch.no_grad()
        def explain() -> Tensor:
            total = torch.zeros(len(images), 1, *size, device=images.device)
            drawn = CellMasks.draw(masks, 7, 0.5, size, 0, like=images)
            for row, target in enumerate(targets.tolist()):
                for start in range(0, masks, together):
                    part = drawn.build(slice(start, min(start + together, masks)))
                    scores = classifier(images[row : row + 1] * part).softmax(1)[:, target]
                    total[row, 0] += (scores[:, None, None] * part[:, 0]).sum(0)
            return total / masks / 0.5

        return explain

    return peer


def grad_cam(name: str) -> Peer:
    """Run `GradCAM` or `GradCAMPlusPlus` of pytorch-grad-cam on the whole batch at once."""

    def peer(classifier: Classifier, images: Tensor, targets: Tensor) -> Callable[[], object]:
        import pytorch_grad_cam
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

        layer = classifier.network.get_submodule(feature_map(classifier, name).module)
        asked = [ClassifierOutputTarget(target) for target in targets.tolist()]

        def explain() -> np.ndarray:
            with getattr(pytorch_grad_cam, name)(classifier, [layer]) as explainer:
                maps: np.ndarray = explainer(images.clone().requires_grad_(), asked)
            return maps

        return explain

    return peer


def plain_extremal(iterations: int, area: float = 0.1) -> Peer:
    """TorchRay's loop, one image after the other: neighbourhoods laid out in memory, everything by autograd."""

    def peer(classifier: Classifier, images: Tensor, targets: Tensor) -> Callable[[], object]:
        def explain() -> Tensor:
            pairs = zip(torch.split(images, 1), torch.split(targets, 1), strict=True)
            return torch.cat([_extremal_mask(classifier, *pair, iterations, area) for pair in pairs])

        return explain

    return peer


def _extremal_mask(classifier: Classifier, image: Tensor, target: Tensor, iterations: int, area: float) -> Tensor:
    """Mask [1, 1, H, W] of one image."""
    shape = SmoothMax((image.shape[-2], image.shape[-1]))
    bumps = bump_heights(shape, image.dtype, image.device)
    values = torch.ones(1, 1, *shape.grid, requires_grad=True)
    pyramid = torch.stack([gaussian_blur(image, 20.0 * (1 - level / 7)) for level in range(8)], dim=1)
    optimiser = torch.optim.SGD([values], lr=0.01, momentum=MOMENTUM, dampening=DAMPENING)
    wanted = None
    for step in range(iterations):
        masks = _plain_masks(shape, bumps, values)
        mask = shape.crop(masks)
        depth = mask * 7
        level = depth.detach().floor().clamp(0, 6).long()[:, None].expand(-1, -1, image.shape[1], -1, -1)
        below, above = pyramid.gather(1, level)[:, 0], pyramid.gather(1, level + 1)[:, 0]
        shown = torch.lerp(below, above, depth - level[:, 0, :1])
        reward = score(classifier(shown.flip(3) if step % 2 == 0 else shown), target, "logit").sum()
        ordered = masks.flatten().sort().values
        if wanted is None:
            wanted = (torch.arange(len(ordered)) >= round((1 - area) * len(ordered))).to(ordered)
        distance = (ordered - wanted).square().mean()
        optimiser.zero_grad()
        loss = FIRST_AREA_WEIGHT * AREA_WEIGHT_GROWTH**step * distance - reward
        torch.autograd.backward(loss)
        optimiser.step()
        values.data.clamp_(0, 1)
    return shape.crop(_plain_masks(shape, bumps, values.detach()))


def _plain_masks(shape: SmoothMax, bumps: Tensor, values: Tensor) -> Tensor:
    """Masks with their margin, [1, 1, H', W'], from all neighbourhoods at once."""
    padded = torch.nn.functional.pad(values, (shape.padding,) * 4)
    raised = torch.nn.functional.unfold(padded, 2 * shape.radius + 1)[:, :, None] * bumps[None, :, :, None]
    highest = (raised * torch.softmax(COLDNESS * raised, dim=1)).sum(1)
    down, right = shape.cells
    masks = highest.view(1, shape.step, shape.step, down, right).permute(0, 3, 1, 4, 2)
    masks = masks.reshape(1, 1, down * shape.step, right * shape.step)
    return masks[..., : (down - 1) * shape.step + 1, : (right - 1) * shape.step + 1]


def own(build: Callable[[Classifier], Explainer]) -> Peer:
    """Another explainer of ours."""

    def peer(classifier: Classifier, images: Tensor, targets: Tensor) -> Callable[[], object]:
        explainer = build(classifier)
        return lambda: explainer(images, targets)

    return peer


def _each_image(
    classifier: Classifier, images: Tensor, targets: Tensor, explain: Callable[..., np.ndarray]
) -> Callable[[], object]:
    arrays = images.permute(0, 2, 3, 1).contiguous().cpu().numpy()

    def run() -> np.ndarray:
        asked = (_gradients(classifier, target, "probability") for target in targets.tolist())
        return np.stack([explain(array, ask) for array, ask in zip(arrays, asked, strict=True)])

    return run


def _gradients(classifier: Classifier, target: int, name: ScoreName) -> Callable[..., dict[str, np.ndarray]]:
    """Build what the package calls: images [B, H, W, C] to their gradients."""

    def gradients(
        images: np.ndarray, call_model_args: object = None, expected_keys: object = None
    ) -> dict[str, np.ndarray]:
        from saliency.core import INPUT_OUTPUT_GRADIENTS

        pixels = torch.as_tensor(np.asarray(images)).to(classifier.mean.device).float().permute(0, 3, 1, 2)
        pixels.requires_grad_()
        asked = torch.full((len(pixels),), target, device=pixels.device)
        value = score(classifier(pixels), asked, name).sum()
        (gradient,) = torch.autograd.grad(value, pixels)
        return {INPUT_OUTPUT_GRADIENTS: gradient.permute(0, 2, 3, 1).cpu().numpy()}

    return gradients


@functools.cache
def _repair_quantile() -> None:
    """Give numpy's quantile the argument name back that the package's last release uses."""
    quantile = np.quantile

    def old_quantile(values: Any, q: Any, interpolation: Any = "linear", **options: Any) -> Any:
        return quantile(values, q, method=interpolation, **options)

    np.quantile = functools.wraps(quantile)(old_quantile)  # type: ignore[assignment]
